// A model's parameters, in the order and the number format in which the engine reads them.
#include <torch/csrc/stable/library.h>

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include <algorithm>
#include <cmath>
#include <cstring>

#include "common/new_tensor.h"
#include "common/parallel.h"
#include "decode/transformer_ops.h"

namespace gm {
namespace {

float from_bits(uint32_t bits) {
    float value;
    std::memcpy(&value, &bits, sizeof(value));
    return value;
}

// A parameter's values, fp32 or bf16; none where it is absent.
struct Values {
    const float* single = nullptr;
    const uint16_t* half = nullptr;

    explicit operator bool() const { return single || half; }
    float operator[](int64_t i) const { return single ? single[i] : from_bits(uint32_t(half[i]) << 16); }
    Values from(int64_t i) const { return {single ? single + i : nullptr, half ? half + i : nullptr}; }
};

// Reads the weights in their order, checking each.
class Weights {
 public:
    explicit Weights(const std::vector<Tensor>& all) : all_(all) {}
    // A matrix [outputs, inputs] or a vector [outputs]; none where an absent one may be and is empty.
    Values next(int64_t outputs, int64_t inputs = 0, bool optional = false) {
        GM_CHECK(at_ < all_.size(), "weights: got ", all_.size(), " tensors, too few");
        const Tensor& t = all_[at_++];
        const bool half = t.scalar_type() == ScalarType::BFloat16;
        if (!half) check_dtype("weights", t, ScalarType::Float);
        check_contiguous_cpu("weights", t);
        if (optional && t.numel() == 0) return {};
        GM_CHECK(t.dim() == (inputs ? 2 : 1) && t.size(0) == outputs && (!inputs || t.size(1) == inputs),
                 "weights: got shape ", shape_text(t), " at ", at_ - 1, "; takes ", outputs, " by ", inputs);
        if (half) return {nullptr, static_cast<const uint16_t*>(t.const_data_ptr())};
        return {t.const_data_ptr<float>(), nullptr};
    }
    void end() const { GM_CHECK(at_ == all_.size(), "weights: got ", all_.size(), " tensors; takes ", at_); }

