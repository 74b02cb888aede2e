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
#include "dynamics/learned_lanes.h"
#include "dynamics/near.h"

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

// Where parameters towards the lanes' own atoms j lie; nullptr: all from 0.
struct LaneRows {
    const int64_t* of = nullptr;
};
template <class R>
GM_HD x16<R> load_at(const R* from, int64_t row, int64_t at) {
    return x16<R>::load(from + row + at);
}
template <class R>
GM_HD void store_at(R* to, int64_t row, int64_t at, x16<R> value) {
    value.store(to + row + at);
}
template <class R>
GM_HD x16<R> load_at(const R* from, const LaneRows& rows, int64_t at) {
    if (rows.of == nullptr) return x16<R>::load(from + at);
    alignas(64) R values[16];
    for (int l = 0; l < 16; ++l) values[l] = from[rows.of[l] + at + l];
    return x16<R>::load(values);
}
template <class R>
GM_HD void store_at(R* to, const LaneRows& rows, int64_t at, x16<R> value) {
    if (rows.of == nullptr) return value.store(to + at);
    alignas(64) R values[16];
    value.store(values);
    for (int l = 0; l < 16; ++l) to[rows.of[l] + at + l] = values[l];
}

template <class V>
GM_HD V dot(const Vector<V, 3>& a, const Vector<V, 3>& b) {
    V sum = a.c[0] * b.c[0];
    GM_UNROLL
    for (int c = 1; c < 3; ++c) sum = fma(a.c[c], b.c[c], sum);
    return sum;
}

// Sixteen atoms i, and the sums over what they meet.
template <class R>
struct PairSums {
    using V = x16<R>;
    using Vector3 = Vector<V, 3>;
    using Mask = x16<typename MaskOf<R>::type>;
    Vector3 x, u, sum;
    V energy;

    template <Want want>
    GM_HD void start(const SweepArgs<R>& a, int64_t i) {
        GM_UNROLL
        for (int d = 0; d < 3; ++d) {
            x.c[d] = V::load(a.x[d] + i);
            if (want == Want::adjoint) u.c[d] = V::load(a.u[d] + i);
            sum.c[d] = V(R(0));
        }
        energy = V(R(0));
    }
    // An atom j in each lane, x_i - x_j = d and u_i - u_j = du; where some are the atom itself, `self` says which.
    template <Want want, class Pairs, class Rows>
    GM_HD void add(const Pairs& pairs, const Rows& rows, int64_t i, V by_energy, const Vector3& d, const Vector3& du,
                   V r2, bool some, Mask self) {
        V along = V(R(0)), mine = V(R(1));
        if (want == Want::adjoint) {
            if (some) mine = select(self, V(R(0)), mine);
            along = dot(d, du);
        }
        PairValues<V> v = pairs.template values<want>(rows, i, r2, by_energy, along, mine);
        if (want == Want::adjoint) {
            along = fma(along + along, v.slope, -(by_energy * v.pull));
            GM_UNROLL
            for (int c = 0; c < 3; ++c) sum.c[c] = sum.c[c] + fma(along, d.c[c], v.pull * du.c[c]);
        } else {
            GM_UNROLL
            for (int c = 0; c < 3; ++c) sum.c[c] = fma(v.pull, d.c[c], sum.c[c]);
        }
        if (want == Want::forces_and_energy) {
            if (some) v.energy = select(self, V(R(0)), v.energy);
            energy = energy + v.energy;
        }
    }
    template <Want want>
    GM_HD void store(const SweepArgs<R>& a, int64_t i) const {
        GM_UNROLL
        for (int d = 0; d < 3; ++d) sum.c[d].store(a.f[d] + i);
        if (want == Want::forces_and_energy) energy.store(a.e + i);
    }
};

// One Lennard-Jones without a cutoff, types or a box: all that the inner loop does.
template <class R>
struct PlainPairs {
    using V = x16<R>;
    PairTerm<R> term;
    static constexpr bool kPlain = true;
    struct Row {};
    GM_HD Row row(int64_t) const { return {}; }
    GM_HD void wrap(Vector<V, 3>&) const {}
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

