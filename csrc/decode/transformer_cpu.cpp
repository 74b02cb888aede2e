#include <torch/csrc/stable/library.h>

#include <algorithm>

#include "common/new_tensor.h"
#include "decode/transformer_ops.h"

namespace gm {

TransformerShape transformer_shape(const std::vector<int64_t>& v, const std::vector<double>& reals) {
    GM_CHECK(v.size() >= 16, "shape: got ", v.size(), " numbers; takes 16 and a window a layer");
    for (int i = 0; i < 8; ++i)
        GM_CHECK(v[i] >= 1 && v[i] < (int64_t(1) << 31), "shape: got ", v[i], " at ", i, "; takes 1 to 2^31 - 1");
    GM_CHECK(v[2] % v[5] == 0, "shape: got ", v[5], " key heads for ", v[2], " query heads; takes a divisor");
    GM_CHECK(v[8] >= 0 && v[8] <= 1 && v[9] >= 0 && v[9] <= 6 && v[10] >= 0 && v[10] <= 2, "shape: unknown kinds");
    GM_CHECK(v[10] != 0 || (v[12] % 2 == 0 && v[12] >= 2 && v[12] <= v[7]), "shape: got ", v[12],
             " dimensions to turn; takes an even number up to head_dim, ", v[7]);
    GM_CHECK(static_cast<int64_t>(v.size()) == 16 + v[1], "shape: got ", v.size(), " numbers; takes 16 and ", v[1],
             " windows");
    GM_CHECK(v[13] == 0 || v[14] == 0, "shape: got post_norms in parallel halves; takes one of the two");
    for (size_t i = 16; i < v.size(); ++i) GM_CHECK(v[i] >= 0, "shape: got a window of ", v[i], "; takes 0 or more");
    GM_CHECK(reals.size() == 4, "reals: got ", reals.size(), " numbers; takes 4");
    GM_CHECK(reals[2] >= 0 && reals[3] >= 0, "reals: got caps ", reals[2], " and ", reals[3], "; takes 0 or more");
    GM_CHECK(v[15] >= 0 && v[15] <= 2, "shape: got weight format ", v[15], "; takes 0 to 2");
    return {v[0],
            v[1],
            v[2],
            v[3],
            v[4],
            v[5],
            v[6],
            v[7],
            static_cast<NormKind>(v[8]),
            static_cast<Activation>(v[9]),
            static_cast<PositionKind>(v[10]),
            v[11] != 0,
            v[12],
            v[13] != 0,
            v[14] != 0,
            static_cast<WeightFormat>(v[15]),
            {v.begin() + 16, v.end()},
            static_cast<float>(reals[0]),
            static_cast<float>(reals[1]),
            static_cast<float>(reals[2]),
            static_cast<float>(reals[3])};
}

Engine make_engine(const Tensor& packed, const Tensor& turns, const Tensor& cache, const TransformerShape& s) {
    const PackedLayout layout(s);
    check_dtype("packed", packed, ScalarType::Float);
    check_contiguous_cpu("packed", packed);
    check_dim("packed", packed, 1);
    check_size("packed", packed, 0, layout.size);
    check_dtype("cache", cache, ScalarType::Float);
    check_contiguous_cpu("cache", cache);
    check_dim("cache", cache, 5);
    check_size("cache", cache, 1, s.layers);
    check_size("cache", cache, 2, s.kv_heads);
    check_size("cache", cache, 4, s.head_dim + s.value_width());
    const int64_t length = cache.size(3);
    GM_CHECK(length % kLanes == 0 && length < (int64_t(1) << 31), "cache: got room for ", length,
             " tokens; takes a multiple of 16");
    check_dtype("turns", turns, ScalarType::Float);
    check_contiguous_cpu("turns", turns);
    check_dim("turns", turns, 2);
    check_size("turns", turns, 0, length);
    check_size("turns", turns, 1, s.position == PositionKind::rope ? s.rotary : 0);
    return Engine(s, packed.const_data_ptr<float>(),
                  s.position == PositionKind::rope ? turns.const_data_ptr<float>() : nullptr,
                  cache.mutable_data_ptr<float>(), length);
}

namespace {

int64_t packed_transformer_size(const std::vector<int64_t>& shape) {
    return PackedLayout(transformer_shape(shape)).size;
}

// The tokens that an op adds to the cache, checked, and which of them are asked for.
struct Feed {
    std::vector<TokenRow> rows;
    const int64_t* want;
    int64_t asked;

