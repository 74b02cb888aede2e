// Sums over all pairs of one system, sixteen atoms i in the lanes and the atoms j one after another: no sum across
// lanes, and each atom's sum runs over j = 0, 1, ..., N - 1 whatever else is computed. For body files.
//
// Coordinates are structures of arrays: axis d of atom i is x[d * stride + i], stride a multiple of 16. Lanes past
// the last atom hold anything; what comes out of them is never read.
#pragma once

// GCC takes a loop over int64_t to run up to 2^63 times, and warns that an address would wrap.
#pragma GCC diagnostic ignored "-Waggressive-loop-optimizations"

#include "common/simd.h"
#include "dynamics/box.h"
#include "dynamics/dynamics.h"

GM_NAMESPACE_BEGIN

// 1 / a. fp64: IEEE division. fp32: the processor's estimate (relative error 2^-14 on avx512, 1.5 * 2^-12 on avx2) and
// one Newton step, which squares it: within 2 ulp; division on baseline.
GM_HD f32x16 reciprocal(f32x16 a) {
#if defined(__AVX512F__)
    const __m512 x = (__m512)a.p[0];
    const __m512 y = _mm512_rcp14_ps(x);
    const __m512 e = _mm512_fnmadd_ps(x, y, _mm512_set1_ps(1.0f));
    a.p[0] = (f32x16::native)_mm512_fmadd_ps(y, e, y);
    return a;
#elif defined(__AVX2__)
    for (int i = 0; i < 2; ++i) {
        const __m256 x = (__m256)a.p[i];
        const __m256 y = _mm256_rcp_ps(x);
        const __m256 e = _mm256_fnmadd_ps(x, y, _mm256_set1_ps(1.0f));
        a.p[i] = (f32x16::native)_mm256_fmadd_ps(y, e, y);
    }
    return a;
#else
    return f32x16(1.0f) / a;
#endif
}
GM_HD f64x16 reciprocal(f64x16 a) { return f64x16(1.0) / a; }

// Rounded to the nearest whole number, ties to even, for |a| < 2^22 (2^51 in fp64).
GM_HD f32x16 nearest(f32x16 a) { return (a + f32x16(0x1.8p23f)) - f32x16(0x1.8p23f); }
GM_HD f64x16 nearest(f64x16 a) { return (a + f64x16(0x1.8p52)) - f64x16(0x1.8p52); }

namespace {

// The pair part of a potential: one term without a cutoff, or a list of them.
template <class R>
struct OneTerm {
    PairTerm<R> term;
    template <class F>
    GM_HD F pull(F, F inverse_r2) const {
        return pair_pull(term, inverse_r2);
    }
    template <class F>
    GM_HD F energy(F, F inverse_r2) const {
        return pair_energy(term, inverse_r2);
    }
    template <class F>
    GM_HD F slope(F, F inverse_r2) const {
        return pair_slope(term, inverse_r2);
    }
};
template <class R>
struct TermList {
    const PairTerm<R>* terms;
    int64_t count;
    // A distance that is NaN is not beyond the cutoff: NaN goes on.
    template <class F>
    GM_HD F pull(F r2, F inverse_r2) const {
        F sum = F(R(0));
        for (int64_t t = 0; t < count; ++t)
            sum = sum + select(r2 >= F(terms[t].cutoff2), F(R(0)), pair_pull(terms[t], inverse_r2));
        return sum;
    }
    template <class F>
    GM_HD F energy(F r2, F inverse_r2) const {
        F sum = F(R(0));
        for (int64_t t = 0; t < count; ++t)
            sum = sum + select(r2 >= F(terms[t].cutoff2), F(R(0)), pair_energy(terms[t], inverse_r2));
        return sum;
    }
    template <class F>
    GM_HD F slope(F r2, F inverse_r2) const {
        F sum = F(R(0));
        for (int64_t t = 0; t < count; ++t)
            sum = sum + select(r2 >= F(terms[t].cutoff2), F(R(0)), pair_slope(terms[t], inverse_r2));
        return sum;
    }
};

enum class Want { forces, forces_and_energy, hessian_times };

// Pair sums of one system. Out: forces, or the Hessian times u, in f; energies of the atoms (half of each pair counted
// at each end, so their sum is twice the energy) in e.
template <class R, int D, class Box, class Pairs>
struct PairSweep {
    using V = x16<R>;
    const Pairs& pairs;
    const Box& box;
    const R *x, *u;
    R *f, *e;
    int64_t count, stride;

