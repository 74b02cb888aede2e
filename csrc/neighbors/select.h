// Keys in the total order (distance, index), the k smallest of an array, and exact thresholds on squared distances.
#pragma once

#include <cstdint>

#include "common/scalar.h"
#include "neighbors/neighbors.h"

GM_NAMESPACE_BEGIN

// Distances are >= 0, where the order of the floats is the order of their bits.
GM_HD uint64_t make_key(float distance, int64_t index) {
    return (static_cast<uint64_t>(bit_cast<uint32_t>(distance)) << 32) | static_cast<uint32_t>(index);
}
GM_HD uint128 make_key(double distance, int64_t index) {
    return (static_cast<uint128>(bit_cast<uint64_t>(distance)) << 64) | static_cast<uint64_t>(index);
}
GM_HD float key_distance(uint64_t key) { return bit_cast<float>(static_cast<uint32_t>(key >> 32)); }
GM_HD double key_distance(uint128 key) { return bit_cast<double>(static_cast<uint64_t>(key >> 64)); }
GM_HD int64_t key_index(uint64_t key) { return static_cast<int64_t>(key & 0xffffffffu); }
GM_HD int64_t key_index(uint128 key) { return static_cast<int64_t>(static_cast<uint64_t>(key)); }

// Distances of both signs: in_order(x) is a float whose bits have the order of the numbers x, and out_of_order is its
// inverse. It is a container of bits, no number.
GM_HD float in_order(float x) {
    const uint32_t bits = bit_cast<uint32_t>(x);
    return bit_cast<float>(bits ^ (bits >> 31 ? 0xffffffffu : 0x80000000u));
}
GM_HD float out_of_order(float x) {
    const uint32_t bits = bit_cast<uint32_t>(x);
    return bit_cast<float>(bits ^ (bits >> 31 ? 0x80000000u : 0xffffffffu));
}
GM_HD double in_order(double x) {
    const uint64_t bits = bit_cast<uint64_t>(x), sign = uint64_t(1) << 63;
    return bit_cast<double>(bits ^ (bits & sign ? ~uint64_t(0) : sign));
}
GM_HD double out_of_order(double x) {
    const uint64_t bits = bit_cast<uint64_t>(x), sign = uint64_t(1) << 63;
    return bit_cast<double>(bits ^ (bits & sign ? sign : ~uint64_t(0)));
}

template <class Key>
GM_HD void swap_keys(Key& a, Key& b) {
    const Key t = a;
    a = b;
    b = t;
}

// Moves the k smallest of n keys to the front, the largest of them to keys[k - 1] (quickselect, median of three; keys
// are distinct, but for copies of one pair that a caller never adds).
template <class Key>
inline void keep_smallest(Key* keys, int64_t n, int64_t k) {
    int64_t low = 0, high = n - 1, want = k - 1;
    while (low < high) {
        const int64_t mid = low + (high - low) / 2;
        if (keys[mid] < keys[low]) swap_keys(keys[mid], keys[low]);
        if (keys[high] < keys[low]) swap_keys(keys[high], keys[low]);
        if (keys[high] < keys[mid]) swap_keys(keys[high], keys[mid]);
        const Key pivot = keys[mid];
        int64_t i = low, j = high;
        while (i <= j) {
            while (keys[i] < pivot) ++i;
            while (pivot < keys[j]) --j;
            if (i <= j) {
                swap_keys(keys[i], keys[j]);
                ++i;
                --j;
            }
        }
        if (want <= j)
            high = j;
        else if (want >= i)
            low = i;
        else
            return;  // keys[j + 1 .. i - 1] equal the pivot, and want is among them
    }
}

GM_HD float next_up(float x) { return bit_cast<float>(bit_cast<uint32_t>(x) + 1); }  // x >= 0, finite
GM_HD double next_up(double x) { return bit_cast<double>(bit_cast<uint64_t>(x) + 1); }
GM_HD float next_down(float x) { return bit_cast<float>(bit_cast<uint32_t>(x) - 1); }  // x > 0
GM_HD double next_down(double x) { return bit_cast<double>(bit_cast<uint64_t>(x) - 1); }
GM_HD bool is_infinite(float x) { return bit_cast<uint32_t>(x) == 0x7f800000u; }
GM_HD bool is_infinite(double x) { return bit_cast<uint64_t>(x) == 0x7ff0000000000000ull; }

// The least t >= 0 with fl(sqrt(t)) >= r, for r >= 0: sqrt is monotone, so fl(sqrt(d2)) < r exactly where d2 < t.
template <class F>
inline F least_square(F r) {
    F t = r * r;
    while (!is_infinite(t) && sqrt(t) < r) t = next_up(t);
    while (t > F(0) && sqrt(next_down(t)) >= r) t = next_down(t);
    return t;
}

GM_NAMESPACE_END
