// The operations of simd.h on plain numbers, so that csrc/common/elementary.h and noise.h are written once for a
// lane pack on a CPU and for a number on a GPU or a host.
#pragma once

#include <cstdint>
#include <cstring>
#if !defined(__CUDACC__)
#include <cmath>
#endif

#include "common/macros.h"

GM_NAMESPACE_BEGIN

GM_HD float select(bool mask, float a, float b) { return mask ? a : b; }
GM_HD double select(bool mask, double a, double b) { return mask ? a : b; }

template <class To, class From>
GM_HD To bit_cast(From from) {
    static_assert(sizeof(To) == sizeof(From), "one size");
    To to;
    memcpy(&to, &from, sizeof(to));
    return to;
}

// Rounded to nearest.
template <class To, class From>
GM_HD To convert(From from) {
    return static_cast<To>(from);
}

GM_HD uint32_t mulhi(uint32_t a, uint32_t b) { return static_cast<uint32_t>((static_cast<uint64_t>(a) * b) >> 32); }

// Correctly rounded, as IEEE 754 asks.
GM_HD float sqrt(float x) {
#if defined(__CUDA_ARCH__)
    return __fsqrt_rn(x);
#elif defined(__CUDACC__)
    return ::sqrtf(x);
#else
    return __builtin_sqrtf(x);
#endif
}
GM_HD double sqrt(double x) {
#if defined(__CUDA_ARCH__)
    return __dsqrt_rn(x);
#elif defined(__CUDACC__)
    return ::sqrt(x);
#else
    return __builtin_sqrt(x);
#endif
}

GM_NAMESPACE_END
