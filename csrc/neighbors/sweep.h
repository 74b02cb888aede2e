// The tile engine: a tile of queries meets a block of references, and a reducer folds the pairs' values away.
//
// A squared distance has one order of sums (docs/neighbors.md): lane d % 16 adds (q_d - r_d)^2 in the order of d, each
// product and sum rounded on its own, then sum_lanes' tree. Both loops below follow it: where lanes are coordinates as
// it stands, where lanes are references with one variable per coordinate and the tree written over the variables.
// Other values of a pair (inner products, ...) differ in the Term alone.
// This header is for body files only.
#pragma once

#include "common/simd.h"
#include "neighbors/neighbors.h"

GM_NAMESPACE_BEGIN

// What a coordinate gives to the value of a pair, and how two such are joined. Two zeros give 0: padding is free.
struct Sum {
    template <class V>
    static GM_HD V join(V a, V b) {
        return a + b;
    }
};
struct SquaredDifference : Sum {
    template <class V>
    static GM_HD V of(V x, V y) {
        const V e = x - y;
        return e * e;
    }
};
struct Product : Sum {
    template <class V>
    static GM_HD V of(V x, V y) {
        return x * y;
    }
};
template <class F>
GM_HD x16<F> absolute(x16<F> x) {
    using U = typename Bits<x16<F>>::U;
    return bit_cast<F>(bit_cast<typename U::scalar>(x) & ~(U(1) << (sizeof(F) * 8 - 1)));
}
struct AbsoluteDifference : Sum {
    template <class V>
    static GM_HD V of(V x, V y) {
        return absolute(x - y);
    }
};
struct LargestDifference {
    template <class V>
    static GM_HD V of(V x, V y) {
        return absolute(x - y);
    }
    template <class V>
    static GM_HD V join(V a, V b) {
        return max(a, b);
    }
    static GM_HD float join(float a, float b) { return a > b ? a : b; }
    static GM_HD double join(double a, double b) { return a > b ? a : b; }
};

// Bit i: !(a[i] >= b[i]), so true where either is NaN.
GM_HD uint32_t bits_not_ge(f32x16 a, f32x16 b) {
#if defined(__AVX512F__)
    return _mm512_cmp_ps_mask((__m512)a.p[0], (__m512)b.p[0], _CMP_NGE_UQ);
#elif defined(__AVX2__)
    uint32_t bits = 0;
    for (int i = 0; i < 2; ++i)
        bits |= static_cast<uint32_t>(_mm256_movemask_ps(_mm256_cmp_ps((__m256)a.p[i], (__m256)b.p[i], _CMP_NGE_UQ)))
                << (8 * i);
    return bits;
#else
    return movemask(~(a >= b));
#endif
}
GM_HD uint32_t bits_not_ge(f64x16 a, f64x16 b) {
    uint32_t bits = 0;
#if defined(__AVX512F__)
    for (int i = 0; i < 2; ++i)
        bits |= static_cast<uint32_t>(_mm512_cmp_pd_mask((__m512d)a.p[i], (__m512d)b.p[i], _CMP_NGE_UQ)) << (8 * i);
#elif defined(__AVX2__)
    for (int i = 0; i < 4; ++i)
        bits |= static_cast<uint32_t>(_mm256_movemask_pd(_mm256_cmp_pd((__m256d)a.p[i], (__m256d)b.p[i], _CMP_NGE_UQ)))
                << (4 * i);
#else
    for (int i = 0; i < 16; ++i) {
        const int part = i / f64x16::width, lane = i % f64x16::width;
        bits |= static_cast<uint32_t>(!(a.p[part][lane] >= b.p[part][lane])) << i;
    }
#endif
    return bits;
}
// Bit i: a[i] <= b[i].
template <class F>
GM_HD uint32_t bits_le(x16<F> a, x16<F> b) {
    return 0xffffu & ~bits_not_ge(b, a);
}

