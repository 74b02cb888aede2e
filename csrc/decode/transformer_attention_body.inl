// One query against the cache, in two passes: scores of sixteen positions at a time, then the weighted sum of values.
// Both orders are functions of the position alone.
#include "common/vector_math.h"
#include "decode/transformer.h"

namespace gm {
inline namespace GM_ISA {
namespace {

// Scores of B blocks of sixteen positions.
template <int B>
GM_HD void score(const float* q, const float* keys, int64_t d, float* to) {
    f32x16 sum[B];
    for (int b = 0; b < B; ++b) sum[b] = f32x16(0.0f);
    for (int64_t i = 0; i < d; ++i) {
        const f32x16 value(q[i]);
        for (int b = 0; b < B; ++b) sum[b] = fma(value, f32x16::load(keys + (b * d + i) * kLanes), sum[b]);
    }
    for (int b = 0; b < B; ++b) sum[b].store(to + b * kLanes);
}

// C x 16 columns of the weighted sum of values: four partial sums by position modulo 4.
template <int C>
GM_HD void gather(const float* weight, const float* values, int64_t width, int64_t count, f32x16 scale, float* out,
                  int64_t left) {
    f32x16 sum[4][C];
    for (int s = 0; s < 4; ++s)
        for (int c = 0; c < C; ++c) sum[s][c] = f32x16(0.0f);
    int64_t t = 0;
    for (; t + 4 <= count; t += 4)
        for (int s = 0; s < 4; ++s) {
            const f32x16 w(weight[t + s]);
            for (int c = 0; c < C; ++c)
                sum[s][c] = fma(w, f32x16::load(values + (t + s) * width + c * kLanes), sum[s][c]);
        }
    for (int s = 0; s < 3; ++s) {
        if (t + s >= count) break;
        const f32x16 w(weight[t + s]);
        for (int c = 0; c < C; ++c) sum[s][c] = fma(w, f32x16::load(values + (t + s) * width + c * kLanes), sum[s][c]);
    }
    for (int c = 0; c < C; ++c) {
        const f32x16 y = ((sum[0][c] + sum[2][c]) + (sum[1][c] + sum[3][c])) * scale;
        if (left >= (c + 1) * kLanes)
            y.store(out + c * kLanes);
        else
            y.store_first(out + c * kLanes, static_cast<int>(left - c * kLanes));
    }
}

// Positions [first, count); scores[0] is that of the first position of first's block.
void attend(const float* q, const float* cache, float* out, float* scores, int64_t d, int64_t length, int64_t first,
            int64_t count, float cap) {
    const int64_t width = lanes_up(d), begin = first / kLanes, blocks = (count + kLanes - 1) / kLanes;
    int64_t b = begin;
    scores -= begin * kLanes;
    for (; b + 4 <= blocks; b += 4) score<4>(q, cache + b * d * kLanes, d, scores + b * kLanes);
    for (; b < blocks; ++b) score<1>(q, cache + b * d * kLanes, d, scores + b * kLanes);

    if (cap > 0.0f)
        for (b = begin; b < blocks; ++b) soft_cap(f32x16::load(scores + b * kLanes), cap).store(scores + b * kLanes);
    const f32x16 never(-__builtin_inff());
    const i32x16 lane = iota<int32_t>();
    const i32x16 past = lane >= i32x16(static_cast<int32_t>(count - (blocks - 1) * kLanes));
    float* last = scores + (blocks - 1) * kLanes;
    select(past, never, f32x16::load(last)).store(last);  // positions that do not exist yet
    float* head = scores + begin * kLanes;
    const i32x16 before = lane < i32x16(static_cast<int32_t>(first - begin * kLanes));
    if (first % kLanes != 0) select(before, never, f32x16::load(head)).store(head);  // positions out of the window
    f32x16 most = never;
    for (b = begin; b < blocks; ++b) most = max(f32x16::load(scores + b * kLanes), most);
    const f32x16 top(max_lanes(most));
    f32x16 total(0.0f);
    for (b = begin; b < blocks; ++b) {
        const f32x16 e = fast_exp(f32x16::load(scores + b * kLanes) - top);
        e.store(scores + b * kLanes);
        total = total + e;
    }
    const f32x16 scale(1.0f / sum_lanes(total));
    const int64_t from = begin * kLanes;  // a multiple of 4: a value's chain is that of its position
    const float* values = cache + length * d + from * width;
    int64_t column = 0;
    for (; column + 2 * kLanes <= width; column += 2 * kLanes)
        gather<2>(scores + from, values + column, width, count - from, scale, out + column, d - column);
    if (column < width) gather<1>(scores + from, values + column, width, count - from, scale, out + column, d - column);
}

}  // namespace

void attend_row(const AttendArgs& a) {
    for (int64_t g = 0; g < a.group; ++g)
        attend(a.q + g * a.head_dim, a.cache, a.out + g * a.head_dim, a.scores, a.head_dim, a.length, a.first,
               a.position + 1, a.cap);
}

}  // namespace GM_ISA
}  // namespace gm
