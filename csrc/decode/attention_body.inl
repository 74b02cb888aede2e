// One split of a cache against the queries of some heads: scores position by position, then the weighted sums of
// values.
#include <type_traits>

#include "common/vector_math.h"
#include "decode/attention.h"

namespace gm {
inline namespace GM_ISA {
namespace {

constexpr int kWide = 16;
constexpr int kTogether = 4;  // queries that share a key's or a value's load
#if defined(__AVX512F__)
constexpr int kColumns = 4;  // parts of sixteen columns whose sums are in registers together
#else
constexpr int kColumns = 2;
#endif
constexpr int64_t kBlockBytes = 16384;  // of keys or values, read before the next are

GM_HD int64_t wide_of(int64_t d) { return (d + kWide - 1) / kWide * kWide; }

// Sixteen numbers of a type, widened.
template <CacheType T>
struct Numbers;
template <>
struct Numbers<CacheType::fp32> {
    using Stored = float;
    static GM_HD f32x16 load(const float* from) { return f32x16::load(from); }
};
template <>
struct Numbers<CacheType::bf16> {
    using Stored = uint16_t;
    static GM_HD f32x16 load(const uint16_t* from) {
#if defined(__AVX512F__)
        f32x16 x;
        x.p[0] = (NativeOf<float>::type)_mm512_slli_epi32(
            _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)from)), 16);
        return x;
#else
        alignas(64) uint32_t words[kWide];
        for (int i = 0; i < kWide; ++i) words[i] = static_cast<uint32_t>(from[i]) << 16;
        return bit_cast<float>(u32x16::load(words));
#endif
    }
};
template <>
struct Numbers<CacheType::fp16> {
    using Stored = uint16_t;
    static GM_HD f32x16 load(const uint16_t* from) {
#if defined(__AVX512F__)
        f32x16 x;
        x.p[0] = (NativeOf<float>::type)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i*)from));
        return x;
#else
        // The exponent moves from bias 15 to 127 by a product, which is exact and normalises what was subnormal.
        alignas(64) uint32_t words[kWide];
        for (int i = 0; i < kWide; ++i) words[i] = from[i];
        const u32x16 w = u32x16::load(words), sign = (w & u32x16(0x8000u)) << 16, rest = (w & u32x16(0x7FFFu)) << 13;
        const f32x16 finite = bit_cast<float>(rest) * f32x16(0x1p112f);
        const f32x16 special = bit_cast<float>(rest | u32x16(0x7F800000u));
        const f32x16 x = select(bit_cast<int32_t>(rest) >= i32x16(0x0F800000), special, finite);
        return bit_cast<float>(bit_cast<uint32_t>(x) | sign);
#endif
    }
};
template <>
struct Numbers<CacheType::int8> {
    using Stored = int8_t;
    static GM_HD f32x16 load(const int8_t* from) {
#if defined(__AVX512F__)
        f32x16 x;
        x.p[0] = (NativeOf<float>::type)_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i*)from)));
        return x;
#else
        alignas(64) int32_t words[kWide];
        for (int i = 0; i < kWide; ++i) words[i] = from[i];
        return convert<float>(i32x16::load(words));
#endif
    }
};

// Numbers [16 c, 16 c + 16) of a row of d, zeros past the last; reads nothing past it.
template <CacheType T>
GM_HD f32x16 part(const char* row, int64_t c, int64_t d) {
    using Stored = typename Numbers<T>::Stored;
    const auto* from = reinterpret_cast<const Stored*>(row) + c * kWide;
    const int64_t left = d - c * kWide;
    if (left >= kWide) return Numbers<T>::load(from);
    alignas(64) Stored rest[kWide] = {};
    for (int64_t i = 0; i < left; ++i) rest[i] = from[i];
    return Numbers<T>::load(rest);
}

// Successive positions of one page, `scale` null where there are none.
struct Run {
    int64_t first, count;
    const char* row;  // of the first position and the first head
    const float* scale;
};