// The lanes of a pack joined in sum_lanes' order.
template <class Term, class F>
GM_HD F join_lanes(x16<F> a) {
    alignas(64) F v[16];
    a.store(v);
    for (int half = 8; half >= 1; half /= 2)
        for (int i = 0; i < half; ++i) v[i] = Term::join(v[i], v[i + half]);
    return v[0];
}

// out[i] = join_lanes(acc[i]) for sixteen packs.
template <class Term>
GM_HD f32x16 join_lanes_of_16(const f32x16* acc) {
#if defined(__AVX512F__)
    // Each step joins the halves of the written tree for two packs at once; the packs are taken in the order that
    // leaves pack i's value in lane i.
    const auto join = [](__m512 x, __m512 y) __attribute__((always_inline)) {
        f32x16 a, b;
        a.p[0] = (f32x16::native)x;
        b.p[0] = (f32x16::native)y;
        return (__m512)Term::join(a, b).p[0];
    };
    __m512 a[8], b[4], c[2];
    for (int i = 0; i < 8; ++i) {  // packs (i, i + 8): eight lanes each
        const __m512 x = (__m512)acc[i].p[0], y = (__m512)acc[i + 8].p[0];
        a[i] = join(_mm512_shuffle_f32x4(x, y, 0x44), _mm512_shuffle_f32x4(x, y, 0xee));
    }
    for (int i = 0; i < 4; ++i)  // packs i, i + 8, i + 4, i + 12: four lanes each
        b[i] = join(_mm512_shuffle_f32x4(a[i], a[i + 4], 0x88), _mm512_shuffle_f32x4(a[i], a[i + 4], 0xdd));
    for (int i = 0; i < 2; ++i)  // per 128 bits: packs i and i + 2, two lanes each
        c[i] = join(_mm512_shuffle_ps(b[i], b[i + 2], 0x44), _mm512_shuffle_ps(b[i], b[i + 2], 0xee));
    // per 128 bits: packs 0, 2, 1, 3 plus the base of that quarter (0, 8, 4, 12)
    const __m512 joined = join(_mm512_shuffle_ps(c[0], c[1], 0x88), _mm512_shuffle_ps(c[0], c[1], 0xdd));
    const __m512i order = _mm512_setr_epi32(0, 2, 1, 3, 8, 10, 9, 11, 4, 6, 5, 7, 12, 14, 13, 15);
    f32x16 out;
    out.p[0] = (f32x16::native)_mm512_permutexvar_ps(order, joined);
    return out;
#else
    alignas(64) float out[16];
    for (int i = 0; i < 16; ++i) out[i] = join_lanes<Term>(acc[i]);
    return f32x16::load(out);
#endif
}
template <class Term>
GM_HD f64x16 join_lanes_of_16(const f64x16* acc) {
    alignas(64) double out[16];
    for (int i = 0; i < 16; ++i) out[i] = join_lanes<Term>(acc[i]);
    return f64x16::load(out);
}

// The written tree over variables v[0 .. W-1] (zeros above): v[i] + v[i + 8], then + 4, + 2, + 1.
template <class Term, int W, class V>
GM_HD V join_variables(V* v) {
#pragma GCC unroll 4
    for (int half = 8; half >= 1; half /= 2)
#pragma GCC unroll 8
        for (int i = 0; i < half; ++i)
            if (i + half < W) v[i] = Term::join(v[i], v[i + half]);
    return v[0];
}

// Lanes are references. reduce(query row, first reference of the group in the block, lanes in use, values)
template <class Term, int W, class F, class Reduce>
inline void sweep_low(const Sweep<F>& s, Reduce& reduce) {
    using V = x16<F>;
    for (int64_t q = 0; q < s.query_count; q += kQueryTile) {
        const F* x = s.queries + q * W;
        const int rows = static_cast<int>(s.query_count - q < kQueryTile ? s.query_count - q : kQueryTile);
        for (int64_t r = 0; r < s.count; r += kGroup) {
            const F* y = s.references + r * W;
            const int lanes = static_cast<int>(s.count - r < kGroup ? s.count - r : kGroup);
            for (int i = 0; i < rows; ++i) {
                V v[W];
#pragma GCC unroll 16
                for (int d = 0; d < W; ++d) v[d] = Term::of(V(x[i * W + d]), V::load(y + d * kGroup));
                reduce(q + i, r, lanes, join_variables<Term, W>(v));
            }
        }
    }
}

