// Sixteen virtual lanes on every instruction set: one source, one order of operations, the same bits.
//
//   f32x16, i32x16, u32x16   sixteen 32-bit lanes      f64x16   sixteen 64-bit lanes
//
// A pack is an array of native registers (1 x 512, 2 x 256 or 4 x 128 bits), so that the compiler keeps each in a
// register. + - * / and comparisons are lane-wise and correctly rounded; fma() is fused on avx2 and avx512 and
// a*b+c on baseline, so it has no place where bits are promised across instruction sets. Masks are i32x16 of 0 and -1.
// This header is for body files only (GM_ISA is defined there).
#pragma once

#include <cstdint>
#include <cstring>

#include "common/elementary.h"

#if defined(__SSE2__)
#include <immintrin.h>
#endif

GM_NAMESPACE_BEGIN

#if defined(__AVX512F__)
#define GM_BYTES 64
#elif defined(__AVX2__)
#define GM_BYTES 32
#else
#define GM_BYTES 16
#endif

template <class T>
struct NativeOf {
    typedef T type __attribute__((vector_size(GM_BYTES)));
};

template <class T>
struct MaskOf;
template <>
struct MaskOf<float> {
    using type = int32_t;
};
template <>
struct MaskOf<int32_t> {
    using type = int32_t;
};
template <>
struct MaskOf<uint32_t> {
    using type = int32_t;
};
template <>
struct MaskOf<double> {
    using type = int64_t;
};
template <>
struct MaskOf<int64_t> {
    using type = int64_t;
};
template <>
struct MaskOf<uint64_t> {
    using type = int64_t;
};

// Sixteen lanes of T in `parts` native registers.
template <class T>
struct x16 {
    using scalar = T;
    using native = typename NativeOf<T>::type;
    static constexpr int lanes = 16;
    static constexpr int width = GM_BYTES / static_cast<int>(sizeof(T));
    static constexpr int parts = lanes / width;
    native p[parts];

    x16() = default;
    GM_HD x16(T value) {
        for (int i = 0; i < parts; ++i) p[i] = value - native{};  // keeps the sign of -0
    }
    static GM_HD x16 load(const T* from) {  // no alignment asked
        x16 r;
        for (int i = 0; i < parts; ++i) std::memcpy(&r.p[i], from + i * width, GM_BYTES);
        return r;
    }
    // The first `count` lanes from memory, `fill` in the others; nothing past from[count-1] is read.
    static GM_HD x16 load_first(const T* from, int count, T fill) {
        alignas(64) T buffer[lanes];
        for (int i = 0; i < lanes; ++i) buffer[i] = fill;
        std::memcpy(buffer, from, static_cast<size_t>(count) * sizeof(T));
        return load(buffer);
    }
    GM_HD void store(T* to) const {
        for (int i = 0; i < parts; ++i) std::memcpy(to + i * width, &p[i], GM_BYTES);
    }
    GM_HD void store_first(T* to, int count) const {
        alignas(64) T buffer[lanes];
        store(buffer);
        std::memcpy(to, buffer, static_cast<size_t>(count) * sizeof(T));
    }
};

template <>
struct Bits<x16<float>> {
    using U = x16<uint32_t>;
    using I = x16<int32_t>;
    using real = float;
};
template <>
struct Bits<x16<double>> {
    using U = x16<uint64_t>;
    using I = x16<int64_t>;
    using real = double;
};

using f32x16 = x16<float>;
using i32x16 = x16<int32_t>;
using u32x16 = x16<uint32_t>;
using f64x16 = x16<double>;
using i64x16 = x16<int64_t>;
using u64x16 = x16<uint64_t>;

#define GM_BINARY(OP)                                                      \
    template <class T>                                                     \
    GM_HD x16<T> operator OP(x16<T> a, x16<T> b) {                         \
        for (int i = 0; i < x16<T>::parts; ++i) a.p[i] = a.p[i] OP b.p[i]; \
        return a;                                                          \
    }
GM_BINARY(+)
GM_BINARY(-)
GM_BINARY(*)
GM_BINARY(/)
GM_BINARY(&)
GM_BINARY(|)
GM_BINARY(^)
#undef GM_BINARY

