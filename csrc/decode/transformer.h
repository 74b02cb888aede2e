// The step engine's vocabulary: what its bodies take.
//
// Every row (one token of one sequence) is computed by sums whose order is a function of that row alone: a linear's
// output is chains of multiply-adds over blocks of its inputs, an attention's sums go by position. So a row's bits do
// not depend on which rows are computed beside it, on tiles, or on threads.
#pragma once

#include <cstdint>

#include "common/isa.h"

namespace gm {

enum class NormKind : int64_t { rms = 0, layer = 1 };
enum class Activation : int64_t { swiglu = 0, geglu = 1, gelu = 2, gelu_tanh = 3, relu = 4, silu = 5, geglu_tanh = 6 };
enum class PositionKind : int64_t { rope = 0, learned = 1, none = 2 };

// What a linear's weights are held in. All are computed in fp32: bf16 is widened as it is read, int8 widened and its
// sum multiplied by its output's scale.
enum class WeightFormat : int64_t { fp32 = 0, bf16 = 1, int8 = 2 };

constexpr int64_t kLanes = 16;
inline int64_t lanes_up(int64_t n) { return (n + kLanes - 1) / kLanes * kLanes; }
constexpr int weights_per_word(WeightFormat format) {
    return format == WeightFormat::fp32 ? 1 : format == WeightFormat::bf16 ? 2 : 4;
}
// The 32-bit words that one output's weights take.
inline int64_t row_words(WeightFormat format, int64_t inputs) {
    return (inputs + weights_per_word(format) - 1) / weights_per_word(format);
}

// out[r][n] = activation(sum_k x[r][k] w[n][k] + bias[n]), or out[r][n] += that sum (Activation none, add).
// Weights lie in panels of 16 outputs, [word][16] each, a word holding one, two or four consecutive inputs from its low
// bits up; where the activation is gated, a panel of the gate and a panel of what it multiplies take turns, and 32
// columns make 16.
enum class Epilogue : int64_t {
    swiglu = 0,
    geglu = 1,
    gelu = 2,
    gelu_tanh = 3,
    relu = 4,
    silu = 5,
    geglu_tanh = 6,
    store = 7,
    add = 8
};
inline bool is_gated(Epilogue kind) {
    return kind == Epilogue::swiglu || kind == Epilogue::geglu || kind == Epilogue::geglu_tanh;
}
struct LinearArgs {
    const float* x;
    const uint32_t* weight;
    const float *bias, *scale;  // scale: one an output, for int8 alone
    float* out;
    int64_t x_stride, out_stride, rows, inputs;
    Epilogue epilogue;
    WeightFormat format;
    bool far = false;  // the weights come from memory at each step: worth asking for ahead of their use
};

struct NormArgs {
    const float *x, *weight, *bias;  // bias: layer norm alone
    float* out;
    int64_t stride, width;
    NormKind kind;
    float eps;
};

// One row's queries, keys and values as projected: heads are normed and turned in place, the queries scaled,
// keys and values written to the cache at `position`.
struct HeadsArgs {
    float* qkv;
    const float *q_norm, *k_norm, *turn;  // null where the model has none; turn: rotary/2 cosines, then sines
    float* cache;                         // this layer's part of this sequence's cache
    int64_t heads, kv_heads, head_dim, rotary, length, position;
    float eps, scale;
};

// The queries of one row that share a key head, over positions `first` to `position`.
struct AttendArgs {
    const float* q;  // [group, head_dim], scaled
    const float* cache;
    float *out, *scores;  // out [group, head_dim]; scores: room for lanes_up(position + 1) floats
    int64_t group, head_dim, length, first, position;
    float cap;  // 0: none
};

GM_DECLARE_ISA(void, linear_panels, (const LinearArgs&, int64_t, int64_t))
GM_DECLARE_ISA(void, norm_rows, (const NormArgs&, int64_t, int64_t))
GM_DECLARE_ISA(void, cap_values, (float*, int64_t, float))
GM_DECLARE_ISA(void, place_heads, (const HeadsArgs&))
GM_DECLARE_ISA(void, attend_row, (const AttendArgs&))

}  // namespace gm
