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
#include "dynamics/learned.h"

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

enum class Want { forces, forces_and_energy, adjoint };

// What the sweeps of one system share. Out: forces in f, or for an adjoint the gradient of by_energy * energy + the sum
// of u * forces; energies of the atoms (half of each pair counted at each end, so their sum is twice the energy) in e.
template <class R>
struct SweepArgs {
    const R *x[3], *u[3];  // each axis; in two dimensions the third is zeros
    R* f[3];
    R* e;
    int64_t count, stride;
    R by_energy;
};

// One Lennard-Jones without a cutoff, types or a box: all that the inner loop does.
template <class R>
struct PlainPairs {
    using V = x16<R>;
    PairTerm<R> term;
    static constexpr bool kPlain = true;
    struct Row {};
    GM_HD Row row(int64_t) const { return {}; }
    template <Want want>
    GM_HD PairValues<V> values(Row, int64_t, V r2, V, V, V) const {
        return pair_values<want == Want::forces_and_energy, false>(kLennardJones, 0, term, r2, reciprocal(r2));
    }
};

// Any terms: parameter k of term t between atom i and an atom of type y is table[((y * count + t) * 6 + k) * stride +
// i].
template <class R>
struct PairTable {
    using V = x16<R>;
    int32_t kind[kMostTerms], exponent[kMostTerms];
    int64_t count = 0, stride, atoms;
    const R* table;
    R* slopes;                        // of the parameters, in the table's layout, or nullptr
    const R* nodes[kMostTerms];       // of a learnt term, its splines
    double* node_slopes[kMostTerms];  // their slopes, where `slopes` are asked for
    const int64_t* types;             // of the system's atoms, or nullptr
    PeriodicBox<R, 3> box;
    bool periodic = false;
    static constexpr bool kPlain = false;

    // Where the parameters lie that meet atom j.
    GM_HD int64_t row(int64_t j) const { return types == nullptr ? 0 : types[j] * count * kPairParameters * stride; }
    struct Parameters {
        const R* from;
        int64_t stride;
        GM_HD V operator()(int k) const { return V::load(from + k * stride); }
    };
    // A distance that is NaN is not beyond the cutoff: NaN goes on. by_pull: an adjoint's (x_i - x_j)(u_i - u_j).
    template <Want want>
    GM_HD PairValues<V> values(int64_t row, int64_t i, V r2, V by_energy, V by_pull, V mine) const {
        const V zero = V(R(0)), inverse_r2 = reciprocal(r2);
        PairValues<V> sum = {zero, zero, zero};
        for (int64_t t = 0; t < count; ++t) {
            const int64_t at = row + t * kPairParameters * stride + i;
            const Parameters p = {table + at, stride};
            constexpr bool kEnergy = want == Want::forces_and_energy, kSlope = want == Want::adjoint;
            const bool learned = kind[t] == kLearned;
            const PairValues<V> v = learned ? learned_values<kEnergy, kSlope>(p, nodes[t], r2, inverse_r2)
                                            : pair_values<kEnergy, kSlope>(kind[t], exponent[t], p, r2, inverse_r2);
            const auto outside = r2 >= p(kCutoff);
            sum.pull = sum.pull + select(outside, zero, v.pull);
            if (kEnergy) sum.energy = sum.energy + select(outside, zero, v.energy);
            if (!kSlope) continue;
            sum.slope = sum.slope + select(outside, zero, v.slope);
            if (slopes == nullptr) continue;
            if (learned) {
                learned_slopes(p, r2, inverse_r2, by_energy, by_pull, select(outside, zero, mine), atoms - i,
                               node_slopes[t]);
                continue;
            }
            const ParameterSlopes<V> s =
                pair_parameter_slopes(kind[t], exponent[t], p, r2, inverse_r2, by_energy, by_pull);
            R* to = slopes + at;
            for (int k = 0; k < 4; ++k) {
                const V grown = V::load(to + k * stride) + select(outside, zero, s.of[k] * mine);
                grown.store(to + k * stride);
            }
            to += kTaken * stride;
            (V::load(to) - select(outside, zero, by_energy * mine)).store(to);
        }
        return sum;
    }
};

// Pair sums of one system.
template <class R, class Pairs>
struct PairSweep {
    using V = x16<R>;
    using Vector3 = Vector<V, 3>;
    const Pairs& pairs;
    const SweepArgs<R>& a;

    template <int U>
    struct Tile {  // U * 16 atoms i
        Vector3 x[U], u[U], sum[U];
        V energy[U];
    };

