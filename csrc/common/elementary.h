// Elementary functions whose bits are promised: own polynomials, one order of operations, every product and sum rounded
// on its own (no fused multiply-add). Only +, -, *, / and square root, which IEEE 754 defines, and exact integer steps,
// so PyTorch (gmkern/random.py), Triton, CUDA and every CPU give the same bits.
//
// F is float, double or a pack of them; Bits<F>::U and ::I are the unsigned and signed words of its size. The
// polynomials are minimax fits (Lawson's iteration on Chebyshev nodes, 40 digits); their errors stand beside them.
#pragma once

#include "common/scalar.h"

GM_NAMESPACE_BEGIN

template <class F>
struct Bits;
template <>
struct Bits<float> {
    using U = uint32_t;
    using I = int32_t;
    using real = float;
};
template <>
struct Bits<double> {
    using U = uint64_t;
    using I = int64_t;
    using real = double;
};

// log(1 + r) for r in [sqrt(1/2) - 1, sqrt(2) - 1].
template <class F>
GM_HD F log1p_reduced(F r, float) {  // relative error of the polynomial 6e-9, of the result below 1.3 ulp
    F p = F(-0x1.38b4ccp-4f);
    p = p * r + F(0x1.055b46p-3f);
    p = p * r + F(-0x1.0d8552p-3f);
    p = p * r + F(0x1.22da22p-3f);
    p = p * r + F(-0x1.547244p-3f);
    p = p * r + F(0x1.99a008p-3f);
    p = p * r + F(-0x1.000228p-2f);
    p = p * r + F(0x1.555554p-2f);
    const F z = r * r;
    return r + ((r * z) * p - F(0.5f) * z);
}
template <class F>
GM_HD F log1p_reduced(F r, double) {  // atanh form: s = r / (2 + r), 2s + s z q(z); relative error of q 1e-18
    const F s = r / (F(2.0) + r);
    const F z = s * s;
    F q = F(0x1.2f056cb22126ep-3);
    q = q * z + F(0x1.39a1b9d71d6f7p-3);
    q = q * z + F(0x1.74663ef0ca291p-3);
    q = q * z + F(0x1.c71c520935ce1p-3);
    q = q * z + F(0x1.24924941f153ep-2);
    q = q * z + F(0x1.999999997fdb4p-2);
    q = q * z + F(0x1.5555555555592p-1);
    return (s + s) + (s * z) * q;
}

// x = 2^e * (1 + r) with 1 + r in [sqrt(1/2), sqrt(2)), for positive normal x.
template <class F>
struct Reduced {
    F e, r;
};
template <class F>
GM_HD Reduced<F> reduce(F x, float) {
    using I = typename Bits<F>::I;
    const I bits = bit_cast<int32_t>(x);
    const I e = (bits - I(0x3F3504F3)) >> 23;
    const F m = bit_cast<float>(bit_cast<uint32_t>(bits) - (bit_cast<uint32_t>(e) << 23));
    return {convert<float>(e), m - F(1.0f)};
}
template <class F>
GM_HD Reduced<F> reduce(F x, double) {
    using I = typename Bits<F>::I;
    const I bits = bit_cast<int64_t>(x);
    const I e = (bits - I(static_cast<int64_t>(0x3FE6A09E667F3BCDll))) >> 52;
    const F m = bit_cast<double>(bit_cast<uint64_t>(bits) - (bit_cast<uint64_t>(e) << 52));
    return {convert<double>(e), m - F(1.0)};
}

// e * log(2) + log(1 + r); the high part of log(2) has few bits, so that its product with e is exact.
template <class F>
GM_HD F log_from(Reduced<F> x, float) {
    return x.e * F(0x1.62e4p-1f) + (log1p_reduced(x.r, 0.0f) + x.e * F(0x1.7f7d1cp-20f));
}
template <class F>
GM_HD F log_from(Reduced<F> x, double) {
    return x.e * F(0x1.62e42feep-1) + (log1p_reduced(x.r, 0.0) + x.e * F(0x1.a39ef35793c76p-33));
}

// log(x) for positive normal x.
template <class F>
GM_HD F log_positive(F x) {
    using R = typename Bits<F>::real;
    return log_from(reduce(x, R()), R());
}

