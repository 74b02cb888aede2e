// The tokens that may survive the filters, in order of index, and the cuts through them. For body files.
#pragma once

#include "common/compress.h"
#include "decode/sample_mass.h"

GM_NAMESPACE_BEGIN

// Whole numbers in the order of the reals they stand for (-0 as 0).
GM_HD uint32_t order_bits(float x) {
    const uint32_t b = bit_cast<uint32_t>(x + 0.0f);
    return b ^ (b >> 31 ? 0xFFFFFFFFu : 0x80000000u);
}
GM_HD uint64_t order_bits(double x) {
    const uint64_t b = bit_cast<uint64_t>(x + 0.0);
    return b ^ (b >> 63 ? ~uint64_t(0) : uint64_t(1) << 63);
}

// The true lanes of a mask, lane i in bit i.
GM_HD uint32_t lanes_of(i32x16 mask) { return movemask(mask); }
GM_HD uint32_t lanes_of(i64x16 mask) {
    alignas(64) int64_t lane[16];
    mask.store(lane);
    uint32_t bits = 0;
    for (int i = 0; i < 16; ++i) bits |= static_cast<uint32_t>(lane[i] & 1) << i;
    return bits;
}

// The first `count` of sixteen lanes.
GM_HD uint32_t first_lanes(int64_t count) { return count < 16 ? (1u << count) - 1 : 0xFFFFu; }

// How far the smallest prefix in the order (key descending, place ascending) goes: all above `key`, and of those equal
// to it the places up to `place`.
template <class U>
struct Cut {
    U key;
    int32_t place;
    GM_HD bool keeps(U k, int32_t p) const { return k > key || (k == key && p <= place); }
};

// The smallest prefix whose weights sum to at least `target`, which the whole sum reaches. The three arrays are in
// order of place, and are used up. Each round throws away one side of a pivot: midpoints bound the rounds by the key's
// bits, and the keys between them make them few.
template <class U, class W>
inline Cut<U> select_prefix(U* key, W* weight, int32_t* place, int64_t count, W target) {
    W above = 0;
    for (int round = 0;; ++round) {
        U low = ~U(0), high = 0;
        for (int64_t i = 0; i < count; ++i) {
            low = key[i] < low ? key[i] : low;
            high = key[i] > high ? key[i] : high;
        }
        if (low == high) {
            int64_t i = 0;
            for (above += weight[0]; above < target && i + 1 < count; above += weight[i]) ++i;
            return {low, place[i]};
        }
        U pivot = round % 2 ? key[count / 2] : static_cast<U>(low + (high - low) / 2 + 1);
        if (pivot == low) pivot = low + 1;
        W upper = 0;
        for (int64_t i = 0; i < count; ++i) upper += key[i] >= pivot ? weight[i] : W(0);
        const bool keep_upper = above + upper >= target;
        if (!keep_upper) above += upper;
        int64_t kept = 0;
        if constexpr (sizeof(W) == 8) {
            for (int64_t i = 0; i < count; i += 16) {  // the arrays have room for whole packs
                const x16<U> keys = x16<U>::load(key + i);
                const uint32_t upper_lanes = lanes_of(keys >= x16<U>(pivot));
                const uint32_t chosen = (keep_upper ? upper_lanes : ~upper_lanes) & first_lanes(count - i);
                const auto weights = x16<W>::load(weight + i);
                const auto places = i32x16::load(place + i);
                const Compress compress{chosen};
                compress(keys, key + kept);
                compress(weights, weight + kept);
                compress(places, place + kept);
                kept += __builtin_popcount(chosen);
            }
        } else {
            for (int64_t i = 0; i < count; ++i) {
                const bool keep = (key[i] >= pivot) == keep_upper;
                key[kept] = key[i];
                weight[kept] = weight[i];
                place[kept] = place[i];
                kept += keep;
            }
        }
        count = kept;
    }
}

// Survivors of the filters so far: index ascending, with processed logit and e^(logit - greatest).
template <class F>
struct Survivors {
    using U = typename Bits<F>::U;
    using Mass = typename Fixed<F>::Mass;
    F *z, *e;
    int32_t* index;
    int64_t count = 0;
    U* key;  // room for select_prefix
    Mass* weight;
    int32_t* place;

    Mass mass() const {
        MassSum<F> sum;
        int64_t at = 0;
        for (; at + 16 <= count; at += 16) {
            sum.add(x16<F>::load(e + at));
            if (at % 4096 == 0) sum.flush();
        }
        Mass rest = 0;
        for (; at < count; ++at) rest += mass_of(e[at]);
        return sum.total() + rest;
    }
    // Keeps those for which keep(i).
    template <class Keep>
    GM_HD void trim(const Keep& keep) {
        int64_t kept = 0;
        for (int64_t at = 0; at < count; at += 16) {
            const int64_t here = count - at < 16 ? count - at : 16;
            uint32_t lanes = 0;
            for (int64_t j = 0; j < here; ++j) lanes |= static_cast<uint32_t>(keep(at + j)) << j;
            const auto zs = x16<F>::load(z + at), es = x16<F>::load(e + at);
            const auto indices = i32x16::load(index + at);
            const Compress compress{lanes};
            compress(zs, z + kept);
            compress(es, e + kept);
            compress(indices, index + kept);
            kept += __builtin_popcount(lanes);
        }
        count = kept;
    }
    // Keeps the smallest prefix, in the order of key_of(i), whose weight_of(i) sum to at least target.
    template <class KeyOf, class WeightOf>
    GM_HD void keep_prefix(const KeyOf& key_of, const WeightOf& weight_of, Mass target) {
        for (int64_t i = 0; i < count; ++i) {
            key[i] = key_of(i);
            weight[i] = weight_of(i);
            place[i] = static_cast<int32_t>(i);
        }
        const Cut<U> cut = select_prefix(key, weight, place, count, target);
        trim([&](int64_t i) { return cut.keeps(key_of(i), static_cast<int32_t>(i)); });
    }
};

GM_NAMESPACE_END