    // Where the parameters lie that meet atom j, or an atom in each lane: then `places` has room for sixteen.
    GM_HD int64_t row(int64_t j) const { return types == nullptr ? 0 : types[j] * count * kPairParameters * stride; }
    GM_HD LaneRows rows(const int32_t* j, int64_t* places) const {
        if (types == nullptr) return {};
        for (int l = 0; l < 16; ++l) places[l] = row(j[l]);
        return {places};
    }
    GM_HD void wrap(Vector<V, 3>& d) const {
        if (periodic) box.nearest_image(d);
    }
    template <class Rows>
    struct Parameters {
        const R* from;
        const Rows& row;
        int64_t at, stride;
        GM_HD V operator()(int k) const { return load_at(from, row, at + k * stride); }
    };
    // A distance that is NaN is not beyond the cutoff: NaN goes on. by_pull: an adjoint's (x_i - x_j)(u_i - u_j).
    template <Want want, class Rows>
    GM_HD PairValues<V> values(const Rows& row, int64_t i, V r2, V by_energy, V by_pull, V mine) const {
        const V zero = V(R(0)), inverse_r2 = reciprocal(r2);
        PairValues<V> sum = {zero, zero, zero};
        for (int64_t t = 0; t < count; ++t) {
            const int64_t at = t * kPairParameters * stride + i;
            const Parameters<Rows> p = {table, row, at, stride};
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
            for (int k = 0; k < 4; ++k) {
                const V old = load_at(static_cast<const R*>(slopes), row, at + k * stride);
                store_at(slopes, row, at + k * stride, old + select(outside, zero, s.of[k] * mine));
            }
            const V old = load_at(static_cast<const R*>(slopes), row, at + kTaken * stride);
            store_at(slopes, row, at + kTaken * stride, old - select(outside, zero, by_energy * mine));
        }
        return sum;
    }
};

// All pairs of one system.
template <class R, class Pairs>
struct PairSweep {
    using V = x16<R>;
    using Vector3 = Vector<V, 3>;
    const Pairs& pairs;
    const SweepArgs<R>& a;

    template <Want want, int U>
    GM_HD void meet(PairSums<R>* tile, int64_t i0, int64_t j, bool diagonal) const {
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
            for (int c = 0; c < 3; ++c) {
                d.c[c] = tile[b].x.c[c] - xj.c[c];
                if (want == Want::adjoint) du.c[c] = tile[b].u.c[c] - uj.c[c];
            }
            pairs.wrap(d);
            V r2 = dot(d, d);
            typename PairSums<R>::Mask self;
            if (diagonal) {
                self = convert<R>(iota<Index>()) == V(static_cast<R>(j - i0 - 16 * b));
                r2 = select(self, V(R(1)), r2);  // then d = 0, and nothing is added
            }
            tile[b].template add<want>(pairs, row, i0 + 16 * b, V(a.by_energy), d, du, r2, diagonal, self);
        }
    }

    template <Want want, int U>
    void rows(int64_t i0) const {
        PairSums<R> tile[U];
        GM_UNROLL
        for (int b = 0; b < U; ++b) tile[b].template start<want>(a, i0 + 16 * b);
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
        for (int b = 0; b < U; ++b) tile[b].template store<want>(a, i0 + 16 * b);
    }

    template <Want want>
    void run(const Crew& crew) const {
        constexpr int64_t kAtoms = kTwo ? 32 : 16;
        shared(crew, (a.count + kAtoms - 1) / kAtoms, [&](int64_t t, int64_t) {
            const int64_t i0 = kAtoms * t;
            if (kTwo && i0 + 16 < a.count)
                rows<want, kTwo ? 2 : 1>(i0);
            else
                rows<want, 1>(i0);
        });
    }

 private:
    using Index = typename MaskOf<R>::type;
#if defined(__AVX512F__)
    // two tiles fit the registers, and share the loads of atom j
    static constexpr bool kTwo = sizeof(R) == 4 && Pairs::kPlain;
#else
    static constexpr bool kTwo = false;
#endif
};

}  // namespace

GM_NAMESPACE_END
