// Sums over the listed pairs of one system: sixteen atoms i in the lanes, and in each lane that atom's neighbours one
// after another. An atom's sum runs over rising j as that over all pairs does (pair_sweep.h), and what a pair outside
// the cutoffs adds there is exactly 0: the bits are the same, whichever pairs beyond the cutoffs are listed. For body
// files.
#pragma once

#include "dynamics/near.h"
#include "dynamics/pair_sweep.h"

GM_NAMESPACE_BEGIN

namespace {

// Lane l of to[d] = packed[4 * j[l] + d], for d of 0, 1, 2.
GM_HD void gather(const float* packed, const int32_t* j, f32x16* to) {
#if defined(__AVX512F__)
    __m512 row[4];  // in 128-bit lane q of row[k]: atom j[4 q + k]
    for (int k = 0; k < 4; ++k) {
        row[k] = _mm512_castps128_ps512(_mm_loadu_ps(packed + 4 * int64_t{j[k]}));
        row[k] = _mm512_insertf32x4(row[k], _mm_loadu_ps(packed + 4 * int64_t{j[4 + k]}), 1);
        row[k] = _mm512_insertf32x4(row[k], _mm_loadu_ps(packed + 4 * int64_t{j[8 + k]}), 2);
        row[k] = _mm512_insertf32x4(row[k], _mm_loadu_ps(packed + 4 * int64_t{j[12 + k]}), 3);
    }
    const __m512d a = (__m512d)_mm512_unpacklo_ps(row[0], row[1]), b = (__m512d)_mm512_unpackhi_ps(row[0], row[1]);
    const __m512d c = (__m512d)_mm512_unpacklo_ps(row[2], row[3]), d = (__m512d)_mm512_unpackhi_ps(row[2], row[3]);
    to[0].p[0] = (f32x16::native)_mm512_unpacklo_pd(a, c);
    to[1].p[0] = (f32x16::native)_mm512_unpackhi_pd(a, c);
    to[2].p[0] = (f32x16::native)_mm512_unpacklo_pd(b, d);
#elif defined(__AVX2__)
    for (int h = 0; h < 2; ++h) {
        __m256 row[4];  // in 128-bit lane q of row[k]: atom j[8 h + 4 q + k]
        for (int k = 0; k < 4; ++k)
            row[k] = _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(packed + 4 * int64_t{j[8 * h + k]})),
                                          _mm_loadu_ps(packed + 4 * int64_t{j[8 * h + 4 + k]}), 1);
        const __m256d a = (__m256d)_mm256_unpacklo_ps(row[0], row[1]), b = (__m256d)_mm256_unpackhi_ps(row[0], row[1]);
        const __m256d c = (__m256d)_mm256_unpacklo_ps(row[2], row[3]), d = (__m256d)_mm256_unpackhi_ps(row[2], row[3]);
        to[0].p[h] = (f32x16::native)_mm256_unpacklo_pd(a, c);
        to[1].p[h] = (f32x16::native)_mm256_unpackhi_pd(a, c);
        to[2].p[h] = (f32x16::native)_mm256_unpacklo_pd(b, d);
    }
#else
    for (int d = 0; d < 3; ++d)
        for (int l = 0; l < 16; ++l) to[d].p[l / f32x16::width][l % f32x16::width] = packed[4 * int64_t{j[l]} + d];
#endif
}
GM_HD void gather(const double* packed, const int32_t* j, f64x16* to) {
    for (int d = 0; d < 3; ++d)
        for (int l = 0; l < 16; ++l) to[d].p[l / f64x16::width][l % f64x16::width] = packed[4 * int64_t{j[l]} + d];
}
GM_HD void pack(const f32x16* x, float* to) { store_groups_of_4(to, x[0], x[1], x[2], f32x16(0.0f)); }
GM_HD void pack(const f64x16* x, double* to) {
    alignas(64) double lanes[3][16];
    for (int d = 0; d < 3; ++d) x[d].store(lanes[d]);
    for (int l = 0; l < 16; ++l)
        for (int d = 0; d < 3; ++d) to[4 * l + d] = lanes[d][l];
}

