// What the screened ops share: integer dot products of a register tile, and exact squares of the pairs that they leave
// open. For body files.
#pragma once

#include "neighbors/sweep.h"

GM_NAMESPACE_BEGIN

bool screen_has_bytes();  // lattice_body.inl

// How far the lists of the references reach, and the residuals of the queries that they meet.
struct ScreenColumns {
    const float *edges, *row_residuals;
};

#if defined(__AVX512F__)
constexpr int kScreenQueries = 12, kScreenGroups = 2;  // 24 sums, and half the traffic from cache of 6 by 4
#elif defined(__AVX2__)
constexpr int kScreenQueries = 2, kScreenGroups = 2;
#else
constexpr int kScreenQueries = 2, kScreenGroups = 1;
#endif

#if defined(__AVX512F__)
// Four products of bytes a lane; queries unsigned, references signed; no saturation.
struct DotBytes {
    static constexpr int values = 4;
    using Value = uint8_t;
    GM_HD static void add(i32x16& sum, i32x16 query, i32x16 reference) {
        __m512i a = (__m512i)sum.p[0];
        asm("vpdpbusd %2, %1, %0" : "+v"(a) : "v"((__m512i)query.p[0]), "v"((__m512i)reference.p[0]));
        sum.p[0] = (i32x16::native)a;
    }
};
// Two products of int16 a lane, and their sum, in one instruction; no saturation.
struct DotWordsAtOnce {
    static constexpr int values = 2;
    using Value = int16_t;
    GM_HD static void add(i32x16& sum, i32x16 query, i32x16 reference) {
        __m512i a = (__m512i)sum.p[0];
        asm("vpdpwssd %2, %1, %0" : "+v"(a) : "v"((__m512i)query.p[0]), "v"((__m512i)reference.p[0]));
        sum.p[0] = (i32x16::native)a;
    }
};
#endif
// Two products of int16 a lane. Words keep every sum on the way below 2^31 (neighbors.h), so the addition is a signed
// one, that a sanitizer sees if they do not.
struct DotWords {
    static constexpr int values = 2;
    using Value = int16_t;
    GM_HD static void add(i32x16& sum, i32x16 query, i32x16 reference) {
#if defined(__AVX512F__)
        sum.p[0] = sum.p[0] + (i32x16::native)_mm512_madd_epi16((__m512i)query.p[0], (__m512i)reference.p[0]);
#elif defined(__AVX2__)
        for (int i = 0; i < 2; ++i)
            sum.p[i] = sum.p[i] + (i32x16::native)_mm256_madd_epi16((__m256i)query.p[i], (__m256i)reference.p[i]);
#elif defined(__SSE2__)
        for (int i = 0; i < 4; ++i)
            sum.p[i] = sum.p[i] + (i32x16::native)_mm_madd_epi16((__m128i)query.p[i], (__m128i)reference.p[i]);
#else
        // low and high halves of a 32-bit lane, sign-extended
        sum = sum + ((query << 16) >> 16) * ((reference << 16) >> 16) + (query >> 16) * (reference >> 16);
#endif
    }
};

// X.Y of a register tile, kScreenQueries rows by kScreenGroups groups. A function of its own, so that nothing but the
// sums asks for registers.
template <class Dot>
__attribute__((noinline)) void dot_tile(const typename Dot::Value* x, const typename Dot::Value* y, int64_t width,
                                        const int32_t* starts, i32x16 (*to)[kScreenGroups]) {
    constexpr int Q = kScreenQueries, G = kScreenGroups;
    const int64_t steps = width / Dot::values;  // words of a row
    i32x16 sum[Q][G];
#pragma GCC unroll 12
    for (int g = 0; g < G; ++g) {
        const i32x16 start = i32x16::load(starts + g * kGroup);
#pragma GCC unroll 12
        for (int i = 0; i < Q; ++i) sum[i][g] = start;
    }
    const auto* words = reinterpret_cast<const int32_t*>(y);
    for (int64_t d = 0; d < steps; ++d) {
        i32x16 ys[G];
#pragma GCC unroll 12
        for (int g = 0; g < G; ++g) ys[g] = i32x16::load(words + (g * steps + d) * kGroup);
#pragma GCC unroll 12
        for (int i = 0; i < Q; ++i) {
            int32_t word;
            std::memcpy(&word, x + i * width + d * Dot::values, 4);
            const i32x16 xs(word);
#pragma GCC unroll 12
            for (int g = 0; g < G; ++g) Dot::add(sum[i][g], xs, ys[g]);
        }
    }
#pragma GCC unroll 12
    for (int i = 0; i < Q; ++i)
#pragma GCC unroll 12
        for (int g = 0; g < G; ++g) to[i][g] = sum[i][g];
}