    Feed(const Engine& engine, const Tensor& cache, const Tensor& tokens, const Tensor& slots, const Tensor& positions,
         const Tensor& wanted)
        : rows(static_cast<size_t>(tokens.numel())), want(wanted.const_data_ptr<int64_t>()), asked(wanted.numel()) {
        const TransformerShape& s = engine.shape();
        const int64_t count = tokens.numel(), room = std::min(cache.size(3), s.max_len);
        for (const auto& [name, t] : {std::pair<const char*, const Tensor&>{"tokens", tokens},
                                      {"slots", slots},
                                      {"positions", positions},
                                      {"wanted", wanted}}) {
            check_dtype(name, t, ScalarType::Long);
            check_contiguous_cpu(name, t);
            check_dim(name, t, 1);
        }
        check_size("slots", slots, 0, count);
        check_size("positions", positions, 0, count);
        const int64_t *token = tokens.const_data_ptr<int64_t>(), *slot = slots.const_data_ptr<int64_t>(),
                      *position = positions.const_data_ptr<int64_t>();
        for (int64_t r = 0; r < count; ++r) {
            GM_CHECK(token[r] >= 0 && token[r] < s.vocab, "tokens: got ", token[r], "; takes ids in [0, ", s.vocab,
                     ")");
            GM_CHECK(slot[r] >= 0 && slot[r] < cache.size(0), "slots: got ", slot[r], "; takes [0, ", cache.size(0),
                     ")");
            GM_CHECK(position[r] >= 0 && position[r] < room, "positions: got ", position[r], "; takes [0, ", room, ")");
            rows[static_cast<size_t>(r)] = {token[r], slot[r], position[r]};
        }
        for (int64_t i = 0; i < asked; ++i)
            GM_CHECK(want[i] >= (i ? want[i - 1] + 1 : 0) && want[i] < count, "wanted: got ", want[i],
                     "; takes ascending rows in [0, ", count, ")");
    }