// e^x for x <= 0 (minus infinity included): exactly 1 at 0, never above 1, and 0 below `lowest`, before results become
// subnormal. x = n log(2) + r; adding `magic` rounds to an integer, which is then in the sum's low bits.
template <class R>
struct ExpRange;
template <>
struct ExpRange<float> {
    static constexpr float magic = 0x1.8p23f, inverse_log2 = 0x1.715476p+0f, lowest = -87.0f;
    static constexpr float log2_high = 0x1.62e4p-1f, log2_low = 0x1.7f7d1cp-20f;
    static constexpr int mantissa = 23;
};
template <>
struct ExpRange<double> {
    static constexpr double magic = 0x1.8p52, inverse_log2 = 0x1.71547652b82fep+0, lowest = -708.0;
    static constexpr double log2_high = 0x1.62e42feep-1, log2_low = 0x1.a39ef35793c76p-33;
    static constexpr int mantissa = 52;
};
template <class F>
GM_HD F exp_series(F r, float) {  // (e^r - 1 - r) / r^2 for |r| <= log(2) / 2; relative error of e^r 1e-8
    F q = F(0x1.6d10fep-10f);
    q = q * r + F(0x1.120b64p-7f);
    q = q * r + F(0x1.55551ap-5f);
    q = q * r + F(0x1.5554dep-3f);
    return q * r + F(0.5f);
}
template <class F>
GM_HD F exp_series(F r, double) {  // relative error of e^r 2e-17
    F q = F(0x1.af38a0d2d962p-26);
    q = q * r + F(0x1.28917e2c43a66p-22);
    q = q * r + F(0x1.71de0db21e27fp-19);
    q = q * r + F(0x1.a019b9133a48ap-16);
    q = q * r + F(0x1.a01a01a7c327ap-13);
    q = q * r + F(0x1.6c16c1788a49bp-10);
    q = q * r + F(0x1.11111111109b4p-7);
    q = q * r + F(0x1.5555555553d67p-5);
    q = q * r + F(0x1.5555555555556p-3);
    return q * r + F(0x1.0000000000001p-1);
}
template <class F>
GM_HD F exp_nonpositive(F x) {
    using R = typename Bits<F>::real;
    using U = typename Bits<R>::U;
    using Range = ExpRange<R>;
    const F shifted = x * F(Range::inverse_log2) + F(Range::magic);
    const F n = shifted - F(Range::magic);
    const F r = (x - n * F(Range::log2_high)) - n * F(Range::log2_low);
    const F y = F(R(1)) + (r + (r * r) * exp_series(r, R()));
    const auto bits = bit_cast<U>(y) + (bit_cast<U>(shifted) << Range::mantissa);
    return select(x >= F(Range::lowest), bit_cast<R>(bits), F(R(0)));
}

// sin and cos of x in [-pi/4, pi/4].
template <class F>
struct SinCos {
    F sin, cos;
};
template <class F>
GM_HD SinCos<F> sincos_reduced(F x, float) {  // relative errors 4e-9 (sin), 1e-10 (cos)
    const F z = x * x;
    F s = F(-1.9517297e-4f);
    s = s * z + F(8.332178e-3f);
    s = s * z + F(-1.6666655e-1f);
    F c = F(2.4433156e-5f);
    c = c * z + F(-1.3887316e-3f);
    c = c * z + F(4.1666646e-2f);
    return {x + (x * z) * s, (F(1.0f) - F(0.5f) * z) + (z * z) * c};
}
template <class F>
GM_HD SinCos<F> sincos_reduced(F x, double) {  // relative errors 4e-18 (sin), 6e-20 (cos)
    const F z = x * x;
    F s = F(1.589683020336625e-10);
    s = s * z + F(-2.5050758694593416e-08);
    s = s * z + F(2.7557313695499526e-06);
    s = s * z + F(-0.0001984126982981774);
    s = s * z + F(0.008333333333322425);
    s = s * z + F(-0.16666666666666632);
    F c = F(-1.135851906068831e-11);
    c = c * z + F(2.087570047816009e-09);
    c = c * z + F(-2.7557314176412275e-07);
    c = c * z + F(2.4801587288841004e-05);
    c = c * z + F(-0.0013888888888873038);
    c = c * z + F(0.041666666666666595);
    return {x + (x * z) * s, (F(1.0) - F(0.5) * z) + (z * z) * c};
}

GM_NAMESPACE_END
