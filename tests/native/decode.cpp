// The ops of decode. Exponentials and dot products are each instruction set's own; tokens and noise would be promised,
// but a case's checksum takes its log-probabilities in.
#include <optional>

#include "cases.h"

namespace gm::native {
namespace {

using Optional = std::optional<Tensor>;
using Reals = std::vector<double>;
using Sample = std::tuple<Tensor, Tensor, Tensor, Tensor>(const Tensor&, const Tensor&, const Optional&,
                                                          const Optional&, const Tensor&, const Tensor&, const Tensor&);
using TokenLogprobs = Tensor(const Tensor&, const Tensor&, const Tensor&, const Optional&, const Optional&);
using TokenLogprobsBackward = Tensor(const Tensor&, const Tensor&, const Tensor&, const Tensor&, const Optional&,
                                     const Optional&);
using ScoreTokens = std::tuple<Tensor, Tensor, Tensor, Tensor>(const Tensor&, const Tensor&, const Tensor&,
                                                               const Optional&, const Optional&, bool);
using ScoreTokensBackward = Tensor(const Tensor&, const Tensor&, const Tensor&, const Tensor&, const Tensor&,
                                   const Tensor&, const Optional&, const Optional&);
using Attention = std::tuple<Tensor, Tensor>(const Tensor&, const Tensor&, const Tensor&, const Tensor&,
                                             const Optional&, const Optional&, const Optional&, const Optional&,
                                             int64_t, double, double);
using Fingerprint = Tensor(const std::vector<Tensor>&);
using PackTransformer = Tensor(const std::vector<Tensor>&, const Ints&);
using PackedTransformerSize = int64_t(const Ints&);
using TransformerLogits = Tensor(const Tensor&, const Tensor&, Tensor, const Tensor&, const Tensor&, const Tensor&,
                                 const Tensor&, const Ints&, const Reals&);
using TransformerHead = Tensor(const Tensor&, const Tensor&, const Ints&, const Reals&);
using GenerateSteps = void(const Tensor&, const Tensor&, Tensor, const Tensor&, const Tensor&, const Tensor&,
                           const Tensor&, const Tensor&, const Tensor&, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor,
                           Tensor, Tensor, Tensor, const Tensor&, const Tensor&, const Tensor&, const Tensor&,
                           const Tensor&, const Tensor&, int64_t, const Ints&, const Reals&);

// --- rows of logits ---

constexpr int64_t kRows = 24, kVocab = 3000;

// SampleParams: temperature, top_k, top_p, min_p, typical_p, three penalties, epsilon, prompt.
Tensor filters(int64_t rows, double top_k, double top_p, double repetition = 1.0) {
    Reals all;
    for (int64_t i = 0; i < rows; ++i) all.insert(all.end(), {0.8, top_k, top_p, 0.0, 1.0, repetition, 0, 0, 0, 0});
    return tensor(all, {rows, 10});
}
Tensor logits(ScalarType dtype = ScalarType::Float) { return Numbers(1).reals({kRows, kVocab}, -8.0, 8.0, dtype); }
Tensor tokens() { return Numbers(2).whole({kRows}, kVocab); }

std::vector<Tensor> draw(const Tensor& params, ScalarType dtype = ScalarType::Float, const Optional& history = {}) {
    return listed(op<Sample>("sample")(logits(dtype), params, {}, history, scalar(5), counting(kRows), scalar(3)));
}
GM_CASE("sample, no filter", Bits::own) { return draw(filters(1, 0, 1)); }
GM_CASE("sample, top-k and top-p", Bits::own) { return draw(filters(kRows, 50, 0.9)); }
GM_CASE("sample, penalties, bf16", Bits::own) {
    return draw(filters(1, 0, 0.95, 1.3), ScalarType::BFloat16, Numbers(4).whole({kRows, 20}, kVocab));
}
GM_CASE("sample, fp64", Bits::own) { return draw(filters(1, 0, 0.7), ScalarType::Double); }
GM_CASE("token_logprobs", Bits::own) {
    return {op<TokenLogprobs>("token_logprobs")(logits(), tokens(), filters(1, 0, 1), {}, {})};
}
GM_CASE("token_logprobs_backward", Bits::own) {
    return {op<TokenLogprobsBackward>("token_logprobs_backward")(Numbers(3).reals({kRows}), logits(), tokens(),
                                                                 filters(1, 0, 1), {}, {})};
}
GM_CASE("score_tokens", Bits::own) {
    return listed(op<ScoreTokens>("score_tokens")(logits(), tokens(), filters(1, 0, 1), {}, {}, true));
}
GM_CASE("score_tokens_backward", Bits::own) {
    Numbers numbers(3);
    const Tensor a = numbers.reals({kRows}), b = numbers.reals({kRows}), c = numbers.reals({kRows});
    return {op<ScoreTokensBackward>("score_tokens_backward")(a, b, c, logits(), tokens(), filters(1, 0, 1), {}, {})};
}

// --- attention ---

std::vector<Tensor> attend(int64_t rows, int64_t heads, int64_t key_heads, int64_t room, int64_t window) {
    Numbers numbers(6);
    const Tensor q = numbers.reals({rows, 1, heads, 40}), k = numbers.reals({rows, room, key_heads, 40}),
                 v = numbers.reals({rows, room, key_heads, 40});
    Tensor lengths({rows}, ScalarType::Int);
    for (int64_t b = 0; b < rows; ++b)
        lengths.mutable_data_ptr<int32_t>()[b] = static_cast<int32_t>(room - 17 * b % room);
    return listed(op<Attention>("attention")(q, k, v, lengths, {}, {}, {}, {}, window, 0.0, 0.15));
}
GM_CASE("attention, many rows", Bits::own) { return attend(9, 4, 2, 150, 0); }
GM_CASE("attention, one long row in splits", Bits::own) { return attend(1, 2, 1, 3000, 0); }
GM_CASE("attention, windows", Bits::own) { return attend(9, 4, 4, 400, 100); }

GM_CASE("fingerprint", Bits::promised) {
    return {op<Fingerprint>("fingerprint")({Numbers(7).reals({700, 1000}), Numbers(8).reals({3}), logits()})};
}

// --- the engine ---

// A small Llama: rms norms, swiglu, rope; or one that is wide enough that a step's layers are shared.
struct Model {
    int64_t vocab, layers, heads, width, ff, length = 48, head_dim;
    Ints shape;
    Reals reals;
    Tensor packed, turns;

