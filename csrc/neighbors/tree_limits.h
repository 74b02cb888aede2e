// How far a search in a tree looks, and which box comes first. For body files.
#pragma once

#include "neighbors/tree_boxes.h"

GM_NAMESPACE_BEGIN

template <class F>
struct Limits;
template <>
struct Limits<float> {
    static constexpr float unit = 0x1p-24f, least = __FLT_MIN__, infinity = __builtin_inff();
};
template <>
struct Limits<double> {
    static constexpr double unit = 0x1p-53, least = __DBL_MIN__, infinity = __builtin_inf();
};

// No square beyond it has a root that rounds to `distance` or less.
template <class F>
GM_HD F square_limit(F distance) {
    return distance == F(0) ? F(0) : distance * distance * (F(1) + 8 * Limits<F>::unit) + Limits<F>::least;
}

template <class F>
GM_HD x16<F> square_limits(x16<F> distance) {
    const x16<F> limit = distance * distance * x16<F>(F(1) + 8 * Limits<F>::unit) + x16<F>(Limits<F>::least);
    return select(distance == x16<F>(F(0)), distance, limit);
}

// Bit i: values[i] < bound, or == value.
GM_HD uint32_t bits_below(const uint32_t* values, int64_t bound) {
    return movemask(u32x16::load(values) < u32x16(static_cast<uint32_t>(bound)));
}
GM_HD uint32_t bits_equal(const uint32_t* values, int64_t value) {
    return movemask(u32x16::load(values) == u32x16(static_cast<uint32_t>(value)));
}

// The lane of the smallest value among those of `bits`, which are not 0.
template <class F>
GM_HD int nearest_lane(const F* values, uint32_t bits) {
    int best = __builtin_ctz(bits);
    for (bits &= bits - 1; bits != 0; bits &= bits - 1) {
        const int lane = __builtin_ctz(bits);
        best = values[lane] < values[best] ? lane : best;
    }
    return best;
}
#if defined(__AVX512F__)
GM_HD int nearest_lane(const float* values, uint32_t bits) {
    if ((bits & (bits - 1)) == 0) return __builtin_ctz(bits);
    const __m512 v = _mm512_load_ps(values);
    const __mmask16 mask = static_cast<__mmask16>(bits);
    return __builtin_ctz(_mm512_mask_cmpeq_ps_mask(mask, v, _mm512_set1_ps(_mm512_mask_reduce_min_ps(mask, v))));
}
#endif

GM_NAMESPACE_END