    template <int U>
    struct Tile {  // U * 16 atoms i
        Vector<V, D> x[U], u[U], sum[U];
        V energy[U];
    };

    template <Want want, bool kDiagonal, int U>
    GM_HD void meet(Tile<U>& tile, int64_t i0, int64_t j) const {
        Vector<V, D> xj, uj;
        GM_UNROLL
        for (int d = 0; d < D; ++d) {
            xj.c[d] = V(x[d * stride + j]);
            if (want == Want::hessian_times) uj.c[d] = V(u[d * stride + j]);
        }
        GM_UNROLL
        for (int b = 0; b < U; ++b) {
            Vector<V, D> d;
            GM_UNROLL
            for (int a = 0; a < D; ++a) d.c[a] = tile.x[b].c[a] - xj.c[a];
            box.nearest_image(d);
            V r2 = d.c[0] * d.c[0];
            GM_UNROLL
            for (int a = 1; a < D; ++a) r2 = fma(d.c[a], d.c[a], r2);
            const auto self = convert<R>(iota<Index>()) == V(static_cast<R>(j - i0 - 16 * b));
            if (kDiagonal) r2 = select(self, V(R(1)), r2);  // then d = 0, and nothing is added
            const V inverse_r2 = reciprocal(r2);
            const V pull = pairs.pull(r2, inverse_r2);
            if (want == Want::hessian_times) {
                Vector<V, D> du;
                GM_UNROLL
                for (int a = 0; a < D; ++a) du.c[a] = tile.u[b].c[a] - uj.c[a];
                V along = d.c[0] * du.c[0];
                GM_UNROLL
                for (int a = 1; a < D; ++a) along = fma(d.c[a], du.c[a], along);
                along = (along + along) * pairs.slope(r2, inverse_r2);
                GM_UNROLL
                for (int a = 0; a < D; ++a) tile.sum[b].c[a] = tile.sum[b].c[a] - fma(along, d.c[a], pull * du.c[a]);
            } else {
                GM_UNROLL
                for (int a = 0; a < D; ++a) tile.sum[b].c[a] = fma(pull, d.c[a], tile.sum[b].c[a]);
            }
            if (want == Want::forces_and_energy) {
                V energy = pairs.energy(r2, inverse_r2);
                if (kDiagonal) energy = select(self, V(R(0)), energy);
                tile.energy[b] = tile.energy[b] + energy;
            }
        }
    }

    template <Want want, int U>
    GM_HD void rows(int64_t i0) const {
        Tile<U> tile;
        GM_UNROLL
        for (int b = 0; b < U; ++b) {
            GM_UNROLL
            for (int d = 0; d < D; ++d) {
                tile.x[b].c[d] = V::load(x + d * stride + i0 + 16 * b);
                if (want == Want::hessian_times) tile.u[b].c[d] = V::load(u + d * stride + i0 + 16 * b);
                tile.sum[b].c[d] = V(R(0));
            }
            tile.energy[b] = V(R(0));
        }
        const int64_t end = i0 + 16 * U < count ? i0 + 16 * U : count;
        int64_t j = 0;
        for (; j < i0; ++j) meet<want, false, U>(tile, i0, j);
        for (; j < end; ++j) meet<want, true, U>(tile, i0, j);
        for (; j < count; ++j) meet<want, false, U>(tile, i0, j);
        GM_UNROLL
        for (int b = 0; b < U; ++b) {
            GM_UNROLL
            for (int d = 0; d < D; ++d) tile.sum[b].c[d].store(f + d * stride + i0 + 16 * b);
            if (want == Want::forces_and_energy) tile.energy[b].store(e + i0 + 16 * b);
        }
    }

    template <Want want>
    void run() const {
        int64_t i0 = 0;
        if (kTwo)
            for (; i0 + 16 < count; i0 += 32) rows<want, 2>(i0);
        for (; i0 < count; i0 += 16) rows<want, 1>(i0);
    }

 private:
    using Index = typename MaskOf<R>::type;
#if defined(__AVX512F__)
    static constexpr bool kTwo = sizeof(R) == 4;  // two tiles fit the registers, and share the loads of atom j
#else
    static constexpr bool kTwo = false;
#endif
};

}  // namespace

GM_NAMESPACE_END
