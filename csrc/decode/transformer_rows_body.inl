// What is done to one row between the linears: norms, and heads normed, turned and placed in the cache.
#include "common/vector_math.h"
#include "decode/transformer.h"

namespace gm {
inline namespace GM_ISA {
namespace {

GM_HD f32x16 load_part(const float* from, int64_t left, float fill) {
    return left >= kLanes ? f32x16::load(from) : f32x16::load_first(from, static_cast<int>(left), fill);
}
GM_HD void store_part(f32x16 value, float* to, int64_t left) {
    if (left >= kLanes)
        value.store(to);
    else
        value.store_first(to, static_cast<int>(left));
}

// The sum over i < width of (x[i] - centre)^2, or of x[i]: sixteen lanes, then the tree of sum_lanes.
template <bool squares>
float row_sum(const float* x, int64_t width, float centre) {
    f32x16 sum(0.0f);
    for (int64_t i = 0; i < width; i += kLanes) {
        const f32x16 d = load_part(x + i, width - i, centre) - f32x16(centre);
        sum = squares ? fma(d, d, sum) : sum + d;
    }
    return sum_lanes(sum);
}

void norm(const float* x, const float* weight, const float* bias, float* out, int64_t width, NormKind kind, float eps) {
    const float mean = kind == NormKind::layer ? row_sum<false>(x, width, 0.0f) / static_cast<float>(width) : 0.0f;
    const float square = row_sum<true>(x, width, mean) / static_cast<float>(width);
    const f32x16 scale(1.0f / sqrt(square + eps)), centre(mean);
    for (int64_t i = 0; i < width; i += kLanes) {
        const int64_t left = width - i;
        const f32x16 y = (load_part(x + i, left, mean) - centre) * scale * load_part(weight + i, left, 0.0f);
        store_part(bias ? y + load_part(bias + i, left, 0.0f) : y, out + i, left);
    }
}

void turn_head(float* head, const float* turn, int64_t half) {
    const float *cosine = turn, *sine = turn + half;
    for (int64_t i = 0; i < half; i += kLanes) {
        const int64_t left = half - i;
        const f32x16 a = load_part(head + i, left, 0.0f), b = load_part(head + half + i, left, 0.0f);
        const f32x16 c = load_part(cosine + i, left, 0.0f), s = load_part(sine + i, left, 0.0f);
        store_part(fma(a, c, -(b * s)), head + i, left);
        store_part(fma(b, c, a * s), head + half + i, left);
    }
}

}  // namespace

// Rows [begin, end), each a.stride floats from the last.
void norm_rows(const NormArgs& a, int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r)
        norm(a.x + r * a.stride, a.weight, a.bias, a.out + r * a.stride, a.width, a.kind, a.eps);
}

// count: a multiple of 16.
void cap_values(float* x, int64_t count, float cap) {
    for (int64_t i = 0; i < count; i += kLanes) soft_cap(f32x16::load(x + i), cap).store(x + i);
}

void place_heads(const HeadsArgs& a) {
    const int64_t d = a.head_dim, values = lanes_up(d);
    for (int64_t h = 0; h < a.heads + a.kv_heads; ++h) {
        float* head = a.qkv + h * d;
        const bool query = h < a.heads;
        const float* weight = query ? a.q_norm : a.k_norm;
        if (weight) norm(head, weight, nullptr, head, d, NormKind::rms, a.eps);
        if (a.turn) turn_head(head, a.turn, a.rotary / 2);
        if (query) {
            for (int64_t i = 0; i < d; ++i) head[i] *= a.scale;
        } else {
            float* keys = a.cache + (h - a.heads) * a.length * (d + values);
            keys += a.position / kLanes * d * kLanes + a.position % kLanes;
            for (int64_t i = 0; i < d; ++i) keys[i * kLanes] = head[i];
        }
    }
    for (int64_t h = 0; h < a.kv_heads; ++h) {
        const float* from = a.qkv + (a.heads + a.kv_heads + h) * d;
        float* to = a.cache + h * a.length * (d + values) + a.length * d + a.position * values;
        for (int64_t i = 0; i < values; ++i) to[i] = i < d ? from[i] : 0.0f;
    }
}

}  // namespace GM_ISA
}  // namespace gm
