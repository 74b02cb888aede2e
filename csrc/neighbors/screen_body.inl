// Screening by integer dot products, and the exact distances of what it leaves. Compiled once per instruction set.
#include "neighbors/select.h"
#include "neighbors/sweep.h"

namespace gm {
inline namespace GM_ISA {

bool screen_has_bytes();  // lattice_body.inl

namespace {

constexpr float kInfinity = __builtin_inff();

// --- dot products
// ------------------------------------------------------------------------------------------------------

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
// Two products of int16 a lane.
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

// --- candidates
// --------------------------------------------------------------------------------------------------------

// Bounds on the distances of a row's candidates, `count` of them. A stored square S is |x^ - y^|^2 less at most 3
// slacks of |x^|^2 + |y^|^2, which is at most 3 |x^|^2 + 2 |x^ - y^|^2.
void bounds(const Candidates& to, int64_t row, float* upper, float* lower) {
    const float* squares = to.squares + row * to.capacity;
    const float* residuals = to.residuals + row * to.capacity;
    const f32x16 own(to.own_residual[row]), margin(10 * kScreenSlack * to.own_norm[row]), zero(0.0f);
    for (int32_t i = 0; i < to.counts[row]; i += 16) {
        const f32x16 square = max(f32x16::load(squares + i), zero), spread = f32x16::load(residuals + i) + own;
        ((sqrt(square * f32x16(1 + 7 * kScreenSlack) + margin) + spread) * f32x16(1 + kScreenSlack)).store(upper + i);
        (sqrt(square) * f32x16(1 - kScreenSlack) - spread * f32x16(1 + kScreenSlack)).store(lower + i);
    }
}

// A value that at least k of n >= k bounds do not pass, and few more: bisection, for the k-th smallest itself is not
// needed. There is room for a whole vector behind the last.
float near_kth_smallest(float* upper, int32_t n, int64_t k) {
    for (int32_t i = n; i % 16 != 0; ++i) upper[i] = kInfinity;
    const auto within = [&](float bound) {
        int64_t count = 0;
        for (int32_t i = 0; i < n; i += 16)
            count += __builtin_popcount(bits_le(f32x16::load(upper + i), f32x16(bound)));
        return count;
    };
    float low = 0, high = 0;
    for (int32_t i = 0; i < n; ++i) high = upper[i] > high && upper[i] < kInfinity ? upper[i] : high;
    if (within(high) < k) return kInfinity;
    for (int step = 0; step < 16; ++step) {
        const float middle = 0.5f * low + 0.5f * high;
        const int64_t count = within(middle);
        (count >= k ? high : low) = middle;
        if (count == k) break;
    }
    return high;
}

// Draws in the reach to the k-th smallest upper bound and drops what lies beyond it.
__attribute__((noinline)) void draw_in(const Candidates& to, int64_t row) {
    const int32_t count = to.counts[row];
    if (count < to.k) return;
    alignas(64) float upper[kMostCandidates], lower[kMostCandidates];
    bounds(to, row, upper, lower);
    const float kth = near_kth_smallest(upper, count, to.k) * to.stretch + 1e-19f;
    float* squares = to.squares + row * to.capacity;
    float* residuals = to.residuals + row * to.capacity;
    uint32_t* index = to.index + row * to.capacity;
    int32_t kept = 0;
    for (int32_t i = 0; i < count; ++i) {
        squares[kept] = squares[i];
        residuals[kept] = residuals[i];
        index[kept] = index[i];
        kept += lower[i] <= kth;
    }
    to.counts[row] = kept;
    to.reach[row] = (kth + to.own_residual[row]) * (1 + kScreenSlack);
    const int64_t room = 2 * static_cast<int64_t>(kept) + 32;
    to.next[row] = static_cast<int32_t>(room < to.capacity ? room : to.capacity);
    if (kept + kGroup > to.capacity) {  // too many lie too near to each other for the lattice to tell apart
        to.counts[row] = -1;
        to.reach[row] = __builtin_nanf("");  // nothing compares as within it
    }
}

// Appends the lanes of `bits`; there is room for sixteen.
__attribute__((noinline)) void admit(const Screen& s, int64_t row, int64_t reference, uint32_t bits, f32x16 squares,
                                     f32x16 residuals) {
    const Candidates& to = s.to;
    if (to.counts[row] < 0) return;
    if (s.selves != nullptr) {
        const int64_t self = s.selves[row] - s.first - reference;
        if (self >= 0 && self < kGroup) bits &= ~(1u << self);
    }
    const int64_t at = row * to.capacity + to.counts[row];
    const uint32_t number = static_cast<uint32_t>(s.first + reference);
#if defined(__AVX512F__)
    const __mmask16 mask = static_cast<__mmask16>(bits);
    const __m512i numbers = _mm512_add_epi32(_mm512_set1_epi32(static_cast<int32_t>(number)),
                                             _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15));
    _mm512_storeu_ps(to.squares + at, _mm512_maskz_compress_ps(mask, (__m512)squares.p[0]));
    _mm512_storeu_ps(to.residuals + at, _mm512_maskz_compress_ps(mask, (__m512)residuals.p[0]));
    _mm512_storeu_si512(to.index + at, _mm512_maskz_compress_epi32(mask, numbers));
    const int32_t added = __builtin_popcount(bits);
#else
    alignas(64) float square[16], residual[16];
    squares.store(square);
    residuals.store(residual);
    int32_t added = 0;
    for (; bits != 0; bits &= bits - 1, ++added) {
        const int lane = __builtin_ctz(bits);
        to.squares[at + added] = square[lane];
        to.residuals[at + added] = residual[lane];
        to.index[at + added] = number + static_cast<uint32_t>(lane);
    }
#endif
    to.counts[row] += added;
    if (to.counts[row] + kGroup > to.next[row]) draw_in(to, row);
}

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

template <class Dot>
void screen(const Screen& s) {
    constexpr int Q = kScreenQueries, G = kScreenGroups;
    using Value = typename Dot::Value;
    i32x16 sum[Q][G];
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
                const f32x16 residual = f32x16::load(s.references.residuals + at);
                for (int i = 0; i < rows; ++i) {
                    const f32x16 squares =
                        (convert<float>(sum[i][g]) * scale * f32x16(s.queries.scales[q + i]) + norm) +
                        f32x16(s.queries.norms[q + i]);
                    const f32x16 reach = residual + f32x16(s.to.reach[q + i]);
                    const uint32_t bits = bits_le(squares, reach * reach) & used;
                    if (__builtin_expect(bits != 0, 0)) admit(s, q + i, at, bits, squares, residual);
                }
            }
        }
    }
}