#define GM_COMPARE(OP)                                                                   \
    template <class T>                                                                   \
    GM_HD x16<typename MaskOf<T>::type> operator OP(x16<T> a, x16<T> b) {                \
        x16<typename MaskOf<T>::type> r;                                                 \
        for (int i = 0; i < x16<T>::parts; ++i)                                          \
            r.p[i] = (typename x16<typename MaskOf<T>::type>::native)(a.p[i] OP b.p[i]); \
        return r;                                                                        \
    }
GM_COMPARE(<)
GM_COMPARE(<=)
GM_COMPARE(>)
GM_COMPARE(>=)
GM_COMPARE(==)
GM_COMPARE(!=)
#undef GM_COMPARE

template <class T>
GM_HD x16<T> operator-(x16<T> a) {
    for (int i = 0; i < x16<T>::parts; ++i) a.p[i] = -a.p[i];
    return a;
}
template <class T>
GM_HD x16<T> operator~(x16<T> a) {
    for (int i = 0; i < x16<T>::parts; ++i) a.p[i] = ~a.p[i];
    return a;
}
template <class T>
GM_HD x16<T> operator<<(x16<T> a, int bits) {
    for (int i = 0; i < x16<T>::parts; ++i) a.p[i] = a.p[i] << bits;
    return a;
}
template <class T>
GM_HD x16<T> operator>>(x16<T> a, int bits) {  // arithmetic for signed lanes, logical for unsigned ones
    for (int i = 0; i < x16<T>::parts; ++i) a.p[i] = a.p[i] >> bits;
    return a;
}

// mask ? a : b, lane-wise.
template <class T>
GM_HD x16<T> select(x16<typename MaskOf<T>::type> mask, x16<T> a, x16<T> b) {
    for (int i = 0; i < x16<T>::parts; ++i) a.p[i] = mask.p[i] ? a.p[i] : b.p[i];
    return a;
}

// a < b ? a : b: b where either is NaN.
template <class T>
GM_HD x16<T> min(x16<T> a, x16<T> b) {
    return select(a < b, a, b);
}
template <class T>
GM_HD x16<T> max(x16<T> a, x16<T> b) {
    return select(a > b, a, b);
}

// The sign bits of the lanes as an integer: lane i in bit i.
GM_HD uint32_t movemask(i32x16 mask) {
#if defined(__AVX512F__)
    return static_cast<uint32_t>(_mm512_movepi32_mask((__m512i)mask.p[0]));
#elif defined(__AVX2__)
    return static_cast<uint32_t>(_mm256_movemask_ps((__m256)mask.p[0])) |
           (static_cast<uint32_t>(_mm256_movemask_ps((__m256)mask.p[1])) << 8);
#elif defined(__SSE2__)
    uint32_t bits = 0;
    for (int i = 0; i < 4; ++i) bits |= static_cast<uint32_t>(_mm_movemask_ps((__m128)mask.p[i])) << (4 * i);
    return bits;
#else
    uint32_t bits = 0;
    for (int i = 0; i < i32x16::parts; ++i)
        for (int j = 0; j < i32x16::width; ++j)
            bits |= (static_cast<uint32_t>(mask.p[i][j]) >> 31) << (i * i32x16::width + j);
    return bits;
#endif
}
GM_HD bool any(i32x16 mask) { return movemask(mask) != 0; }

// The bits of the lanes seen as another type of the same size.
template <class To, class From>
GM_HD x16<To> bit_cast(x16<From> a) {
    static_assert(sizeof(To) == sizeof(From), "lanes of one size");
    x16<To> r;
    for (int i = 0; i < x16<To>::parts; ++i) r.p[i] = (typename x16<To>::native)a.p[i];
    return r;
}

// Conversion of values between types of one size, rounded to nearest (truncated towards integers).
template <class To, class From>
GM_HD x16<To> convert(x16<From> a) {
    static_assert(sizeof(To) == sizeof(From), "lanes of one size");
    x16<To> r;
    for (int i = 0; i < x16<To>::parts; ++i) r.p[i] = __builtin_convertvector(a.p[i], typename x16<To>::native);
    return r;
}