 private:
    const std::vector<Tensor>& all_;
    size_t at_ = 0;
};

// Some outputs of a linear: where their weights come from, and the first of their places. In a gated pair's halves,
// panel p of the half is panel 2p + half of the whole.
struct Source {
    Values weight, bias;
    int64_t count, first;
    int panel_step;
};

// To nearest, ties to even; NaN stays NaN.
uint32_t bf16_bits(float value) {
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof(bits));
    if (value != value) return (bits >> 16) | 0x40;
    return (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16;
}

// The largest magnitude of an output's weights / 127, so that each is within half a scale of its int8. A weight that is
// not finite makes the scale, and with it the output, NaN.
float int8_scale(const Values& weight, int64_t inputs) {
    float most = 0.0f;
    for (int64_t k = 0; k < inputs; ++k) {
        const float magnitude = std::fabs(weight[k]);
        if (!std::isfinite(magnitude)) return from_bits(0x7FC00000);
        most = std::max(most, magnitude);
    }
    return most / 127.0f;
}

uint32_t int8_bits(float value, float scale) {
    const float steps = scale > 0.0f ? std::nearbyintf(value / scale) : 0.0f;
    return static_cast<uint8_t>(static_cast<int8_t>(std::min(127.0f, std::max(-127.0f, steps))));
}

// One output's weights to its words, each 16 words after the last.
void pack_row(WeightFormat format, const Values& from, int64_t inputs, float scale, uint32_t* to) {
    const int each = weights_per_word(format), bits = 32 / each;
    for (int64_t word = 0; word < row_words(format, inputs); ++word) {
        uint32_t value = 0;
        for (int i = 0; i < each && word * each + i < inputs; ++i) {
            const float weight = from[word * each + i];
            uint32_t part;
            if (format == WeightFormat::fp32)
                std::memcpy(&part, &weight, sizeof(part));
            else
                part = format == WeightFormat::bf16 ? bf16_bits(weight) : int8_bits(weight, scale);
            value |= part << (i * bits);
        }
        to[word * kLanes] = value;
    }
}

void pack_linear(const PackedLinear& m, WeightFormat format, const std::vector<Source>& sources, float* packed) {
    auto* weight = reinterpret_cast<uint32_t*>(packed + m.weight);
    float* bias = packed + m.bias;
    float* scale = m.scale < 0 ? nullptr : packed + m.scale;
    std::vector<Values> rows(static_cast<size_t>(m.outputs));
    std::fill(bias, bias + m.outputs, 0.0f);
    for (const Source& s : sources)
        for (int64_t i = 0; i < s.count; ++i) {
            const int64_t at = s.first + i / kLanes * kLanes * s.panel_step + i % kLanes;
            rows[static_cast<size_t>(at)] = s.weight.from(i * m.inputs);
            if (s.bias) bias[at] = s.bias[i];
        }
    const int64_t words = row_words(format, m.inputs);
    parallel_for(0, m.outputs / kLanes, 1 + 65536 / (m.inputs * kLanes), [&](int64_t begin, int64_t end) {
        for (int64_t at = begin * kLanes; at < end * kLanes; ++at) {
            const Values& from = rows[static_cast<size_t>(at)];
            uint32_t* to = weight + at / kLanes * words * kLanes + at % kLanes;
            const float by = scale && from ? int8_scale(from, m.inputs) : 0.0f;
            if (scale) scale[at] = by;
            if (from)
                pack_row(format, from, m.inputs, by, to);
            else
                for (int64_t word = 0; word < words; ++word) to[word * kLanes] = 0;
        }
    });
}

void pack_vector(int64_t at, const Values& from, int64_t count, float* packed) {
    if (!from) return;
    for (int64_t i = 0; i < count; ++i) packed[at + i] = from[i];
    std::fill(packed + at + count, packed + at + lanes_up(count), 0.0f);
}

// Every step reads all weights in order: with pages of 2 MiB no translation is missed on the way. A wish, not a need.
void ask_for_large_pages(void* memory, size_t bytes) {
#if defined(MADV_HUGEPAGE)
    constexpr uintptr_t kLarge = uintptr_t(1) << 21;
    const uintptr_t begin = (reinterpret_cast<uintptr_t>(memory) + kLarge - 1) / kLarge * kLarge;
    const uintptr_t end = (reinterpret_cast<uintptr_t>(memory) + bytes) / kLarge * kLarge;
    if (begin < end) static_cast<void>(madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE));
#else
    static_cast<void>(memory), static_cast<void>(bytes);
#endif
}

Tensor pack_transformer(const std::vector<Tensor>& weights, const std::vector<int64_t>& shape) {
    const TransformerShape s = transformer_shape(shape);
    const PackedLayout layout(s);
    Tensor out = new_tensor({layout.size}, ScalarType::Float);
    float* packed = out.mutable_data_ptr<float>();
    ask_for_large_pages(packed, static_cast<size_t>(layout.size) * sizeof(float));
    Weights from(weights);
    const bool layer_norm = s.norm == NormKind::layer, learned = s.position == PositionKind::learned;
    const auto norm = [&](const PackedNorm& n) {
        pack_vector(n.weight, from.next(s.width), s.width, packed);
        pack_vector(n.bias, layer_norm ? from.next(s.width) : Values{}, s.width, packed);
    };
    pack_vector(layout.embedding, from.next(s.vocab, s.width), s.vocab * s.width, packed);
    pack_vector(layout.positions, learned ? from.next(s.max_len, s.width) : Values{}, s.max_len * s.width, packed);
    const int64_t queries = s.heads * s.head_dim, keys = s.kv_heads * s.head_dim;
    for (const PackedLayer& l : layout.layers) {
        const auto source = [&](int64_t outputs, int64_t inputs, int64_t first, int step) {
            const Values weight = from.next(outputs, inputs);
            return Source{weight, from.next(outputs, 0, true), outputs, first, step};
        };
        norm(l.before_attention);
        const Source q = source(queries, s.width, 0, 1), k = source(keys, s.width, queries, 1);
        pack_linear(l.qkv, s.format, {q, k, source(keys, s.width, queries + keys, 1)}, packed);
        pack_linear(l.out, s.format, {source(s.width, queries, 0, 1)}, packed);
        pack_vector(l.q_norm, s.qk_norm ? from.next(s.head_dim) : Values{}, s.head_dim, packed);
        pack_vector(l.k_norm, s.qk_norm ? from.next(s.head_dim) : Values{}, s.head_dim, packed);
        if (s.post_norms) norm(l.after_attention);
        norm(l.before_mlp);
        if (s.gated()) {
            const Source gate = source(s.ff, s.width, 0, 2);
            pack_linear(l.up, s.format, {gate, source(s.ff, s.width, kLanes, 2)}, packed);
        } else {
            pack_linear(l.up, s.format, {source(s.ff, s.width, 0, 1)}, packed);
        }
        pack_linear(l.down, s.format, {source(s.width, s.ff, 0, 1)}, packed);
        if (s.post_norms) norm(l.after_mlp);
    }
    norm(layout.norm);
    pack_linear(layout.head, s.format, {Source{from.next(s.vocab, s.width), {}, s.vocab, 0, 1}}, packed);
    from.end();
    return out;
}

}  // namespace
}  // namespace gm

STABLE_TORCH_LIBRARY_IMPL(gmkern, CPU, m) { m.impl("pack_transformer", TORCH_BOX(&gm::pack_transformer)); }