// f(run) for the positions [begin, end), in blocks of some kBlockBytes, heads included: all heads of a block come
// before the next block, so that memory is read in its order where heads lie side by side.
template <class F>
GM_HD void each_run(const AttentionArgs& a, const CacheSide& side, int64_t begin, int64_t end, const F& f) {
    const int64_t fit = kBlockBytes / (a.heads * side.bytes) / kTogether * kTogether;
    const int64_t most = fit > kTogether ? fit : kTogether;
    for (int64_t t = begin; t < end;) {
        const int64_t page = a.pages[t / a.page_size], row = t % a.page_size, left = a.page_size - row;
        int64_t count = end - t < most ? end - t : most;
        if (count > left) count = left;
        f(Run{t, count, side.data + page * side.page + row * side.row,
              side.scale ? side.scale + page * side.scale_page + row * side.scale_row : nullptr});
        t += count;
    }
}

// f(R, i, row, its scale or null) for R rows of a run at a time, of head h, and those left over one by one; as many
// rows ahead are fetched: the block that is next.
template <int kRows, class F>
GM_HD void each_rows(const CacheSide& side, const Run& run, int64_t h, bool fetch, const F& f) {
    const char* row = run.row + h * side.head;
    const float* scale = run.scale ? run.scale + h * side.scale_head : nullptr;
    const auto take = [&](auto rows, int64_t i) {
        if (fetch)
            for (int r = 0; r < rows; ++r)
                for (int64_t line = 0; line < side.bytes; line += 64)
                    __builtin_prefetch(row + (run.count + r) * side.row + line);
        f(rows, i, row, scale);
        row += rows * side.row;
        if (scale) scale += rows * side.scale_row;
    };
    int64_t i = 0;
    for (; i + kRows <= run.count; i += kRows) take(std::integral_constant<int, kRows>(), i);
    if (kRows > 1)
        for (; i < run.count; ++i) take(std::integral_constant<int, 1>(), i);
}

// The sums of each pack's lanes, in the order of sum_lanes.
template <int N>
GM_HD void sums_of_lanes(const f32x16 (&a)[N], float* to) {
#if defined(__AVX512F__)
    if constexpr (N == 4) {
        const auto halves = [](const f32x16& x, const f32x16& y) {
            const auto one = (__m512)x.p[0], other = (__m512)y.p[0];
            return _mm512_add_ps(_mm512_shuffle_f32x4(one, other, 0x44), _mm512_shuffle_f32x4(one, other, 0xEE));
        };
        const __m512 low = halves(a[0], a[1]), high = halves(a[2], a[3]);
        const __m512 quarters =
            _mm512_add_ps(_mm512_shuffle_f32x4(low, high, 0x88), _mm512_shuffle_f32x4(low, high, 0xDD));
        const __m512 pairs = _mm512_add_ps(quarters, _mm512_permute_ps(quarters, 0x4E));
        const __m512 sums = _mm512_add_ps(pairs, _mm512_permute_ps(pairs, 0xB1));
        _mm_storeu_ps(to, _mm512_castps512_ps128(_mm512_maskz_compress_ps(0x1111, sums)));
        return;
    }
#endif
    for (int i = 0; i < N; ++i) to[i] = sum_lanes(a[i]);
}

// Scores of G queries q [G][wide] of head h, to [G][kSplit], at the positions of a run.
template <CacheType T, int G>
void scores_of(const AttentionArgs& a, const Run& run, int64_t h, bool fetch, const float* q, float* to) {
    const int64_t d = a.head_dim, parts = wide_of(d) / kWide;
    each_rows<kTogether / G>(a.keys, run, h, fetch, [&](auto rows, int64_t i, const char* row, const float* scale) {
        constexpr int kSums = rows * G;
        f32x16 sum[kSums];
        for (int n = 0; n < kSums; ++n) sum[n] = f32x16(0.0f);
        for (int64_t c = 0; c < parts; ++c)
            for (int r = 0; r < rows; ++r) {
                const f32x16 key = part<T>(row + r * a.keys.row, c, d);
                for (int g = 0; g < G; ++g) {
                    f32x16& mine = sum[r * G + g];
                    mine = fma(f32x16::load(q + (g * parts + c) * kWide), key, mine);
                }
            }
        float products[kSums];
        sums_of_lanes(sum, products);
        for (int n = 0; n < kSums; ++n)
            to[n % G * kSplit + i + n / G] = products[n] * (scale ? scale[n / G * a.keys.scale_row] : 1.0f);
    });
}