// --- exact distances of the candidates
// ---------------------------------------------------------------------------------

// The squares of four pairs at a time: four streams from memory instead of one.
constexpr int kRerank = 4;
template <class F>
void squares_of(const Rerank<F>& r, const uint32_t* index, int count, F* squares) {
    using V = x16<F>;
    const F* y[kRerank];
    V sum[kRerank];
    for (int j = 0; j < kRerank; ++j) {
        y[j] = j < count ? r.reference(r.context, index[j], r.scratch + j * r.width) : y[0];
        sum[j] = V(F(0));
    }
    for (int64_t d = 0; d < r.width; d += 16) {
        const V x = V::load(r.query + d);
#pragma GCC unroll 4
        for (int j = 0; j < kRerank; ++j) {
            const V e = x - V::load(y[j] + d);
            sum[j] = sum[j] + e * e;
        }
    }
    for (int j = 0; j < count; ++j) squares[j] = sum_lanes(sum[j]);
}

template <class F>
int64_t rerank(const Rerank<F>& r) {
    const Candidates& from = r.from;
    draw_in(from, 0);
    const int32_t count = from.counts[0];
    if (count < from.k) return -1;
    alignas(64) float upper[kMostCandidates], lower[kMostCandidates];
    bounds(from, 0, upper, lower);
    const float kth = near_kth_smallest(upper, count, from.k);
    int64_t found = 0;
    F farthest = 0;
    uint32_t waiting[kRerank];
    int held = 0;
    const auto flush = [&]() {
        F squares[kRerank];
        if (held > 0) squares_of(r, waiting, held, squares);
        for (int j = 0; j < held; ++j) {
            const F distance = sqrt(squares[j]);
            farthest = distance > farthest ? distance : farthest;
            r.keys[found++] = make_key(r.root ? distance : squares[j], waiting[j]);
        }
        held = 0;
    };
    const auto take = [&](int32_t i) {
        waiting[held++] = from.index[i];
        if (held == kRerank) flush();
    };
    // First those that are surely near: their own distances draw in the reach for the rest.
    for (int32_t i = 0; i < count; ++i)
        if (upper[i] <= kth) take(i);
    flush();
    const F reach = farthest * F(from.stretch) * (F(1) + F(kScreenSlack)) + F(1e-19f);
    for (int32_t i = 0; i < count; ++i)
        if (!(upper[i] <= kth) && static_cast<F>(lower[i]) <= reach) take(i);
    flush();
    return found;
}

}  // namespace

void screen_tile(const Screen& s) {
#if defined(__AVX512F__)
    if (s.bytes) return screen<DotBytes>(s);
    if (screen_has_bytes()) return screen<DotWordsAtOnce>(s);
#endif
    screen<DotWords>(s);
}

int64_t rerank_fp32(const Rerank<float>& r) { return rerank(r); }
int64_t rerank_fp64(const Rerank<double>& r) { return rerank(r); }

}  // namespace GM_ISA
}  // namespace gm
