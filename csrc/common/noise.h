// From words of noise to numbers: uniforms, exponentials, Gumbels and normals, bit for bit those of docs/noise.md.
//
// A word w stands for u = (w + 1/2) / 2^bits. Logarithms start from the word: near u = 1 the complement ~w is
// converted, which is exact where the float u would have rounded away its distance from 1.
#pragma once

#include "common/elementary.h"
#include "common/philox.h"

GM_NAMESPACE_BEGIN

// The stream numbers of docs/noise.md. Numbers below 256 belong to the library.
enum Stream : uint32_t {
    kStreamUser = 0,
    kStreamToken = 1,
    kStreamKick = 2,
    kStreamLatent = 3,
    kStreamContext = 4,
    kStreamGibbs = 5,
    kStreamInitial = 6,
    kStreamExplore = 7,
    kStreamProjection = 8,
    kStreamBootstrap = 9,
};

// A Gumbel's word below this is refined by a second word, drawn from the stream number with its top bit set.
constexpr uint32_t kTailWords = 256;
constexpr uint32_t kTailStream = 0x80000000u;

template <class F, class U>
GM_HD F unit_from_word(U w, float, F tail) {
    return convert<float>(w) * F(0x1p-32f) + tail;
}
template <class F, class U>
GM_HD F unit_from_word(U w, double, F tail) {
    return convert<double>(w) * F(0x1p-64) + tail;
}

template <class R>
struct WordRange;  // half a word's width, the largest uniform, and the word at u = 1 - sqrt(1/2)
template <>
struct WordRange<float> {
    static constexpr float half = 0x1p-33f, last = 0x1.fffffep-1f;
    static constexpr uint32_t split = 0x4AFB0CCCu;
};
template <>
struct WordRange<double> {
    static constexpr double half = 0x1p-65, last = 0x1.fffffffffffffp-1;
    static constexpr uint64_t split = 0x4AFB0CCC06219B7Bu;
};

// Uniform in [2^-33, 1 - 2^-24] (float) or [2^-65, 1 - 2^-53] (double).
template <class F, class U>
GM_HD F uniform_from_word(U w) {
    using R = typename Bits<F>::real;
    const F u = unit_from_word<F>(w, R(), F(WordRange<R>::half));
    return select(u < F(WordRange<R>::last), u, F(WordRange<R>::last));
}

// -log(1 - u), a standard exponential; `tail` is what is added to w / 2^bits (half a word where not refined).
template <class F, class U>
GM_HD F exponential_from_word(U w, F tail) {
    using R = typename Bits<F>::real;
    const F u = unit_from_word<F>(w, R(), tail);
    Reduced<F> x = reduce(unit_from_word<F>(~w, R(), F(WordRange<R>::half)), R());
    const auto near_zero = w < U(WordRange<R>::split);
    x.e = select(near_zero, F(R(0)), x.e);
    x.r = select(near_zero, -u, x.r);
    return -log_from(x, R());
}
template <class F, class U>
GM_HD F exponential_from_word(U w) {
    return exponential_from_word<F>(w, F(WordRange<typename Bits<F>::real>::half));
}

// -log(-log(1 - u)), a standard Gumbel: largest for the smallest word.
template <class F, class U>
GM_HD F gumbel_from_word(U w) {
    return -log_positive(exponential_from_word<F>(w));
}
// The same for a word below kTailWords, with the next 32 bits `w2`: resolves probabilities down to 2^-65.
GM_HD float gumbel_from_tail(uint32_t w, uint32_t w2) {
    const float tail = (convert<float>(w2) + 0.5f) * 0x1p-64f;
    return -log_positive(exponential_from_word<float>(w, tail));
}
// The second word of word `lane` of `block`.
GM_HD uint32_t tail_word(int64_t seed, uint32_t stream, int64_t id, uint32_t step, uint32_t block, int lane) {
    return noise_block<uint32_t>(noise_key(seed, stream | kTailStream), id, step, block).w[lane];
}

// Two normals from two words (Box and Muller, 1958): radius from the first, angle 2 pi (w1 + 1/2) / 2^bits from the
// second, whose top bits give the quadrant exactly.
template <class F>
struct Pair {
    F first, second;
};
template <class F, class U>
GM_HD F angle_in_quadrant(U w, U* quadrant, float) {
    *quadrant = (w + U(0x20000000u)) >> 30;
    const auto d = bit_cast<int32_t>(w - (*quadrant << 30));
    return (convert<float>(d) + F(0.5f)) * F(0x1.921fb6p-30f);
}
template <class F, class U>
GM_HD F angle_in_quadrant(U w, U* quadrant, double) {
    *quadrant = (w + U(uint64_t(1) << 61)) >> 62;
    const auto d = bit_cast<int64_t>(w - (*quadrant << 62));
    return (convert<double>(d) + F(0.5)) * F(0x1.921fb54442d18p-62);
}
template <class F, class U>
GM_HD F flip_sign(F x, U bit) {  // bit is 0 or 2
    constexpr int shift = static_cast<int>(sizeof(typename Bits<F>::real)) * 8 - 2;
    using W = typename Bits<typename Bits<F>::real>::U;
    return bit_cast<typename Bits<F>::real>(bit_cast<W>(x) ^ (bit << shift));
}
template <class F, class U>
GM_HD Pair<F> normals_from_words(U w0, U w1) {
    using R = typename Bits<F>::real;
    U quadrant;
    const SinCos<F> t = sincos_reduced(angle_in_quadrant<F>(w1, &quadrant, R()), R());
    const F e = exponential_from_word<F>(w0);
    const F radius = sqrt(e + e);
    const auto odd = (quadrant & U(1)) == U(1);
    const F c = flip_sign(select(odd, t.sin, t.cos), (quadrant + U(1)) & U(2));
    const F s = flip_sign(select(odd, t.cos, t.sin), quadrant & U(2));
    return {radius * c, radius * s};
}

GM_NAMESPACE_END