    template <Want want, int U>
    GM_HD void meet(Tile<U>& tile, int64_t i0, int64_t j, bool diagonal) const {
        Vector3 xj, uj;
        GM_UNROLL
        for (int d = 0; d < 3; ++d) {
            xj.c[d] = V(a.x[d][j]);
            if (want == Want::adjoint) uj.c[d] = V(a.u[d][j]);
        }
        const auto row = pairs.row(j);
        GM_UNROLL
        for (int b = 0; b < U; ++b) {
            Vector3 d, du;
            GM_UNROLL
            for (int c = 0; c < 3; ++c) d.c[c] = tile.x[b].c[c] - xj.c[c];
            wrap(pairs, d);
            V r2 = dot(d, d), along = V(R(0)), mine = V(R(1));
            MaskOfLanes self;
            if (diagonal) {
                self = convert<R>(iota<Index>()) == V(static_cast<R>(j - i0 - 16 * b));
                r2 = select(self, V(R(1)), r2);  // then d = 0, and nothing is added
                if (want == Want::adjoint) mine = select(self, V(R(0)), mine);
            }
            if (want == Want::adjoint) {
                GM_UNROLL
                for (int c = 0; c < 3; ++c) du.c[c] = tile.u[b].c[c] - uj.c[c];
                along = dot(d, du);
            }
            PairValues<V> v = pairs.template values<want>(row, i0 + 16 * b, r2, V(a.by_energy), along, mine);
            if (want == Want::adjoint) {
                along = fma(along + along, v.slope, -(V(a.by_energy) * v.pull));
                GM_UNROLL
                for (int c = 0; c < 3; ++c) tile.sum[b].c[c] = tile.sum[b].c[c] + fma(along, d.c[c], v.pull * du.c[c]);
            } else {
                GM_UNROLL
                for (int c = 0; c < 3; ++c) tile.sum[b].c[c] = fma(v.pull, d.c[c], tile.sum[b].c[c]);
            }
            if (want == Want::forces_and_energy) {
                if (diagonal) v.energy = select(self, V(R(0)), v.energy);
                tile.energy[b] = tile.energy[b] + v.energy;
            }
        }
    }

    template <Want want, int U>
    void rows(int64_t i0) const {
        Tile<U> tile;
        GM_UNROLL
        for (int b = 0; b < U; ++b) {
            GM_UNROLL
            for (int d = 0; d < 3; ++d) {
                tile.x[b].c[d] = V::load(a.x[d] + i0 + 16 * b);
                if (want == Want::adjoint) tile.u[b].c[d] = V::load(a.u[d] + i0 + 16 * b);
                tile.sum[b].c[d] = V(R(0));
            }
            tile.energy[b] = V(R(0));
        }
        const int64_t end = i0 + 16 * U < a.count ? i0 + 16 * U : a.count;
        if (Pairs::kPlain) {  // a loop each, without a question in it
            int64_t j = 0;
            for (; j < i0; ++j) meet<want, U>(tile, i0, j, false);
            for (; j < end; ++j) meet<want, U>(tile, i0, j, true);
            for (; j < a.count; ++j) meet<want, U>(tile, i0, j, false);
        } else {
            for (int64_t j = 0; j < a.count; ++j) meet<want, U>(tile, i0, j, j >= i0 && j < end);
        }
        GM_UNROLL
        for (int b = 0; b < U; ++b) {
            GM_UNROLL
            for (int d = 0; d < 3; ++d) tile.sum[b].c[d].store(a.f[d] + i0 + 16 * b);
            if (want == Want::forces_and_energy) tile.energy[b].store(a.e + i0 + 16 * b);
        }
    }

    template <Want want>
    void run() const {
        int64_t i0 = 0;
        if (kTwo)
            for (; i0 + 16 < a.count; i0 += 32) rows<want, 2>(i0);
        for (; i0 < a.count; i0 += 16) rows<want, 1>(i0);
    }

 private:
    using Index = typename MaskOf<R>::type;
    using MaskOfLanes = x16<Index>;
#if defined(__AVX512F__)
    // two tiles fit the registers, and share the loads of atom j
    static constexpr bool kTwo = sizeof(R) == 4 && Pairs::kPlain;
#else
    static constexpr bool kTwo = false;
#endif
    static GM_HD void wrap(const PlainPairs<R>&, Vector3&) {}
    static GM_HD void wrap(const PairTable<R>& table, Vector3& d) {
        if (table.periodic) table.box.nearest_image(d);
    }
    static GM_HD V dot(const Vector3& a, const Vector3& b) {
        V sum = a.c[0] * b.c[0];
        GM_UNROLL
        for (int c = 1; c < 3; ++c) sum = fma(a.c[c], b.c[c], sum);
        return sum;
    }
};

}  // namespace

GM_NAMESPACE_END
