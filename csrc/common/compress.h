// Chosen lanes of a pack, stored one after another. For body files.
#pragma once

#include "common/simd.h"

GM_NAMESPACE_BEGIN

#if defined(__AVX512F__)

// The lanes whose bits are set, chosen once for several packs: compress(pack, to) needs room for sixteen at `to`.
struct Compress {
    uint32_t bits;

    template <class T>
    GM_HD void operator()(x16<T> a, T* to) const {
        for (int i = 0; i < x16<T>::parts; ++i) {
            if constexpr (sizeof(T) == 4) {
                _mm512_storeu_si512(to, _mm512_maskz_compress_epi32(static_cast<__mmask16>(bits), (__m512i)a.p[i]));
            } else {
                const auto mask = static_cast<__mmask8>(bits >> (8 * i));
                _mm512_storeu_si512(to, _mm512_maskz_compress_epi64(mask, (__m512i)a.p[i]));
                to += __builtin_popcount(mask);
            }
        }
    }
};

#elif defined(__AVX2__)

// Byte i of entry m: the i-th set bit of m.
struct SetBits {
    uint64_t of[256] = {};
    constexpr SetBits() {
        for (uint64_t m = 0; m < 256; ++m)
            for (uint64_t lane = 0, i = 0; lane < 8; ++lane)
                if (m >> lane & 1) of[m] |= lane << (8 * i++);
    }
};
inline constexpr SetBits kSetBits;

struct Compress {
    explicit Compress(uint32_t chosen) : bits(chosen) {
        for (int i = 0; i < 2; ++i) lanes_of_8[i] = places(bits >> (8 * i) & 255);
    }
    template <class T>
    GM_HD void operator()(x16<T> a, T* to) const {
        for (int i = 0; i < x16<T>::parts; ++i) {
            const uint32_t mask = bits >> (x16<T>::width * i) & ((1u << x16<T>::width) - 1);
            // Two places for each of four lanes.
            const __m256i at = sizeof(T) == 4
                                   ? lanes_of_8[i & 1]
                                   : places(((mask & 1) | (mask & 2) << 1 | (mask & 4) << 2 | (mask & 8) << 3) * 3);
            _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), _mm256_permutevar8x32_epi32((__m256i)a.p[i], at));
            to += __builtin_popcount(mask);
        }
    }
    static GM_HD __m256i places(uint32_t mask) {
        return _mm256_cvtepu8_epi32(_mm_cvtsi64_si128(static_cast<long long>(kSetBits.of[mask])));
    }
    uint32_t bits;
    __m256i lanes_of_8[2];
};

#else

struct Compress {
    explicit Compress(uint32_t bits) {
        uint8_t* at = lanes;
        for (int i = 0; i < 16; ++i) {
            *at = static_cast<uint8_t>(i);
            at += bits >> i & 1;
        }
        for (; at < lanes + 16; ++at) *at = 0;
    }
    template <class T>
    GM_HD void operator()(x16<T> a, T* to) const {
        alignas(64) T from[16];
        a.store(from);
        for (int i = 0; i < 16; ++i) to[i] = from[lanes[i]];
    }
    uint8_t lanes[16];
};

#endif

GM_NAMESPACE_END