GM_HD f32x16 sqrt(f32x16 a) {
#if defined(__AVX512F__)
    a.p[0] = (f32x16::native)_mm512_sqrt_ps((__m512)a.p[0]);
#elif defined(__AVX2__)
    for (int i = 0; i < 2; ++i) a.p[i] = (f32x16::native)_mm256_sqrt_ps((__m256)a.p[i]);
#elif defined(__SSE2__)
    for (int i = 0; i < 4; ++i) a.p[i] = (f32x16::native)_mm_sqrt_ps((__m128)a.p[i]);
#else
    for (int i = 0; i < f32x16::parts; ++i)
        for (int j = 0; j < f32x16::width; ++j) a.p[i][j] = __builtin_sqrtf(a.p[i][j]);
#endif
    return a;
}
GM_HD f64x16 sqrt(f64x16 a) {
#if defined(__AVX512F__)
    for (int i = 0; i < 2; ++i) a.p[i] = (f64x16::native)_mm512_sqrt_pd((__m512d)a.p[i]);
#elif defined(__AVX2__)
    for (int i = 0; i < 4; ++i) a.p[i] = (f64x16::native)_mm256_sqrt_pd((__m256d)a.p[i]);
#elif defined(__SSE2__)
    for (int i = 0; i < 8; ++i) a.p[i] = (f64x16::native)_mm_sqrt_pd((__m128d)a.p[i]);
#else
    for (int i = 0; i < f64x16::parts; ++i)
        for (int j = 0; j < f64x16::width; ++j) a.p[i][j] = __builtin_sqrt(a.p[i][j]);
#endif
    return a;
}

// a * b + c, rounded once on avx2 and avx512, twice on baseline.
GM_HD f32x16 fma(f32x16 a, f32x16 b, f32x16 c) {
#if defined(__AVX512F__)
    c.p[0] = (f32x16::native)_mm512_fmadd_ps((__m512)a.p[0], (__m512)b.p[0], (__m512)c.p[0]);
#elif defined(__AVX2__)
    for (int i = 0; i < 2; ++i)
        c.p[i] = (f32x16::native)_mm256_fmadd_ps((__m256)a.p[i], (__m256)b.p[i], (__m256)c.p[i]);
#else
    c = a * b + c;
#endif
    return c;
}
GM_HD f64x16 fma(f64x16 a, f64x16 b, f64x16 c) {
#if defined(__AVX512F__)
    for (int i = 0; i < 2; ++i)
        c.p[i] = (f64x16::native)_mm512_fmadd_pd((__m512d)a.p[i], (__m512d)b.p[i], (__m512d)c.p[i]);
#elif defined(__AVX2__)
    for (int i = 0; i < 4; ++i)
        c.p[i] = (f64x16::native)_mm256_fmadd_pd((__m256d)a.p[i], (__m256d)b.p[i], (__m256d)c.p[i]);
#else
    c = a * b + c;
#endif
    return c;
}

// The high 32 bits of the 64-bit products of the lanes.
GM_HD u32x16 mulhi(u32x16 a, u32x16 b) {
    u32x16 r;
#if defined(__AVX512F__)
    const __m512i x = (__m512i)a.p[0], y = (__m512i)b.p[0];
    const __m512i even = _mm512_mul_epu32(x, y);
    const __m512i odd = _mm512_mul_epu32(_mm512_srli_epi64(x, 32), _mm512_srli_epi64(y, 32));
    r.p[0] = (u32x16::native)_mm512_mask_blend_epi32(0xAAAA, _mm512_srli_epi64(even, 32), odd);
#elif defined(__AVX2__)
    for (int i = 0; i < 2; ++i) {
        const __m256i x = (__m256i)a.p[i], y = (__m256i)b.p[i];
        const __m256i even = _mm256_mul_epu32(x, y);
        const __m256i odd = _mm256_mul_epu32(_mm256_srli_epi64(x, 32), _mm256_srli_epi64(y, 32));
        r.p[i] = (u32x16::native)_mm256_blend_epi32(_mm256_srli_epi64(even, 32), odd, 0xAA);
    }
#elif defined(__SSE2__)
    const __m128i high = _mm_set_epi32(-1, 0, -1, 0);
    for (int i = 0; i < 4; ++i) {
        const __m128i x = (__m128i)a.p[i], y = (__m128i)b.p[i];
        const __m128i even = _mm_mul_epu32(x, y);
        const __m128i odd = _mm_mul_epu32(_mm_srli_epi64(x, 32), _mm_srli_epi64(y, 32));
        r.p[i] = (u32x16::native)_mm_or_si128(_mm_srli_epi64(even, 32), _mm_and_si128(odd, high));
    }
#else
    for (int i = 0; i < u32x16::parts; ++i)
        for (int j = 0; j < u32x16::width; ++j)
            r.p[i][j] = static_cast<uint32_t>((static_cast<uint64_t>(a.p[i][j]) * b.p[i][j]) >> 32);
#endif
    return r;
}