#if defined(__AVX512F__)
constexpr int kTileReferences32 = 4, kTileQueries32 = 4, kTileReferences64 = 4, kTileQueries64 = 2;
#elif defined(__AVX2__)
constexpr int kTileReferences32 = 2, kTileQueries32 = 2, kTileReferences64 = 2, kTileQueries64 = 1;
#else
constexpr int kTileReferences32 = 2, kTileQueries32 = 1, kTileReferences64 = 1, kTileQueries64 = 1;
#endif
template <class F>
struct TileOf {
    static constexpr int queries = kTileQueries32, references = kTileReferences32;
};
template <>
struct TileOf<double> {
    static constexpr int queries = kTileQueries64, references = kTileReferences64;
};

// Lanes are coordinates. A register tile of Q queries x R references: acc[i * stride + j] of query i, reference j.
template <class Term, int Q, int R, class F>
GM_HD void pair_tile(const F* x, const F* y, int64_t width, x16<F>* acc, int stride) {
    using V = x16<F>;
    V a[Q][R];
#pragma GCC unroll 4
    for (int i = 0; i < Q; ++i)
#pragma GCC unroll 4
        for (int j = 0; j < R; ++j) a[i][j] = V(F(0));
    for (int64_t d = 0; d < width; d += 16) {
        V xs[Q];
#pragma GCC unroll 4
        for (int i = 0; i < Q; ++i) xs[i] = V::load(x + i * width + d);
#pragma GCC unroll 4
        for (int j = 0; j < R; ++j) {
            const V ys = V::load(y + j * width + d);
#pragma GCC unroll 4
            for (int i = 0; i < Q; ++i) a[i][j] = Term::join(a[i][j], Term::of(xs[i], ys));
        }
    }
#pragma GCC unroll 4
    for (int i = 0; i < Q; ++i)
#pragma GCC unroll 4
        for (int j = 0; j < R; ++j) acc[i * stride + j] = a[i][j];
}

template <class Term, class F, class Reduce>
inline void sweep_high(const Sweep<F>& s, Reduce& reduce) {
    constexpr int Q = TileOf<F>::queries, R = TileOf<F>::references;
    x16<F> acc[Q][kGroup];
    for (int64_t q = 0; q < s.query_count; q += Q) {
        const F* x = s.queries + q * s.width;
        const int rows = static_cast<int>(s.query_count - q < Q ? s.query_count - q : Q);
        for (int64_t r = 0; r < s.count; r += kGroup) {
            const int lanes = static_cast<int>(s.count - r < kGroup ? s.count - r : kGroup);
            for (int j = 0; j < lanes; j += R)
                pair_tile<Term, Q, R>(x, s.references + (r + j) * s.width, s.width, &acc[0][j], kGroup);
            for (int i = 0; i < rows; ++i) reduce(q + i, r, lanes, join_lanes_of_16<Term>(acc[i]));
        }
    }
}

template <class Term, class F, class Reduce>
inline void sweep(const Sweep<F>& s, Reduce reduce) {
    switch (s.width) {
        case 1:
            return sweep_low<Term, 1>(s, reduce);
        case 2:
            return sweep_low<Term, 2>(s, reduce);
        case 3:
            return sweep_low<Term, 3>(s, reduce);
        case 4:
            return sweep_low<Term, 4>(s, reduce);
        case 8:
            return sweep_low<Term, 8>(s, reduce);
        case 16:
            return sweep_low<Term, 16>(s, reduce);
        default:
            return sweep_high<Term>(s, reduce);
    }
}

GM_NAMESPACE_END