    Model(int64_t vocab_, int64_t layers_, int64_t heads_, int64_t width_, int64_t ff_, int64_t format = 0)
        : vocab(vocab_),
          layers(layers_),
          heads(heads_),
          width(width_),
          ff(ff_),
          head_dim(width_ / heads_),
          shape{vocab, layers, heads, width, length, heads, ff, head_dim, 0, 0, 0, 0, head_dim, 0, 0, format},
          reals{1e-5, 1.0 / std::sqrt(static_cast<double>(head_dim)), 0.0, 0.0},
          packed(nothing(ScalarType::Float)),
          turns(Numbers(9).reals({length, head_dim})) {
        shape.insert(shape.end(), static_cast<size_t>(layers), 0);
        Numbers numbers(10);
        std::vector<Tensor> weights{numbers.reals({vocab, width})};
        const auto linear = [&](int64_t outputs, int64_t inputs) {
            const double size = 1.7 / std::sqrt(static_cast<double>(inputs));
            weights.push_back(numbers.reals({outputs, inputs}, -size, size));
            weights.push_back(nothing(ScalarType::Float));
        };
        const auto norm = [&] { weights.push_back(numbers.reals({width}, 0.9, 1.1)); };
        for (int64_t l = 0; l < layers; ++l) {
            norm();
            for (int i = 0; i < 4; ++i) linear(width, width);
            norm();
            linear(ff, width);
            linear(ff, width);
            linear(width, ff);
        }
        norm();
        weights.push_back(numbers.reals({vocab, width}, -0.2, 0.2));
        packed = op<PackTransformer>("pack_transformer")(weights, shape);
        if (packed.numel() != op<PackedTransformerSize>("packed_transformer_size")(shape))
            throw std::runtime_error("pack_transformer and packed_transformer_size do not agree");
    }
    Tensor cache(int64_t slots) const {
        return filled({slots, layers, heads, length, head_dim + (head_dim + 15) / 16 * 16}, 0.0, ScalarType::Float);
    }
};

std::vector<Tensor> generated(const Model& m, int64_t rows, int64_t slots, int64_t drawn) {
    const Tensor prompts = Numbers(11).whole({rows * 3}, m.vocab);
    Tensor tokens = filled({rows, drawn}, 0.0, ScalarType::Long), lengths = filled({rows}, 0.0, ScalarType::Long);
    Tensor logprobs = filled({rows, drawn}, 0.0, ScalarType::Float), raw = torch::stable::clone(logprobs),
           kept = torch::stable::clone(logprobs), finished({rows}, ScalarType::Bool), order = counting(rows);
    std::memset(finished.data_ptr(), 0, static_cast<size_t>(rows));
    Ints free;
    for (int64_t s = 0; s < slots; ++s) free.insert(free.end(), {-1, 0, 0});
    Tensor progress = tensor<int64_t>({0, 0, -1, 0}), state = tensor(free, {slots, 3});
    const Tensor cache = m.cache(slots), no_cache({0, m.layers, m.heads, 0, cache.size(4)}, ScalarType::Float);
    const Tensor no_prefix = filled({rows}, -1.0, ScalarType::Long), none = nothing(ScalarType::Long);
    for (int64_t slice = 0; progress.const_data_ptr<int64_t>()[1] < rows; ++slice) {
        if (slice > 3 * rows * drawn) throw std::runtime_error("generate_steps comes to no end");
        op<GenerateSteps>("generate_steps")(
            m.packed, m.turns, cache, prompts, counting(rows + 1, 3), scalar(0), filled({rows}, 12.0, ScalarType::Long),
            counting(rows), filters(rows, 40, 0.95), state, progress, tokens, lengths, logprobs, raw, kept, finished,
            order, no_cache, no_prefix, none, none, none, nothing(ScalarType::Float), 4, m.shape, m.reals);
        if (progress.const_data_ptr<int64_t>()[2] >= 0) throw std::runtime_error("a row could not be drawn for");
    }
    // `order` alone says who was first.
    return {tokens, lengths, logprobs, raw, kept, finished};
}
GM_CASE("generate_steps, a team shares the layers", Bits::own) {
    return generated(Model(700, 2, 4, 256, 512), 6, 3, 12);
}
GM_CASE("generate_steps, int8", Bits::own) { return generated(Model(700, 2, 4, 256, 512, 2), 5, 2, 8); }
GM_CASE("generate_steps, groups apart", Bits::own) { return generated(Model(60, 2, 2, 32, 64), 100, 60, 14); }

GM_CASE("transformer_logits, transformer_hidden and transformer_head", Bits::own) {
    const Model m(700, 2, 4, 256, 512);
    const Tensor tokens = Numbers(13).whole({30}, m.vocab), positions = counting(30),
                 slots = filled({30}, 0.0, ScalarType::Long);
    const Tensor wanted = tensor<int64_t>({3, 28, 29});
    const Tensor logits = op<TransformerLogits>("transformer_logits")(m.packed, m.turns, m.cache(1), tokens, slots,
                                                                      positions, wanted, m.shape, m.reals);
    const Tensor hidden = op<TransformerLogits>("transformer_hidden")(m.packed, m.turns, m.cache(1), tokens, slots,
                                                                      positions, wanted, m.shape, m.reals);
    return {logits, hidden, op<TransformerHead>("transformer_head")(m.packed, hidden, m.shape, m.reals)};
}

}  // namespace
}  // namespace gm::native
