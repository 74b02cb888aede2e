// Sixteen-lane exp, tanh, erf and the activations built on them, in fp32 with fused multiply-adds: within 2 ulp of the
// exact value (erf 3), and a function of its argument alone, but not bit-equal across instruction sets. Where bits
// are promised use common/elementary.h. The polynomials are minimax fits (Lawson's iteration, 40 digits).
#pragma once

#include "common/simd.h"

GM_NAMESPACE_BEGIN

GM_HD f32x16 magnitude(f32x16 x) { return bit_cast<float>(bit_cast<uint32_t>(x) & u32x16(0x7FFFFFFFu)); }
GM_HD f32x16 with_sign_of(f32x16 x, f32x16 sign) {
    return bit_cast<float>(bit_cast<uint32_t>(x) | (bit_cast<uint32_t>(sign) & u32x16(0x80000000u)));
}

// exp(x): x = n log(2) + r. 0 below -87.3, where the result would be subnormal; infinite above 88.72; NaN for NaN.
GM_HD f32x16 fast_exp(f32x16 x) {
    const f32x16 magic(0x1.8p23f);  // adding it rounds to an integer
    const f32x16 inside = min(max(x, f32x16(-88.0f)), f32x16(89.0f));
    const f32x16 n = fma(inside, f32x16(0x1.715476p+0f), magic) - magic;
    f32x16 r = fma(n, f32x16(-0x1.62e4p-1f), inside);
    r = fma(n, f32x16(-0x1.7f7d1cp-20f), r);
    f32x16 p(0x1.6db42p-10f);  // relative error 3e-9
    p = fma(p, r, f32x16(0x1.123b52p-7f));
    p = fma(p, r, f32x16(0x1.55545ep-5f));
    p = fma(p, r, f32x16(0x1.55548ep-3f));
    p = fma(p, r, f32x16(0.5f));
    p = fma(p, r * r, r) + f32x16(1.0f);
    // 2^n in two factors, since n may be 128
    const i32x16 whole = convert<int32_t>(n), half = whole >> 1;
    const f32x16 low = bit_cast<float>((half + i32x16(127)) << 23);
    const f32x16 high = bit_cast<float>((whole - half + i32x16(127)) << 23);
    f32x16 y = (p * low) * high;
    y = select(x < f32x16(-87.33654f), f32x16(0.0f), y);
    y = select(x > f32x16(88.72284f), f32x16(__builtin_inff()), y);
    return select(x == x, y, x);
}

// 1 / (1 + exp(-x)) in a short chain of operations; for NaN some number between 0 and 1.
GM_HD f32x16 logistic(f32x16 x) {
    const f32x16 magic(0x1.8p23f), inside = min(max(f32x16(0.0f) - x, f32x16(-87.0f)), f32x16(87.0f));
    const f32x16 rounded = fma(inside, f32x16(0x1.715476p+0f), magic), n = rounded - magic;
    f32x16 r = fma(n, f32x16(-0x1.62e4p-1f), inside);
    r = fma(n, f32x16(-0x1.7f7d1cp-20f), r);
    const f32x16 square = r * r;  // fast_exp's polynomial, in halves
    const f32x16 high = fma(fma(f32x16(0x1.6db42p-10f), r, f32x16(0x1.123b52p-7f)), square,
                            fma(f32x16(0x1.55545ep-5f), r, f32x16(0x1.55548ep-3f)));
    const f32x16 low = fma(f32x16(0.5f), square, r) + f32x16(1.0f);
    const f32x16 p = fma(high * square, r, low);
    // n stands in the last bits of `rounded`
    const f32x16 y = bit_cast<float>(bit_cast<uint32_t>(p) + (bit_cast<uint32_t>(rounded) << 23));
    return f32x16(1.0f) / (f32x16(1.0f) + y);
}

GM_HD f32x16 fast_tanh(f32x16 x) {
    const f32x16 a = magnitude(x), z = x * x;
    f32x16 p(0x1.197b62p-9f);  // |x| < 5/8: x + x z p(z), relative error 2e-10
    p = fma(p, z, f32x16(-0x1.0c213ep-7f));
    p = fma(p, z, f32x16(0x1.6394d8p-6f));
    p = fma(p, z, f32x16(-0x1.b9ef7cp-5f));
    p = fma(p, z, f32x16(0x1.11106cp-3f));
    p = fma(p, z, f32x16(-0x1.555554p-2f));
    const f32x16 small = fma(x * z, p, x);
    const f32x16 large = f32x16(1.0f) - f32x16(2.0f) / (fast_exp(a + a) + f32x16(1.0f));
    return select(a < f32x16(0.625f), small, with_sign_of(large, x));
}

GM_HD f32x16 fast_erf(f32x16 x) {
    const f32x16 a = magnitude(x), z = x * x;
    f32x16 p(0x1.4ae4c6p-14f);  // |x| < 1: x p(z), error 2e-9
    p = fma(p, z, f32x16(-0x1.a485e8p-11f));
    p = fma(p, z, f32x16(0x1.5419f4p-8f));
    p = fma(p, z, f32x16(-0x1.b7fbb4p-6f));
    p = fma(p, z, f32x16(0x1.ce2d2p-4f));
    p = fma(p, z, f32x16(-0x1.81273ep-2f));
    p = fma(p, z, f32x16(0x1.20dd74p+0f));
    const f32x16 u = select(a < f32x16(4.0f), a, f32x16(4.0f)) - f32x16(2.5f);
    f32x16 g(-0x1.6bd85p-16f);  // 1 <= |x| <= 4: 1 - exp(g(|x| - 5/2)), error of erf 2e-11
    g = fma(g, u, f32x16(0x1.0346f6p-14f));
    g = fma(g, u, f32x16(-0x1.c3d8fp-12f));
    g = fma(g, u, f32x16(0x1.1bf87p-9f));
    g = fma(g, u, f32x16(-0x1.63a5cp-7f));
    g = fma(g, u, f32x16(-0x1.e345cap-1f));
    g = fma(g, u, f32x16(-0x1.569252p+2f));
    g = fma(g, u, f32x16(-0x1.f3a2dcp+2f));
    const f32x16 large = with_sign_of(f32x16(1.0f) - fast_exp(g), x);
    return select(x == x, select(a < f32x16(1.0f), x * p, large), x);
}

GM_HD f32x16 relu(f32x16 x) { return select(x < f32x16(0.0f), f32x16(0.0f), x); }  // NaN stays
GM_HD f32x16 silu(f32x16 x) { return x / (f32x16(1.0f) + fast_exp(-x)); }
GM_HD f32x16 gelu(f32x16 x) {
    const f32x16 half = f32x16(0.5f) * x;
    return fma(half, fast_erf(x * f32x16(0x1.6a09e6p-1f)), half);
}
GM_HD f32x16 gelu_tanh(f32x16 x) {
    const f32x16 half = f32x16(0.5f) * x;
    const f32x16 inner = fma(x * x, f32x16(0.044715f) * x, x) * f32x16(0x1.988454p-1f);  // sqrt(2 / pi)
    return fma(half, fast_tanh(inner), half);
}

// cap tanh(x / cap): x near 0, and never beyond the cap.
GM_HD f32x16 soft_cap(f32x16 x, float cap) { return f32x16(cap) * fast_tanh(x / f32x16(cap)); }

GM_NAMESPACE_END