// Adds the values of a run, by weights [G][kSplit], to sums [G][wide] at columns [16 c, 16 c + 16 C).
template <CacheType T, int G, int C>
void weighted(const AttentionArgs& a, const Run& run, int64_t h, bool fetch, int64_t c, const float* weight,
              float* to) {
    const int64_t wide = wide_of(a.head_dim);
    f32x16 sum[G][C];
    for (int g = 0; g < G; ++g)
        for (int i = 0; i < C; ++i) sum[g][i] = f32x16::load(to + g * wide + (c + i) * kWide);
    each_rows<1>(a.values, run, h, fetch, [&](auto, int64_t i, const char* row, const float* scale) {
        f32x16 value[C];
        for (int j = 0; j < C; ++j) value[j] = part<T>(row, c + j, a.head_dim);
        for (int g = 0; g < G; ++g) {
            const f32x16 w(weight[g * kSplit + i] * (scale ? *scale : 1.0f));
            for (int j = 0; j < C; ++j) sum[g][j] = fma(w, value[j], sum[g][j]);
        }
    });
    for (int g = 0; g < G; ++g)
        for (int i = 0; i < C; ++i) sum[g][i].store(to + g * wide + (c + i) * kWide);
}

// f(h, query, G) for all queries, those of a head some together.
template <class F>
GM_HD void each_queries(const AttentionArgs& a, const F& f) {
    for (int64_t h = 0; h < a.heads; ++h) {
        int64_t g = 0;
        for (; g + kTogether <= a.group; g += kTogether)
            f(h, h * a.group + g, std::integral_constant<int, kTogether>());
        for (; g < a.group; ++g) f(h, h * a.group + g, std::integral_constant<int, 1>());
    }
}

// What exponents are taken from: the largest score, or 0 where that is -infinity, whose differences are no numbers.
float base_of(float most) { return most == -__builtin_inff() ? 0.0f : most; }

// Of query q's products with keys, [kSplit] from the split's `origin`, those at [begin, end): exp(score - the largest).
void weights_of(const AttentionArgs& a, int64_t q, int64_t begin, int64_t end, int64_t origin, float* row,
                const AttentionSums& to) {
    const f32x16 never(-__builtin_inff()), scale(a.scale), cap(a.softcap), lane = convert<float>(iota<int32_t>());
    // Whole blocks of sixteen, from the split's beginning; places there that are not seen weigh nothing.
    const f32x16 first(static_cast<float>(begin - origin)), past(static_cast<float>(end - origin));
    const int64_t first_block = (begin - origin) / kWide, blocks = (end - origin + kWide - 1) / kWide;
    f32x16 most = never;
    for (int64_t b = first_block; b < blocks; ++b) {
        f32x16 s = f32x16::load(row + b * kWide) * scale;
        if (a.softcap > 0.0f) s = cap * fast_tanh(s / cap);
        if (a.slopes) {
            const f32x16 back(static_cast<float>(origin + b * kWide - a.position));
            s = s + f32x16(a.slopes[q]) * (back + lane);
        }
        if (b == first_block || b + 1 == blocks) {
            const f32x16 place = lane + f32x16(static_cast<float>(b * kWide));
            s = select(place < first, never, select(place < past, s, never));
        }
        s.store(row + b * kWide);
        most = max(s, most);
    }
    const float top = max_lanes(most);
    const f32x16 base(base_of(top));
    f32x16 total(0.0f);
    for (int64_t b = first_block; b < blocks; ++b) {
        const f32x16 e = fast_exp(f32x16::load(row + b * kWide) - base);
        e.store(row + b * kWide);
        total = total + e;
    }
    to.most[q] = top;
    to.total[q] = sum_lanes(total);
}

