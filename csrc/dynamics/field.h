// The terms of a potential: their kinds, their parameters, and the arithmetic of a pair, written once for lanes on a
// CPU and for numbers on a GPU. A new pair term is a kind and a case in each of the three functions below.
#pragma once

#include "common/elementary.h"
#include "common/scalar.h"
#if !defined(__CUDACC__)
#include <cmath>
#endif

// Before a loop over axes or tiles: unrolled whole, so that what it indexes stays in registers.
#if defined(__CUDACC__)
#define GM_UNROLL _Pragma("unroll")
#else
#define GM_UNROLL _Pragma("GCC unroll 4")
#endif

GM_NAMESPACE_BEGIN

// gmkern/dynamics/fields gives the parameters of each kind in this order. A pair term has six for each pair of
// types: four of its own, the cutoff (inf without), and the energy at the cutoff that is taken away.
enum TermKind : int32_t {
    kLennardJones = 0,  // epsilon, sigma
    kHarmonic = 1,      // for each type: k, center (D numbers)
    kMorse = 2,         // depth, width, distance
    kCoulomb = 3,       // strength, reaction field
    kSoftSphere = 4,    // epsilon, sigma, exponent (a multiple of 1/2)
    kDoubleWell = 5,    // linear, quadratic, quartic, distance
    kBonds = 6,         // for each bond: two atoms, k, length
    kLearned = 7,       // first coefficient, intervals, where they begin, intervals a unit (learned.h); kNodes follows
    kNodes = 8,         // six coefficients an interval, of a spline for each pair of types
};
constexpr int kKinds = 9;
constexpr int kMostTerms = 8;
constexpr int kMostTypes = 64;
constexpr int kPairParameters = 6;
constexpr int kCutoff = 4, kTaken = 5;  // among them
constexpr int kBondParameters = 4;
constexpr int64_t kMostNodes = int64_t{1} << 24;  // a place among them is a number in float
GM_HD bool is_pair(int64_t kind) { return kind != kHarmonic && kind != kBonds && kind != kNodes; }

// a * b + c rounded once; the lanes' own is in simd.h.
GM_HD float fma(float a, float b, float c) {
#if defined(__CUDACC__)
    return ::fmaf(a, b, c);
#else
    return __builtin_fmaf(a, b, c);
#endif
}
GM_HD double fma(double a, double b, double c) {
#if defined(__CUDACC__)
    return ::fma(a, b, c);
#else
    return __builtin_fma(a, b, c);
#endif
}

// A pair term's numbers in the form that the sweeps want; the cutoff squared is p[kCutoff].
template <class R>
struct PairTerm {
    int32_t kind, exponent;  // exponent: of a soft sphere, in halves
    R p[kPairParameters];
    GM_HD R operator()(int k) const { return p[k]; }
};

template <class R>
GM_HD PairTerm<R> pair_term(int32_t kind, const double* q) {
    PairTerm<R> t = {};
    t.kind = kind;
    t.exponent = kind == kSoftSphere && q[2] >= 2.0 && q[2] <= 16.0 ? static_cast<int32_t>(2.0 * q[2] + 0.5) : 4;
    double p[kPairParameters] = {q[0], q[1], q[2], q[3], q[kCutoff] * q[kCutoff], q[kTaken]};
    if (kind == kLennardJones) {
        p[0] = q[1] * q[1];
        p[1] = 24.0 * q[0];
        p[2] = 48.0 * q[0];
        p[3] = 4.0 * q[0];
    } else if (kind == kSoftSphere) {
        p[1] = 1.0 / q[1];
        p[3] = 1.0 / q[2];
    }
    for (int i = 0; i < kPairParameters; ++i) t.p[i] = static_cast<R>(p[i]);
    return t;
}

// What a pair at the squared distance r2 has: the force on atom i is pull * (x_i - x_j), slope = d pull / d r2.
template <class F>
struct PairValues {
    F pull, energy, slope;
};

// w^(n/2) for n >= 0, from the root of w.
template <class F>
GM_HD F half_power(F root, int n) {
    F power = F(typename Bits<F>::real(1));
    for (int i = 0; i < n; ++i) power = power * root;
    return power;
}
// 1 - r / sigma inside the sphere, 0 outside; a NaN stays.
template <class F>
GM_HD F overlap(F r, F inverse_sigma) {
    const F zero = F(typename Bits<F>::real(0)), w = F(typename Bits<F>::real(1)) - r * inverse_sigma;
    return select(w < zero, zero, w);
}
// exp(-y).
template <class F>
GM_HD F decay(F y) {
    const F zero = F(typename Bits<F>::real(0)), one = F(typename Bits<F>::real(1));
    const auto beyond = y > zero;
    const F e = exp_nonpositive(select(beyond, -y, y));
    return select(beyond, e, one / e);
}

