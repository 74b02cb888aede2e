// One split of a cache against a group of queries: scores position by position, then the weighted sum of values.
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
constexpr int kAhead = 12;  // rows between what is fetched and what is used

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

// f(t, row of keys or values, its scale) for the positions [begin, end); `bytes` of a row are read.
template <class F>
GM_HD void each_position(const AttentionArgs& a, const CacheSide& side, int64_t begin, int64_t end, int64_t bytes,
                         const F& f) {
    for (int64_t t = begin; t < end;) {
        const int64_t page = a.pages[t / a.page_size], row = t % a.page_size;
        const int64_t stop = end - t < a.page_size - row ? end : t + a.page_size - row;
        const char* at = side.data + page * side.page + row * side.row;
        const float* scale = side.scale ? side.scale + page * side.scale_page + row * side.scale_row : nullptr;
        for (; t < stop; ++t, at += side.row) {
            // Rows of a head may lie a page of memory apart, where the processor fetches nothing ahead by itself.
            for (int64_t line = 0; line < bytes; line += 64) __builtin_prefetch(at + kAhead * side.row + line);
            f(t, at, scale ? *scale : 1.0f);
            if (scale) scale += side.scale_row;
        }
    }
}

// Scores of G queries, [G][kSplit] from `to`, at positions [begin, end) of the split that begins at `origin`.
template <CacheType T, int G>
void scores_of(const AttentionArgs& a, const float* q, int64_t begin, int64_t end, int64_t origin, float* to) {
    const int64_t d = a.head_dim, parts = wide_of(d) / kWide;
    each_position(a, a.keys, begin, end, d * static_cast<int64_t>(sizeof(typename Numbers<T>::Stored)),
                  [&](int64_t t, const char* row, float scale) {
                      f32x16 sum[G];
                      for (int g = 0; g < G; ++g) sum[g] = f32x16(0.0f);
                      for (int64_t c = 0; c < parts; ++c) {
                          const f32x16 key = part<T>(row, c, d);
                          for (int g = 0; g < G; ++g)
                              sum[g] = fma(f32x16::load(q + g * parts * kWide + c * kWide), key, sum[g]);
                      }
                      for (int g = 0; g < G; ++g) to[g * kSplit + (t - origin)] = sum_lanes(sum[g]) * scale;
                  });
}

// Weighted sums of G queries over the values' columns [16 c, 16 c + 16 C).
template <CacheType T, int G, int C>
void weighted(const AttentionArgs& a, const float* weight, int64_t begin, int64_t end, int64_t origin, int64_t c,
              float* to) {
    const int64_t wide = wide_of(a.head_dim);
    f32x16 sum[G][C];
    for (int g = 0; g < G; ++g)
        for (int i = 0; i < C; ++i) sum[g][i] = f32x16(0.0f);
    // All of a row is fetched with its first columns, and is near for the rest.
    const int64_t bytes = c == 0 ? a.head_dim * static_cast<int64_t>(sizeof(typename Numbers<T>::Stored)) : 0;
    each_position(a, a.values, begin, end, bytes, [&](int64_t t, const char* row, float scale) {
        f32x16 value[C];
        for (int i = 0; i < C; ++i) value[i] = part<T>(row, c + i, a.head_dim);
        for (int g = 0; g < G; ++g) {
            const f32x16 w(weight[g * kSplit + (t - origin)] * scale);
            for (int i = 0; i < C; ++i) sum[g][i] = fma(w, value[i], sum[g][i]);
        }
    });
    for (int g = 0; g < G; ++g)
        for (int i = 0; i < C; ++i) sum[g][i].store(to + g * wide + (c + i) * kWide);
}

// G queries from query `from` of the group on.
// What exponents are taken from: the largest score, or 0 where that is -infinity, whose differences are no numbers.
float base_of(float most) { return most == -__builtin_inff() ? 0.0f : most; }

template <CacheType T, int G>
void queries(const AttentionArgs& a, int64_t from, int64_t begin, int64_t end, int64_t origin, float* scores,
             const AttentionSums& to) {
    const int64_t wide = wide_of(a.head_dim), parts = wide / kWide;
    alignas(64) float q[G * kHeadMost];
    for (int g = 0; g < G; ++g)
        for (int64_t i = 0; i < wide; ++i) q[g * wide + i] = i < a.head_dim ? a.q[(from + g) * a.head_dim + i] : 0.0f;
    const f32x16 never(-__builtin_inff());
    // Whole blocks of sixteen, from the split's beginning; places there that are not seen weigh nothing.
    const f32x16 first(static_cast<float>(begin - origin)), past(static_cast<float>(end - origin));
    const int64_t first_block = (begin - origin) / kWide, blocks = (end - origin + kWide - 1) / kWide;
    for (int g = 0; g < G; ++g) {
        never.store(scores + g * kSplit + first_block * kWide);
        never.store(scores + g * kSplit + (blocks - 1) * kWide);
    }
    scores_of<T, G>(a, q, begin, end, origin, scores);
    const f32x16 scale(a.scale), cap(a.softcap), lane = convert<float>(iota<int32_t>());
    for (int g = 0; g < G; ++g) {
        float* row = scores + g * kSplit;
        f32x16 most = never;
        for (int64_t b = first_block; b < blocks; ++b) {
            f32x16 s = f32x16::load(row + b * kWide) * scale;
            if (a.softcap > 0.0f) s = cap * fast_tanh(s / cap);
            if (a.slopes) {
                const f32x16 back(static_cast<float>(origin + b * kWide - a.position));
                s = s + f32x16(a.slopes[from + g]) * (back + lane);
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
        to.most[from + g] = top;
        to.total[from + g] = sum_lanes(total);
    }
    int64_t c = 0;
    for (; c + kColumns <= parts; c += kColumns)
        weighted<T, G, kColumns>(a, scores, begin, end, origin, c, to.values + from * wide);
    for (; c < parts; ++c) weighted<T, G, 1>(a, scores, begin, end, origin, c, to.values + from * wide);
}

template <CacheType T>
void split_of(const AttentionArgs& a, int64_t split, float* scores, const AttentionSums& to) {
    const int64_t origin = split * kSplit, past = origin + kSplit;
    const int64_t begin = a.first > origin ? a.first : origin;
    const int64_t end = a.position + 1 < past ? a.position + 1 : past;
    int64_t g = 0;
    for (; g + kTogether <= a.group; g += kTogether) queries<T, kTogether>(a, g, begin, end, origin, scores, to);
    for (; g < a.group; ++g) queries<T, 1>(a, g, begin, end, origin, scores, to);
}

}  // namespace

// `split` holds at least one position that is seen. scores: room for 4 kSplit floats.
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
    for (int64_t g = 0; g < a.group; ++g) {
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

// out [group, head_dim].
void finish_attention(const AttentionArgs& a, const AttentionSums& sums, float* out) {
    const int64_t wide = wide_of(a.head_dim);
    for (int64_t g = 0; g < a.group; ++g) {
        const float over = sums.total[g] == 0.0f ? 0.0f : 1.0f / sums.total[g];  // 0 where all scores are -infinity
        for (int64_t i = 0; i < a.head_dim; ++i) out[g * a.head_dim + i] = sums.values[g * wide + i] * over;
    }
}

}  // namespace GM_ISA
}  // namespace gm