template <CacheType T>
void split_of(const AttentionArgs& a, int64_t split, float* scores, const AttentionSums& to) {
    const int64_t origin = split * kSplit, past = origin + kSplit, wide = wide_of(a.head_dim), parts = wide / kWide;
    const int64_t begin = a.first > origin ? a.first : origin;
    const int64_t end = a.position + 1 < past ? a.position + 1 : past;
    const int64_t queries = a.heads * a.group, last = (end - origin - 1) / kWide * kWide;
    for (int64_t q = 0; q < queries; ++q) {  // of blocks that are seen in part, the rest is written, too
        f32x16(0.0f).store(scores + q * kSplit + (begin - origin) / kWide * kWide);
        f32x16(0.0f).store(scores + q * kSplit + last);
    }
    each_run(a, a.keys, begin, end, [&](const Run& run) {
        each_queries(a, [&](int64_t h, int64_t q, auto many) {
            scores_of<T, many>(a, run, h, q == h * a.group, a.q + q * wide, scores + q * kSplit + (run.first - origin));
        });
    });
    for (int64_t q = 0; q < queries; ++q) weights_of(a, q, begin, end, origin, scores + q * kSplit, to);
    for (int64_t i = 0; i < queries * wide; i += kWide) f32x16(0.0f).store(to.values + i);
    each_run(a, a.values, begin, end, [&](const Run& run) {
        each_queries(a, [&](int64_t h, int64_t q, auto many) {
            const bool first = q == h * a.group;
            const float* weight = scores + q * kSplit + (run.first - origin);
            float* sums = to.values + q * wide;
            int64_t c = 0;
            for (; c + kColumns <= parts; c += kColumns)
                weighted<T, many, kColumns>(a, run, h, first && c == 0, c, weight, sums);
            for (; c < parts; ++c) weighted<T, many, 1>(a, run, h, first && c == 0, c, weight, sums);
        });
    });
}

}  // namespace

// `split` holds at least one position that is seen. scores: room for kSplit floats a query.
void attend_split(const AttentionArgs& a, int64_t split, float* scores, const AttentionSums& to) {
    switch (a.type) {
        case CacheType::fp32:
            return split_of<CacheType::fp32>(a, split, scores, to);
        case CacheType::bf16:
            return split_of<CacheType::bf16>(a, split, scores, to);
        case CacheType::fp16:
            return split_of<CacheType::fp16>(a, split, scores, to);
        case CacheType::int8:
            return split_of<CacheType::int8>(a, split, scores, to);
    }
}

// The sums of two runs of positions, the later one's added to the earlier one's.
void fold_splits(const AttentionArgs& a, const AttentionSums& more, const AttentionSums& to) {
    const int64_t wide = wide_of(a.head_dim);
    for (int64_t g = 0; g < a.heads * a.group; ++g) {
        const float top = more.most[g] > to.most[g] ? more.most[g] : to.most[g];
        alignas(64) float factors[kWide];
        alignas(64) float exponents[kWide] = {to.most[g] - base_of(top), more.most[g] - base_of(top)};
        fast_exp(f32x16::load(exponents)).store(factors);
        to.most[g] = top;
        to.total[g] = to.total[g] * factors[0] + more.total[g] * factors[1];
        const f32x16 ours(factors[0]), theirs(factors[1]);
        for (int64_t i = 0; i < wide; i += kWide) {
            float* at = to.values + g * wide + i;
            (f32x16::load(at) * ours + f32x16::load(more.values + g * wide + i) * theirs).store(at);
        }
    }
}

// out [heads group, head_dim].
void finish_attention(const AttentionArgs& a, const AttentionSums& sums, float* out) {
    const int64_t wide = wide_of(a.head_dim);
    for (int64_t g = 0; g < a.heads * a.group; ++g) {
        const float over = sums.total[g] == 0.0f ? 0.0f : 1.0f / sums.total[g];  // 0 where all scores are -infinity
        for (int64_t i = 0; i < a.head_dim; ++i) out[g * a.head_dim + i] = sums.values[g * wide + i] * over;
    }
}

}  // namespace GM_ISA
}  // namespace gm
