// The arguments that the engine's ops share, checked.
#pragma once

#include "common/check.h"
#include "decode/transformer_engine.h"

namespace gm {

// shape: vocab, layers, heads, width, max_len, kv_heads, ff, head_dim, norm, activation, position, qk_norm, rotary,
// parallel, window, weight format.
TransformerShape transformer_shape(const std::vector<int64_t>& shape, double eps);

// packed: fp32 [layout size]; turns: fp32 [T, rotary] for rope, else [T, 0]; cache: fp32 [slots, layers, kv_heads, T,
// head_dim + value_width], T a multiple of 16.
Engine make_engine(const Tensor& packed, const Tensor& turns, const Tensor& cache, const TransformerShape& shape);

}  // namespace gm
