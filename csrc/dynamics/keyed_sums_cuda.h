// Sums by key without atomics, for .cu files: a block's threads put entries (a key and a few values) into a tile of
// shared memory, and then each thread reads the tile in its order and takes what has its own key. So each sum has the
// order of its entries.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace gm {
namespace {

constexpr int kKeyedThreads = 256, kMostValues = 6;

struct KeyedTile {
    int64_t key[kKeyedThreads];
    double value[kMostValues][kKeyedThreads];
};

struct KeyedSums {
    KeyedTile& tile;

    // to[key * width + k] = factor(key, k) * the sum of value k of the entries with that key, for `keys` keys; `to` is
    // 0 before. entry(e, values) fills values[width] and gives the key, or -1 for nothing. With few keys, several
    // threads share one, each a fixed part of every tile.
    template <class Entry, class Factor>
    __device__ void run(int64_t entries, int64_t keys, int width, double* to, const Entry& entry,
                        const Factor& factor) {
        if (keys == 0) return;
        const int me = threadIdx.x, ways = keys < kKeyedThreads ? static_cast<int>(kKeyedThreads / keys) : 1;
        const bool few = keys <= kKeyedThreads;
        double own[kMostValues] = {};  // with few keys
        for (int64_t first = 0; first < entries; first += kKeyedThreads) {
            double values[kMostValues] = {};
            tile.key[me] = first + me < entries ? entry(first + me, values) : -1;
            for (int k = 0; k < kMostValues; ++k) tile.value[k][me] = values[k];
            __syncthreads();
            if (few) {
                for (int e = me % ways; e < kKeyedThreads; e += ways) {
                    if (tile.key[e] != me / ways) continue;
                    for (int k = 0; k < kMostValues; ++k) own[k] += tile.value[k][e];
                }
            } else {
                for (int e = 0; e < kKeyedThreads; ++e) {
                    const int64_t key = tile.key[e];
                    if (key < 0 || key % kKeyedThreads != me) continue;
                    for (int k = 0; k < width; ++k) to[key * width + k] += tile.value[k][e];
                }
            }
            __syncthreads();
        }
        if (few) {
            for (int k = 0; k < kMostValues; ++k) tile.value[k][me] = own[k];
            __syncthreads();
        }
        for (int64_t key = me; key < keys; key += kKeyedThreads)
            for (int k = 0; k < width; ++k) {
                double sum = few ? 0.0 : to[key * width + k];
                for (int w = 0; few && w < ways; ++w) sum += tile.value[k][key * ways + w];
                to[key * width + k] = factor(key, k) * sum;
            }
        __syncthreads();
    }
};

}  // namespace
}  // namespace gm
