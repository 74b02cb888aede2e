// The reducer of the k nearest: each query keeps a reservoir of candidates that beat its limit. For body files.
#pragma once

#include "neighbors/select.h"
#include "neighbors/sweep.h"

GM_NAMESPACE_BEGIN

// kProducts: the values are inner products, whose negatives are the distances.
template <class F, bool kProducts = false>
struct KeepNearest {
    const Sweep<F>& s;
    const Reservoirs<F>& to;

    GM_HD void operator()(int64_t row, int64_t reference, int lanes, x16<F> squares) const {
        if (kProducts) squares = distances_of_products(squares);
        const uint32_t bits = bits_not_ge(squares, x16<F>(to.limits[row])) & ((1u << lanes) - 1);
        if (__builtin_expect(bits != 0, 0)) admit(row, reference, bits, squares);
    }

    // 0 has one sign; a sum of infinities of both signs is at distance infinity.
    static GM_HD x16<F> distances_of_products(x16<F> products) {
        const x16<F> distances = x16<F>(F(0)) - products;
        return select(distances == distances, distances, x16<F>(F(__builtin_inf())));
    }

    GM_HD F key_value(F value) const {
        if (kProducts) return in_order(value);
        return to.root ? sqrt(value) : value;
    }

    __attribute__((noinline)) void admit(int64_t row, int64_t reference, uint32_t bits, x16<F> squares) const {
        alignas(64) F square[kGroup];
        squares.store(square);
        auto* keys = to.keys + row * to.capacity;
        int64_t count = to.counts[row];
        const int64_t self = s.selves != nullptr ? s.selves[row] : -1;
        for (; bits != 0; bits &= bits - 1) {
            const int lane = __builtin_ctz(bits);
            const int64_t index = s.first + reference + lane;
            if (index == self || square[lane] >= to.limits[row]) continue;
            keys[count++] = make_key(key_value(square[lane]), index);
            if (count == to.capacity) {
                keep_smallest(keys, count, to.k);
                count = to.k;
                // References come in the order of their index: one at the k-th distance itself comes too late.
                F kth = key_distance(keys[to.k - 1]);
                if (kProducts) kth = out_of_order(kth);
                to.limits[row] = to.root ? least_square(kth) : kth;
            }
        }
        to.counts[row] = count;
    }
};

GM_NAMESPACE_END