// p(k) gives parameter k of PairTerm.
template <bool kEnergy, bool kSlope, class F, class Parameters>
GM_HD PairValues<F> pair_values(int32_t kind, int32_t exponent, const Parameters& p, F r2, F inverse_r2) {
    using R = typename Bits<F>::real;
    PairValues<F> v;
    if (kind == kLennardJones) {
        const F s2 = F(p(0)) * inverse_r2;
        const F s6 = s2 * s2 * s2;
        v.pull = (s6 * inverse_r2) * fma(F(p(2)), s6, -F(p(1)));
        if (kEnergy) v.energy = F(p(3)) * (s6 * (s6 - F(R(1)))) - F(p(kTaken));
        if (kSlope) v.slope = (F(p(1)) * s6) * (inverse_r2 * inverse_r2) * fma(F(R(-14)), s6, F(R(4)));
        return v;
    }
    // the others by phi, phi' and phi''
    const F inverse_r = sqrt(inverse_r2), r = r2 * inverse_r;
    F phi = F(R(0)), first = F(R(0)), second = F(R(0));
    if (kind == kMorse) {  // D (E^2 - 2 E), E = exp(-a (r - r0))
        const F a = F(p(1)), e = decay(a * (r - F(p(2))));
        const F scaled = F(p(0)) * e;
        phi = scaled * (e - F(R(2)));
        first = (F(R(2)) * a * scaled) * (F(R(1)) - e);
        if (kSlope) second = (F(R(2)) * a * a * scaled) * (e + e - F(R(1)));
    } else if (kind == kCoulomb) {  // C (1/r + k r^2)
        const F c = F(p(0)), k = F(p(1));
        phi = c * fma(k, r2, inverse_r);
        first = c * fma(k + k, r, -inverse_r2);
        if (kSlope) second = (c + c) * fma(inverse_r2, inverse_r, k);
    } else if (kind == kSoftSphere) {  // epsilon / n w^n, w = 1 - r / sigma
        const F w = overlap(r, F(p(1)));
        const F power = half_power(sqrt(w), exponent - 4), scaled = F(p(0)) * power * w;  // w^(n - 1)
        phi = (scaled * w) * F(p(3));
        first = -(scaled * F(p(1)));
        if (kSlope) second = (F(p(2)) - F(R(1))) * (F(p(0)) * power) * (F(p(1)) * F(p(1)));
    } else {  // double well: a y + b y^2 + c y^4, y = r - d
        const F a = F(p(0)), b = F(p(1)), c = F(p(2)), y = r - F(p(3)), y2 = y * y;
        phi = fma(fma(c, y2, b), y2, a * y);
        first = fma((b + b) + (F(R(4)) * c) * y2, y, a);
        if (kSlope) second = fma(F(R(12)) * c, y2, b + b);
    }
    v.pull = -(first * inverse_r);
    if (kEnergy) v.energy = phi - F(p(kTaken));
    if (kSlope) v.slope = F(R(-0.5)) * inverse_r2 * fma(-first, inverse_r, second);
    return v;
}

// Derivatives in the term's own parameters, as fields.py orders them, of by_energy * energy + by_pull * pull; the one
// in Lennard-Jones' sigma is to be multiplied by 2 / sigma.
template <class F>
struct ParameterSlopes {
    F of[4];
};
template <class F, class Parameters>
GM_HD ParameterSlopes<F> pair_parameter_slopes(int32_t kind, int32_t exponent, const Parameters& p, F r2, F inverse_r2,
                                               F by_energy, F by_pull) {
    using R = typename Bits<F>::real;
    const F zero = F(R(0)), one = F(R(1)), two = F(R(2));
    ParameterSlopes<F> s = {{zero, zero, zero, zero}};
    if (kind == kLennardJones) {
        const F s2 = F(p(0)) * inverse_r2;
        const F s6 = s2 * s2 * s2, pull = by_pull * inverse_r2 * F(R(6));
        s.of[0] = F(R(4)) * s6 * (by_energy * (s6 - one) + pull * (two * s6 - one));
        s.of[1] = F(p(3)) * (F(R(3)) * s6) * (by_energy * (two * s6 - one) + pull * (F(R(4)) * s6 - one));
        return s;
    }
    const F inverse_r = sqrt(inverse_r2), r = r2 * inverse_r, along = -(by_pull * inverse_r);  // of phi'
    if (kind == kMorse) {
        const F depth = F(p(0)), a = F(p(1)), y = r - F(p(2)), e = decay(a * y);
        const F up = e * (one - e), bend = e * (e + e - one);  // phi' = 2 a D up, d up / dy = a bend
        s.of[0] = by_energy * (e * (e - two)) + along * (two * a * up);
        s.of[1] = two * depth * (by_energy * (y * up) + along * fma(a * y, bend, up));
        s.of[2] = -two * depth * a * (by_energy * up + along * (a * bend));
    } else if (kind == kCoulomb) {
        s.of[0] = by_energy * fma(F(p(1)), r2, inverse_r) + along * fma(two * F(p(1)), r, -inverse_r2);
        s.of[1] = F(p(0)) * (by_energy * r2 + along * (two * r));
    } else if (kind == kSoftSphere) {
        const F n = F(p(2)), inverse = F(p(1)), w = overlap(r, inverse);
        const F power = half_power(sqrt(w), exponent - 4);  // w^(n - 2)
        const F up = power * w;
        s.of[0] = by_energy * (up * w) * F(p(3)) - along * (up * inverse);
        s.of[1] =
            F(p(0)) * (inverse * inverse) * (by_energy * (up * r) + along * (up - (n - one) * power * (r * inverse)));
    } else {
        const F y = r - F(p(3)), y2 = y * y, b = F(p(1)), c = F(p(2));
        const F first = fma(two * b + (F(R(4)) * c) * y2, y, F(p(0))), second = fma(F(R(12)) * c, y2, two * b);
        s.of[0] = by_energy * y + along;
        s.of[1] = by_energy * y2 + along * (two * y);
        s.of[2] = by_energy * (y2 * y2) + along * (F(R(4)) * y2 * y);
        s.of[3] = -(by_energy * first + along * second);
    }
    return s;
}

GM_NAMESPACE_END