// Lane l: whether to[l] is the number of the atom in it, first + l.
GM_HD i32x16 is_self(const int32_t* j, int64_t first, f32x16) {
    return i32x16::load(j) == iota<int32_t>() + i32x16(static_cast<int32_t>(first));
}
GM_HD i64x16 is_self(const int32_t* j, int64_t first, f64x16) {
    return widen<int64_t>(i32x16::load(j)) == iota<int64_t>() + i64x16(first);
}

// One Lennard-Jones with a cutoff and no types, in a box with right angles (of zeros where it does not repeat).
template <class R>
struct CutPairs {
    using V = x16<R>;
    PairTerm<R> term;
    R cell[3], inverse[3];

    // Whether the box is such a one.
    bool read(const PairTable<R>& table) {
        bool right = true;
        for (int r = 0; r < 3; ++r) {
            cell[r] = table.periodic ? table.box.cell[r][r] : R(0);
            inverse[r] = table.periodic ? table.box.inverse[r][r] : R(0);
            for (int c = 0; c < 3 && table.periodic; ++c)
                right &= r == c || (table.box.cell[r][c] == R(0) && table.box.inverse[r][c] == R(0));
        }
        return right;
    }
    GM_HD LaneRows rows(const int32_t*, int64_t*) const { return {}; }
    GM_HD void wrap(Vector<V, 3>& d) const {
        GM_UNROLL
        for (int c = 0; c < 3; ++c) d.c[c] = fma(-nearest(d.c[c] * V(inverse[c])), V(cell[c]), d.c[c]);
    }
    template <Want want>
    GM_HD PairValues<V> values(const LaneRows&, int64_t, V r2, V, V, V) const {
        const V zero = V(R(0));
        PairValues<V> v =
            pair_values<want == Want::forces_and_energy, false>(kLennardJones, 0, term, r2, reciprocal(r2));
        const auto outside = r2 >= V(term.p[kCutoff]);
        v.pull = select(outside, zero, v.pull);
        if (want == Want::forces_and_energy) v.energy = select(outside, zero, v.energy);
        return v;
    }
};

template <class R, class Pairs>
struct NearSweep {
    using V = x16<R>;
    using Vector3 = Vector<V, 3>;
    const Pairs& pairs;
    const SweepArgs<R>& a;
    const Neighbors<R>& near;

    template <Want want>
    void run(const Crew& crew) const {
        const int64_t tiles = (a.count + 15) / 16;
        shared(crew, (tiles + kTiles - 1) / kTiles, [&](int64_t first, int64_t) {
            for (int64_t t = kTiles * first; t < tiles && t < kTiles * (first + 1); ++t) tile<want>(t);
        });
    }

 private:
    static constexpr int64_t kTiles = 4;  // of a task

    template <Want want>
    void tile(int64_t t) const {
        const int64_t i0 = 16 * t;
        PairSums<R> own;
        own.template start<want>(a, i0);
        int64_t places[16];
        const int32_t *j = near.tiles[t], *end = j + 16 * near.lengths[t];
        for (; j != end; j += 16) {
            Vector3 d, du;
            gather(near.packed, j, d.c);
            if (want == Want::adjoint) gather(near.packed_u, j, du.c);
            GM_UNROLL
            for (int c = 0; c < 3; ++c) {
                d.c[c] = own.x.c[c] - d.c[c];
                if (want == Want::adjoint) du.c[c] = own.u.c[c] - du.c[c];
            }
            pairs.wrap(d);
            // an atom and itself are beyond every cutoff
            const auto self = is_self(j, i0, V(R(0)));
            const V r2 = select(self, V(static_cast<R>(__builtin_inf())), dot(d, d));
            own.template add<want>(pairs, pairs.rows(j, places), i0, V(a.by_energy), d, du, r2, false, self);
        }
        own.template store<want>(a, i0);
    }
};

}  // namespace

GM_NAMESPACE_END
