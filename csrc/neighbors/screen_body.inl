// Screening by integer dot products, and the exact distances of what it leaves. Compiled once per instruction set.
#include "neighbors/pool.h"
#include "neighbors/screen_tile.h"

namespace gm {
inline namespace GM_ISA {
namespace {

alignas(64) constexpr uint32_t kLanes[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};

// --- candidates
// --------------------------------------------------------------------------------------------------------

// Bounds on the distances of a row's candidates, `count` of them. A stored square S is |x^ - y^|^2 less at most 3
// slacks of |x^|^2 + |y^|^2, which is at most 3 |x^|^2 + 2 |x^ - y^|^2.
void bounds(const Candidates& to, int64_t row, float* upper, float* lower) {
    const float* squares = to.squares + row * to.stride;
    const float* residuals = to.residuals + row * to.stride;
    const f32x16 own(to.own_residual[row]), margin(10 * kScreenSlack * to.own_norm[row]), zero(0.0f);
    for (int32_t i = 0; i < to.counts[row]; i += 16) {
        const f32x16 square = max(f32x16::load(squares + i), zero), spread = f32x16::load(residuals + i) + own;
        ((sqrt(square * f32x16(1 + 7 * kScreenSlack) + margin) + spread) * f32x16(1 + kScreenSlack)).store(upper + i);
        (sqrt(square) * f32x16(1 - kScreenSlack) - spread * f32x16(1 + kScreenSlack)).store(lower + i);
    }
}

// Draws in the reach to the k-th smallest upper bound and drops what lies beyond it.
__attribute__((noinline)) void draw_in(const Candidates& to, int64_t row) {
    const int32_t count = to.counts[row];
    if (count < to.k) return;
    alignas(64) float upper[kMostCandidates], lower[kMostCandidates];
    bounds(to, row, upper, lower);
    const float kth = near_kth_smallest(upper, count, to.k) * to.stretch + 1e-19f;
    float* squares = to.squares + row * to.stride;
    float* residuals = to.residuals + row * to.stride;
    uint32_t* index = to.index + row * to.stride;
    int32_t kept = 0;
    for (int32_t i = 0; i < count; i += kGroup) {
        const f32x16 square = f32x16::load(squares + i), residual = f32x16::load(residuals + i);
        const u32x16 numbers = u32x16::load(index + i);
        const uint32_t used = count - i < kGroup ? (1u << (count - i)) - 1 : 0xffffu;
        const uint32_t bits = bits_le(f32x16::load(lower + i), f32x16(kth)) & used;
        compress(squares + kept, bits, square);
        compress(residuals + kept, bits, residual);
        kept += compress(index + kept, bits, numbers);
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
__attribute__((noinline)) void admit(const Screen& s, int64_t row, int64_t reference, uint32_t bits, f32x16 squares) {
    const Candidates& to = s.to;
    const f32x16 residuals = f32x16::load(s.tile.references.residuals + reference);
    if (to.counts[row] < 0) return;
    if (s.selves != nullptr) {
        const int64_t self = s.selves[row] - s.first - reference;
        if (self >= 0 && self < kGroup) bits &= ~(1u << self);
    }
    const int64_t at = row * to.stride + to.counts[row];
    const uint32_t number = static_cast<uint32_t>(s.first + reference);
    const u32x16 lanes = u32x16::load(kLanes);
    compress(to.squares + at, bits, squares);
    compress(to.residuals + at, bits, residuals);
    const int added = compress(to.index + at, bits, u32x16(number) + lanes);
    to.counts[row] += added;
    if (to.counts[row] + kGroup > to.next[row]) draw_in(to, row);
}

// Appends the query to the lists of the references in the lanes of `bits`.
__attribute__((noinline)) void admit_to_columns(const Screen& s, int64_t query, int64_t reference, uint32_t bits,
                                                f32x16 squares) {
    const Candidates& to = *s.columns;
    alignas(64) float square[kGroup];
    squares.store(square);
    for (; bits != 0; bits &= bits - 1) {
        const int lane = __builtin_ctz(bits);
        const int64_t row = reference + lane;
        if (to.counts[row] < 0) continue;
        const int64_t at = row * to.stride + to.counts[row]++;
        to.squares[at] = square[lane];
        to.residuals[at] = s.tile.queries.residuals[query];
        to.index[at] = static_cast<uint32_t>(s.first_query + query);
        if (to.counts[row] + kGroup > to.next[row]) draw_in(to, row);
    }
}

// --- exact distances of the candidates
// ---------------------------------------------------------------------------------

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
        if (held > 0) squares_of(r.query, r.references, r.width, waiting, held, r.scratch, squares);
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
    const auto to_row = [&s](int64_t row, int64_t reference, uint32_t bits, const f32x16& squares) {
        admit(s, row, reference, bits, squares);
    };
    if (s.columns == nullptr) return screen_pairs(s.tile, to_row);
    screen_pairs<true>(s.tile, {s.columns->reach, s.tile.queries.residuals}, to_row,
                       [&s](int64_t query, int64_t reference, uint32_t bits, const f32x16& squares) {
                           admit_to_columns(s, query, reference, bits, squares);
                       });
}

int64_t rerank_fp32(const Rerank<float>& r) { return rerank(r); }
int64_t rerank_fp64(const Rerank<double>& r) { return rerank(r); }

}  // namespace GM_ISA
}  // namespace gm
