// A model's shape, where its packed weights lie, and the walk of rows through its layers.
#pragma once

#include <cstdint>
#include <vector>

#include "common/team.h"
#include "decode/transformer.h"

namespace gm {

struct TransformerShape {
    int64_t vocab, layers, heads, width, max_len, kv_heads, ff, head_dim;
    NormKind norm;
    Activation activation;
    PositionKind position;
    bool qk_norm;
    int64_t rotary;   // the dimensions of a head that rope turns, its first ones
    bool parallel;    // the MLP reads what attention reads
    bool post_norms;  // norms of what attention and the MLP add, too
    WeightFormat format;
    std::vector<int64_t> windows;  // of each layer: the latest positions that a query sees; 0: all
    // What scores are multiplied by; scores and logits lie within their cap c as c tanh(x / c), 0: no cap.
    float eps, score_scale, score_cap, logit_cap;

    bool gated() const {
        return activation == Activation::swiglu || activation == Activation::geglu ||
               activation == Activation::geglu_tanh;
    }
    int64_t qkv() const { return (heads + 2 * kv_heads) * head_dim; }
    // The cache of one sequence is [layers, kv_heads, length, head_dim + value_width()] floats; a head's part holds its
    // keys as [length / 16][head_dim][16], then its values as [length][value_width()].
    int64_t value_width() const { return lanes_up(head_dim); }
};

// Offsets are in floats from the start of the packed tensor; each is a multiple of 16.
struct PackedLinear {
    int64_t weight, bias, scale;  // scale: -1 where weights are not scaled
    int64_t outputs, inputs;      // outputs: a multiple of 16, the padding's weights and biases are 0
};
struct PackedNorm {
    int64_t weight, bias;  // bias: -1 where the norm has none
};
struct PackedLayer {
    PackedNorm before_attention, after_attention, before_mlp, after_mlp;  // those after: weight -1 where none
    PackedLinear qkv, out, up, down;
    int64_t q_norm, k_norm;  // -1 where the model has none
};
struct PackedLayout {
    explicit PackedLayout(const TransformerShape&);
    int64_t embedding, positions;  // [vocab][width], [max_len][width]
    std::vector<PackedLayer> layers;
    PackedNorm norm;
    PackedLinear head;
    int64_t size;
};

// One token of one sequence.
struct TokenRow {
    int64_t token, slot, position;
};

// Room for `rows` rows on their way through the layers; one a thread group.
struct EngineScratch {
    EngineScratch(const TransformerShape&, int64_t rows, int64_t logit_rows);
    std::vector<float> x, normed, qkv, attended, hidden, logits;
};

class Engine {
 public:
    // turns: [length][rotary], or null; cache: [slots][layers][kv_heads][length][head_dim + value_width].
    Engine(const TransformerShape& shape, const float* packed, const float* turns, float* cache, int64_t length);

    // Writes the rows' keys and values to the cache and leaves their hidden states in scratch.x. Rows of one slot stand
    // in the order of their positions. `team`: who shares the work of each layer; null: this thread does it alone.
    void run(EngineScratch&, const TokenRow* rows, int64_t count, Team* team) const;
    // scratch.normed[i] = the last norm of row which[i], as the head takes it.
    void final_norm(EngineScratch&, const int64_t* which, int64_t count) const;
    // scratch.logits[i] = the logits of scratch.normed[i]; their stride is lanes_up(vocab).
    void head(EngineScratch&, int64_t count, Team* team) const;

    // Copies the first `count` positions of cache number `prefix` of others, `room` positions long each, to a slot.
    void copy_cache(const float* others, int64_t room, int64_t prefix, int64_t slot, int64_t count) const;

    const TransformerShape& shape() const { return shape_; }
    const PackedLayout& layout() const { return layout_; }

 private:
    void linear(const PackedLinear&, const float* x, int64_t x_stride, float* out, int64_t rows, Epilogue,
                Team* team) const;
    void norm(const PackedNorm&, const float* x, float* out, int64_t rows, Team* team) const;
    // x += linear(y); where there are norms after, x += norm(linear(y)), by way of s.normed.
    void add(EngineScratch&, const PackedLinear&, const PackedNorm& after, const float* y, int64_t y_stride,
             int64_t rows, Team* team) const;
    void attention(EngineScratch&, int64_t layer, const TokenRow* rows, int64_t count, Team* team) const;

    TransformerShape shape_;
    PackedLayout layout_;
    const float *packed_, *turns_;
    float* cache_;
    int64_t length_, head_floats_;
    decltype(&baseline::linear_panels) linear_body_;
    decltype(&baseline::norm_rows) norm_body_;
    decltype(&baseline::cap_values) cap_body_;
    decltype(&baseline::place_heads) place_body_;
    decltype(&baseline::attend_row) attend_body_;
};

}  // namespace gm