    // Runs all rows; give(first, count) is called with the last norms of up to `most` asked rows in scratch.normed.
    template <class Give>
    void run(const Engine& engine, EngineScratch& scratch, Team& team, int64_t most, const Give& give) const {
        int64_t given = 0;
        const int64_t count = static_cast<int64_t>(rows.size());
        for (int64_t begin = 0; begin < count; begin += kChunk) {
            const int64_t here = std::min(count - begin, kChunk);
            hear();
            engine.run(scratch, rows.data() + begin, here, &team);
            while (given < asked && want[given] < begin + here) {
                std::vector<int64_t> which;
                for (int64_t i = given; i < asked && want[i] < begin + here && i < given + most; ++i)
                    which.push_back(want[i] - begin);
                const int64_t n = static_cast<int64_t>(which.size());
                engine.final_norm(scratch, which.data(), n);
                give(given, n);
                given += n;
            }
        }
    }
    static constexpr int64_t kChunk = 256;
};
constexpr int64_t kLogitChunk = 64;

Tensor transformer_logits(const Tensor& packed, const Tensor& turns, Tensor cache, const Tensor& tokens,
                          const Tensor& slots, const Tensor& positions, const Tensor& wanted,
                          const std::vector<int64_t>& shape, const std::vector<double>& reals) {
    const Engine engine = make_engine(packed, turns, cache, transformer_shape(shape, reals));
    const Feed feed(engine, cache, tokens, slots, positions, wanted);
    const int64_t vocab = engine.shape().vocab;
    Tensor out = new_tensor({feed.asked, vocab}, ScalarType::Float);
    float* to = out.mutable_data_ptr<float>();
    EngineScratch scratch(engine.shape(), std::min<int64_t>(tokens.numel(), Feed::kChunk),
                          std::min(feed.asked, kLogitChunk));
    Team::run([&](Team& team) {
        feed.run(engine, scratch, team, kLogitChunk, [&](int64_t first, int64_t n) {
            engine.head(scratch, n, &team);
            for (int64_t i = 0; i < n; ++i)
                std::copy_n(scratch.logits.data() + i * lanes_up(vocab), vocab, to + (first + i) * vocab);
        });
    });
    return out;
}

Tensor transformer_hidden(const Tensor& packed, const Tensor& turns, Tensor cache, const Tensor& tokens,
                          const Tensor& slots, const Tensor& positions, const Tensor& wanted,
                          const std::vector<int64_t>& shape, const std::vector<double>& reals) {
    const Engine engine = make_engine(packed, turns, cache, transformer_shape(shape, reals));
    const Feed feed(engine, cache, tokens, slots, positions, wanted);
    const int64_t width = engine.shape().width;
    Tensor out = new_tensor({feed.asked, width}, ScalarType::Float);
    float* to = out.mutable_data_ptr<float>();
    EngineScratch scratch(engine.shape(), std::min<int64_t>(tokens.numel(), Feed::kChunk), 0);
    Team::run([&](Team& team) {
        feed.run(engine, scratch, team, Feed::kChunk, [&](int64_t first, int64_t n) {
            for (int64_t i = 0; i < n; ++i)
                std::copy_n(scratch.normed.data() + i * lanes_up(width), width, to + (first + i) * width);
        });
    });
    return out;
}

Tensor transformer_head(const Tensor& packed, const Tensor& hidden, const std::vector<int64_t>& shape,
                        const std::vector<double>& reals) {
    const TransformerShape s = transformer_shape(shape, reals);
    check_dtype("packed", packed, ScalarType::Float);
    check_contiguous_cpu("packed", packed);
    check_dim("packed", packed, 1);
    check_size("packed", packed, 0, PackedLayout(s).size);
    check_dtype("hidden", hidden, ScalarType::Float);
    check_contiguous_cpu("hidden", hidden);
    check_dim("hidden", hidden, 2);
    check_size("hidden", hidden, 1, s.width);
    const int64_t count = hidden.size(0);
    Tensor out = new_tensor({count, s.vocab}, ScalarType::Float);
    const Engine engine(s, packed.const_data_ptr<float>(), nullptr, nullptr, kLanes);
    EngineScratch scratch(s, 0, std::min(count, kLogitChunk));
    const float* from = hidden.const_data_ptr<float>();
    float* to = out.mutable_data_ptr<float>();
    Team::run([&](Team& team) {
        for (int64_t first = 0; first < count; first += kLogitChunk) {
            hear();
            const int64_t n = std::min(count - first, kLogitChunk);
            for (int64_t i = 0; i < n; ++i)
                std::copy_n(from + (first + i) * s.width, s.width, scratch.normed.data() + i * lanes_up(s.width));
            engine.head(scratch, n, &team);
            for (int64_t i = 0; i < n; ++i)
                std::copy_n(scratch.logits.data() + i * lanes_up(s.vocab), s.vocab, to + (first + i) * s.vocab);
        }
    });
    return out;
}

}  // namespace
}  // namespace gm

STABLE_TORCH_LIBRARY_IMPL(gmkern, CompositeExplicitAutograd, m) {
    m.impl("packed_transformer_size", TORCH_BOX(&gm::packed_transformer_size));
}
STABLE_TORCH_LIBRARY_IMPL(gmkern, CPU, m) {
    m.impl("transformer_logits", TORCH_BOX(&gm::transformer_logits));
    m.impl("transformer_hidden", TORCH_BOX(&gm::transformer_hidden));
    m.impl("transformer_head", TORCH_BOX(&gm::transformer_head));
}
