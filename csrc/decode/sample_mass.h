// Sums of probability without an order: each e^w, w <= 0, is rounded to a whole number of 2^-42 (fp64: 2^-84) and whole
// numbers are added, so any lanes, threads, blocks and devices give the same bits. For body files.
#pragma once

#include "common/simd.h"

GM_NAMESPACE_BEGIN

template <class F>
struct Fixed;

// A value v in [0, 1] is high 2^-22 + low 2^-42: adding `coarse` leaves the high part in the low bits of the sum, and
// what is left, at most 2^-23, gives the low part in the same way.
template <>
struct Fixed<float> {
    using Mass = int64_t;
    static constexpr float coarse = 3.0f, fine = 0x1.8p-19f;
    static constexpr int32_t coarse_bits = 0x40400000, fine_bits = 0x36400000;
    static constexpr int shift = 20;  // high counts 2^20 of the low part's units
    static Mass join(int64_t high, int64_t low) { return (high << shift) + low; }
    static float real(Mass m) { return convert<float>(m) * 0x1p-42f; }
    static double wide(Mass m) { return convert<double>(m) * 0x1p-42; }
    // The least whole mass that is at least part * whole.
    static Mass share(double part, Mass whole) {
        const Mass target = static_cast<Mass>(__builtin_ceil(part * convert<double>(whole)));
        return target < 1 ? 1 : target < whole ? target : whole;
    }
};
// high 2^-42 + low 2^-84.
template <>
struct Fixed<double> {
    using Mass = __int128;
    static constexpr double coarse = 0x1.8p10, fine = 0x1.8p-32;
    static constexpr int64_t coarse_bits = 0x4098000000000000, fine_bits = 0x3DF8000000000000;
    static constexpr int shift = 42;
    static Mass join(int64_t high, int64_t low) { return (static_cast<Mass>(high) << shift) + low; }
    static double real(Mass m) {
        const auto high = static_cast<int64_t>(m >> shift);
        const auto low = static_cast<int64_t>(m) & ((int64_t(1) << shift) - 1);
        return convert<double>(high) * 0x1p-42 + convert<double>(low) * 0x1p-84;
    }
    static double wide(Mass m) { return real(m); }
    static Mass share(double part, Mass whole) {
        const double target = (part * real(whole)) * 0x1p42, floor = __builtin_floor(target);
        const Mass exact = join(static_cast<int64_t>(floor), static_cast<int64_t>((target - floor) * 0x1p42));
        return exact < 1 ? 1 : exact < whole ? exact : whole;
    }
};

template <class F>
inline typename Fixed<F>::Mass mass_of(F v) {
    using X = Fixed<F>;
    using I = typename Bits<F>::I;
    const F t = v + X::coarse;
    const F rest = (v - (t - X::coarse)) + X::fine;
    return X::join(bit_cast<I>(t) - X::coarse_bits, bit_cast<I>(rest) - X::fine_bits);
}

// Many of them, sixteen at a time.
template <class F>
class MassSum {
    using X = Fixed<F>;
    using I = typename Bits<F>::I;
    using V = x16<F>;
    using U = typename Bits<F>::U;
    x16<U> high_ = x16<U>(U(0)), low_ = x16<U>(U(0));  // with the constants' own bits, modulo a word, until a flush
    U added_ = 0;
    typename X::Mass total_ = 0;

 public:
    GM_HD void add(V v) {
        const V t = v + V(X::coarse);
        const V rest = (v - (t - V(X::coarse))) + V(X::fine);
        high_ = high_ + bit_cast<U>(t);
        low_ = low_ + bit_cast<U>(rest);
        ++added_;
    }
    // To be called at least every 511 additions: 2^22 a lane, and 32-bit lanes in fp32.
    GM_HD void flush() {
        alignas(64) U high[16], low[16];
        high_.store(high);
        low_.store(low);
        int64_t h = 0, l = 0;
        for (int i = 0; i < 16; ++i) {
            h += static_cast<I>(high[i] - added_ * static_cast<U>(X::coarse_bits));
            l += static_cast<I>(low[i] - added_ * static_cast<U>(X::fine_bits));
        }
        total_ += X::join(h, l);
        high_ = low_ = x16<U>(U(0));
        added_ = 0;
    }
    GM_HD typename X::Mass total() {
        flush();
        return total_;
    }
};

GM_NAMESPACE_END
