// What the lanes of a warp do together, for .cu files.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace gm {
namespace {

constexpr unsigned kAllLanes = 0xFFFFFFFFu;

// The sums over the lanes below and over all lanes.
template <class T>
struct Prefix {
    T before, all;
};
template <class T>
__device__ Prefix<T> prefix(T own, int lane) {
    Prefix<T> p = {T(0), own};
    for (int half = 1; half < 32; half *= 2) {
        const T other = __shfl_xor_sync(kAllLanes, p.all, half);
        if ((lane & half) != 0) p.before += other;
        p.all += other;
    }
    return p;
}

// Appends the values of the lanes that have one, in the lanes' order, after `found` others and up to `most`; gives how
// many there would be then.
template <class T>
__device__ int64_t append(T value, bool has, T* to, int64_t found, int64_t most, int lane) {
    const unsigned with = __ballot_sync(kAllLanes, has);
    const int64_t at = found + __popc(with & ((1u << lane) - 1u));
    if (has && at < most) to[at] = value;
    return found + __popc(with);
}

// Sorts what a warp has in memory: a bitonic network whose every comparison puts the smaller first, so that what
// would fill up a power of two may be thought of as the largest and left out.
template <class T>
__device__ void sort_rising(T* values, int count, int lane) {
    for (int width = 1; count > 1 << (width - 1); ++width)  // runs of 2^width
        for (int step = width - 1; step >= 0; --step) {
            __syncwarp();
            for (int p = lane; (p >> step) << (step + 1) < count; p += 32) {
                const int begin = (p >> step) << (step + 1), in = p & ((1 << step) - 1), low = begin + in;
                const int high = step == width - 1 ? begin + (2 << step) - 1 - in : low + (1 << step);
                if (high >= count) continue;
                const T a = values[low], b = values[high];
                if (b < a) {
                    values[low] = b;
                    values[high] = a;
                }
            }
        }
    __syncwarp();
}

}  // namespace
}  // namespace gm
