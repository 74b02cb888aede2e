// Running sums of counts, for .cu files: whoever counts adds to the sum of its tile too, and then each block takes the
// tiles before its own and its own counts. All in integers, so that no order leaves a trace.
#pragma once

#include <cstdint>

#include "dynamics/cells_cuda.h"
#include "dynamics/warp_cuda.h"

namespace gm {
namespace {

constexpr int kSumThreads = 256, kSumEach = kSumTile / kSumThreads;

// The sums over a block's threads below and over all of them.
template <class T>
__device__ Prefix<T> block_prefix(T own) {
    __shared__ T warps[kSumThreads / 32];
    const int lane = threadIdx.x % 32;
    Prefix<T> p = prefix(own, lane);
    __syncthreads();
    if (lane == 0) warps[threadIdx.x / 32] = p.all;
    __syncthreads();
    p.all = T(0);
    for (int w = 0; w < kSumThreads / 32; ++w) {
        if (w < static_cast<int>(threadIdx.x / 32)) p.before += warps[w];
        p.all += warps[w];
    }
    return p;
}

// values[n + 1], a count, becomes the sum of the counts 0 to n; values[0] is 0. The last is -1 where `spoilt` says so.
// Where `wanted` says 0, nothing is done.
template <class T>
__global__ void __launch_bounds__(kSumThreads)
    running_sums(T* values, const T* tiles, int64_t count, const T* spoilt, const int32_t* wanted) {
    if (wanted != nullptr && *wanted == 0) return;
    T before = 0;
    for (int64_t t = threadIdx.x; t < blockIdx.x; t += kSumThreads) before += tiles[t];
    before = block_prefix(before).all;
    const int64_t first = static_cast<int64_t>(blockIdx.x) * kSumTile + kSumEach * threadIdx.x;
    T own[kSumEach], sum = 0;
    for (int k = 0; k < kSumEach; ++k) {
        own[k] = first + k < count ? values[first + k + 1] : 0;
        sum += own[k];
    }
    before += block_prefix(sum).before;
    for (int k = 0; k < kSumEach; ++k) {
        before += own[k];
        if (first + k < count) values[first + k + 1] = before;
    }
    if (blockIdx.x == 0 && threadIdx.x == 0) values[0] = 0;
    if (spoilt != nullptr && *spoilt != 0 && first <= count - 1 && count - 1 < first + kSumEach) values[count] = -1;
}

}  // namespace
}  // namespace gm
