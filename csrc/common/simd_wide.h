// Sixty-four lanes: four packs that go through a function together. Where each step waits for the one before, as in a
// polynomial, a processor does not look far enough ahead to overlap packs that come one after another. For body files.
#pragma once

#include "common/simd.h"

GM_NAMESPACE_BEGIN

template <class T>
struct x64 {
    x16<T> q[4];

    x64() = default;
    GM_HD x64(T value) {
        for (int i = 0; i < 4; ++i) q[i] = x16<T>(value);
    }
};

template <>
struct Bits<x64<float>> {
    using real = float;
};
template <>
struct Bits<x64<double>> {
    using real = double;
};

#define GM_BINARY(OP)                                          \
    template <class T>                                         \
    GM_HD x64<T> operator OP(x64<T> a, x64<T> b) {             \
        for (int i = 0; i < 4; ++i) a.q[i] = a.q[i] OP b.q[i]; \
        return a;                                              \
    }
GM_BINARY(+)
GM_BINARY(-)
GM_BINARY(*)
#undef GM_BINARY

template <class T>
GM_HD x64<typename MaskOf<T>::type> operator>=(x64<T> a, x64<T> b) {
    x64<typename MaskOf<T>::type> r;
    for (int i = 0; i < 4; ++i) r.q[i] = a.q[i] >= b.q[i];
    return r;
}
template <class T>
GM_HD x64<T> operator<<(x64<T> a, int bits) {
    for (int i = 0; i < 4; ++i) a.q[i] = a.q[i] << bits;
    return a;
}
template <class T>
GM_HD x64<T> select(x64<typename MaskOf<T>::type> mask, x64<T> a, x64<T> b) {
    for (int i = 0; i < 4; ++i) a.q[i] = select(mask.q[i], a.q[i], b.q[i]);
    return a;
}
template <class To, class From>
GM_HD x64<To> bit_cast(x64<From> a) {
    x64<To> r;
    for (int i = 0; i < 4; ++i) r.q[i] = bit_cast<To>(a.q[i]);
    return r;
}

GM_NAMESPACE_END