// Every pair of a tile of queries and a block of references whose S, |x^ - y^|^2 less the slack, is at most
// (row_edges[i] + edges[j])^2: admit(query, first reference of the group, bits of its lanes, S of its lanes). With
// `columns`, those within column_edges[j] + row_residuals[i] as well: admit_columns(the same).
template <class Dot, bool kColumns, class Admit, class AdmitColumns>
inline void screen_pairs_by(const ScreenTile& s, const ScreenColumns& columns, const Admit& admit,
                            const AdmitColumns& admit_columns) {
    constexpr int Q = kScreenQueries, G = kScreenGroups;
    using Value = typename Dot::Value;
    const float *scales = s.queries.scales, *norms = s.queries.norms, *row_edges = s.row_edges;
    i32x16 sum[Q][G];
    f32x16 squares[Q];
    uint32_t bits[Q], column_bits[Q];
    for (int64_t q = 0; q < s.query_count; q += Q) {
        const Value* x = static_cast<const Value*>(s.queries.values) + q * s.width;
        const int rows = static_cast<int>(s.query_count - q < Q ? s.query_count - q : Q);
        for (int64_t r = 0; r < s.count; r += G * kGroup) {
            dot_tile<Dot>(x, static_cast<const Value*>(s.references.values) + r * s.width, s.width,
                          s.references.starts + r, sum);
            for (int g = 0; g < G && r + g * kGroup < s.count; ++g) {
                const int64_t at = r + g * kGroup;
                const uint32_t used = s.count - at < kGroup ? (1u << (s.count - at)) - 1 : 0xffffu;
                const f32x16 scale = f32x16::load(s.references.scales + at);
                const f32x16 norm = f32x16::load(s.references.norms + at);
                const f32x16 edge = f32x16::load(s.edges + at);
                const f32x16 column = kColumns ? f32x16::load(columns.edges + at) : f32x16(0.0f);
                uint32_t any = 0;  // without a branch in the loop: few groups hold one that is admitted
#pragma GCC unroll 12
                for (int i = 0; i < Q; ++i) {
                    squares[i] =
                        (convert<float>(sum[i][g]) * scale * f32x16(scales[q + i]) + norm) + f32x16(norms[q + i]);
                    const f32x16 reach = edge + f32x16(row_edges[q + i]);
                    bits[i] = bits_le(squares[i], reach * reach) & used;
                    any |= bits[i];
                    if (kColumns) {
                        const f32x16 other = column + f32x16(columns.row_residuals[q + i]);
                        column_bits[i] = bits_le(squares[i], other * other) & used;
                        any |= column_bits[i];
                    }
                }
                if (__builtin_expect(any == 0, 1)) continue;
                for (int i = 0; i < rows; ++i) {
                    if (bits[i] != 0) admit(q + i, at, bits[i], squares[i]);
                    if (kColumns && column_bits[i] != 0) admit_columns(q + i, at, column_bits[i], squares[i]);
                }
            }
        }
    }
}

template <bool kColumns, class Admit, class AdmitColumns>
inline void screen_pairs(const ScreenTile& s, const ScreenColumns& columns, const Admit& admit,
                         const AdmitColumns& admit_columns) {
#if defined(__AVX512F__)
    if (s.bytes) return screen_pairs_by<DotBytes, kColumns>(s, columns, admit, admit_columns);
    if (screen_has_bytes()) return screen_pairs_by<DotWordsAtOnce, kColumns>(s, columns, admit, admit_columns);
#endif
    screen_pairs_by<DotWords, kColumns>(s, columns, admit, admit_columns);
}
template <class Admit>
inline void screen_pairs(const ScreenTile& s, const Admit& admit) {
    screen_pairs<false>(s, {}, admit, admit);
}

// The squares of four pairs at a time: four streams from memory instead of one.
template <class F>
inline void squares_of(const F* query, const RowsOf<F>& references, int64_t width, const uint32_t* index, int count,
                       F* scratch, F* squares) {
    using V = x16<F>;
    const F* y[kRerank];
    V sum[kRerank];
    for (int j = 0; j < kRerank; ++j) {
        y[j] = j < count ? references.row(references.context, index[j], scratch + j * width) : y[0];
        sum[j] = V(F(0));
    }
    for (int64_t d = 0; d < width; d += 16) {
        const V x = V::load(query + d);
#pragma GCC unroll 4
        for (int j = 0; j < kRerank; ++j) {
            const V e = x - V::load(y[j] + d);
            sum[j] = sum[j] + e * e;
        }
    }
    for (int j = 0; j < count; ++j) squares[j] = sum_lanes(sum[j]);
}

GM_NAMESPACE_END