// The value of each lane in a wider type, and two 32-bit words joined to one of 64 bits.
template <class To, class From>
GM_HD x16<To> widen(x16<From> a) {
    static_assert(sizeof(To) == 2 * sizeof(From), "lanes twice as wide");
    typedef From half __attribute__((vector_size(GM_BYTES / 2)));
    alignas(64) From buffer[16];
    a.store(buffer);
    x16<To> r;
    for (int i = 0; i < x16<To>::parts; ++i) {
        half h;
        std::memcpy(&h, buffer + i * x16<To>::width, sizeof(h));
        r.p[i] = __builtin_convertvector(h, typename x16<To>::native);
    }
    return r;
}
GM_HD u64x16 join(u32x16 low, u32x16 high) { return widen<uint64_t>(low) | (widen<uint64_t>(high) << 32); }

// to[4 * lane + j] = v[j][lane]: sixteen groups of four.
GM_HD void store_groups_of_4(float* to, f32x16 v0, f32x16 v1, f32x16 v2, f32x16 v3) {
#if defined(__AVX512F__)
    const __m512 a = _mm512_unpacklo_ps((__m512)v0.p[0], (__m512)v1.p[0]);
    const __m512 b = _mm512_unpackhi_ps((__m512)v0.p[0], (__m512)v1.p[0]);
    const __m512 c = _mm512_unpacklo_ps((__m512)v2.p[0], (__m512)v3.p[0]);
    const __m512 d = _mm512_unpackhi_ps((__m512)v2.p[0], (__m512)v3.p[0]);
    // row[i] holds, in its 128-bit lane q, the group of lane 4 q + i
    const __m512d row[4] = {_mm512_unpacklo_pd((__m512d)a, (__m512d)c), _mm512_unpackhi_pd((__m512d)a, (__m512d)c),
                            _mm512_unpacklo_pd((__m512d)b, (__m512d)d), _mm512_unpackhi_pd((__m512d)b, (__m512d)d)};
    for (int i = 0; i < 4; ++i) {
        _mm_storeu_ps(to + 4 * i, _mm512_extractf32x4_ps((__m512)row[i], 0));
        _mm_storeu_ps(to + 16 + 4 * i, _mm512_extractf32x4_ps((__m512)row[i], 1));
        _mm_storeu_ps(to + 32 + 4 * i, _mm512_extractf32x4_ps((__m512)row[i], 2));
        _mm_storeu_ps(to + 48 + 4 * i, _mm512_extractf32x4_ps((__m512)row[i], 3));
    }
#else
    alignas(64) float lanes[4][16];
    v0.store(lanes[0]);
    v1.store(lanes[1]);
    v2.store(lanes[2]);
    v3.store(lanes[3]);
    for (int lane = 0; lane < 16; ++lane)
        for (int j = 0; j < 4; ++j) to[4 * lane + j] = lanes[j][lane];
#endif
}

// 0, 1, ..., 15.
template <class T>
GM_HD x16<T> iota() {
    alignas(64) T buffer[16];
    for (int i = 0; i < 16; ++i) buffer[i] = static_cast<T>(i);
    return x16<T>::load(buffer);
}

// The sum of the lanes in the one written order: lane i + lane i+8, then +4, +2, +1.
template <class T>
GM_HD T sum_lanes(x16<T> a) {
    alignas(64) T v[16];
    a.store(v);
    for (int i = 0; i < 8; ++i) v[i] += v[i + 8];
    for (int i = 0; i < 4; ++i) v[i] += v[i + 4];
    return (v[0] + v[2]) + (v[1] + v[3]);
}
template <class T>
GM_HD T max_lanes(x16<T> a) {
    alignas(64) T v[16];
    a.store(v);
    for (int i = 0; i < 8; ++i) v[i] = v[i] > v[i + 8] ? v[i] : v[i + 8];
    for (int i = 0; i < 4; ++i) v[i] = v[i] > v[i + 4] ? v[i] : v[i + 4];
    const T x = v[0] > v[2] ? v[0] : v[2], y = v[1] > v[3] ? v[1] : v[3];
    return x > y ? x : y;
}

GM_NAMESPACE_END
