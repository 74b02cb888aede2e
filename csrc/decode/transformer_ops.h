// The arguments that the engine's ops share, checked.
#pragma once

#include "common/check.h"
#include "decode/transformer_engine.h"

namespace gm {

// shape: vocab, layers, heads, width, max_len, kv_heads, ff, head_dim, norm, activation, position, qk_norm, rotary,
// parallel, post_norms, weight format, then each layer's window. reals: the norms' eps, what scores are multiplied by,
// the caps of scores and of logits (0: none); what depends on sizes alone does without them.
TransformerShape transformer_shape(const std::vector<int64_t>& shape, const std::vector<double>& reals = {0, 1, 0, 0});

// packed: fp32 [layout size]; turns: fp32 [T, rotary] for rope, else [T, 0]; cache: fp32 [slots, layers, kv_heads, T,
// head_dim + value_width], T a multiple of 16.
Engine make_engine(const Tensor& packed, const Tensor& turns, const Tensor& cache, const TransformerShape& shape);

}  // namespace gm
