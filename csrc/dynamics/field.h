// The terms of a potential: their kinds, their parameters, and the arithmetic of a pair, written once for lanes on a
// CPU and for numbers on a GPU. A new pair term is a kind, a case in read_term and a case in each function below.
#pragma once

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

// gmkern/dynamics/fields.py gives the parameters of each kind in this order.
enum TermKind : int32_t {
    kLennardJones = 0,  // epsilon, sigma, cutoff (inf without), energy at the cutoff that is taken away
    kHarmonic = 1,      // k, center (D numbers)
};
constexpr int kMostTerms = 8;

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

// A pair term in the form that the sweeps want.
template <class R>
struct PairTerm {
    int32_t kind;
    R cutoff2;  // inf without
    R p[5];     // Lennard-Jones: sigma^2, 24 epsilon, 48 epsilon, 4 epsilon, energy taken away
};

template <class R>
GM_HD PairTerm<R> pair_term(int32_t kind, const double* q) {
    PairTerm<R> t = {};
    t.kind = kind;
    if (kind == kLennardJones) {
        t.cutoff2 = static_cast<R>(q[2] * q[2]);
        const double p[5] = {q[1] * q[1], 24.0 * q[0], 48.0 * q[0], 4.0 * q[0], q[3]};
        for (int i = 0; i < 5; ++i) t.p[i] = static_cast<R>(p[i]);
    }
    return t;
}

// The force on atom i is pull(r^2) * (x_i - x_j).
template <class F, class R>
GM_HD F pair_pull(const PairTerm<R>& t, F inverse_r2) {
    const F s2 = F(t.p[0]) * inverse_r2;
    const F s6 = s2 * s2 * s2;
    return (s6 * inverse_r2) * fma(F(t.p[2]), s6, F(-t.p[1]));
}
template <class F, class R>
GM_HD F pair_energy(const PairTerm<R>& t, F inverse_r2) {
    const F s2 = F(t.p[0]) * inverse_r2;
    const F s6 = s2 * s2 * s2;
    return F(t.p[3]) * (s6 * (s6 - F(R(1)))) - F(t.p[4]);
}
// d pull / d (r^2): 24 epsilon s6 (4 - 14 s6) / r^4.
template <class F, class R>
GM_HD F pair_slope(const PairTerm<R>& t, F inverse_r2) {
    const F s2 = F(t.p[0]) * inverse_r2;
    const F s6 = s2 * s2 * s2;
    return (F(t.p[1]) * s6) * (inverse_r2 * inverse_r2) * fma(F(R(-14)), s6, F(R(4)));
}

GM_NAMESPACE_END
