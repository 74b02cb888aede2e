#include "decode/transformer_engine.h"

#include <algorithm>
#include <cstring>

namespace gm {
namespace {

// Below this many multiply-adds handing work over costs more than help is worth.
constexpr int64_t kSpreadWork = 1 << 15;
// A model of this many floats is read from memory, or a far cache, at each step.
constexpr int64_t kFar = int64_t(1) << 21;

int64_t take(int64_t* at, int64_t count) {
    const int64_t here = *at;
    *at += lanes_up(count);
    return here;
}
PackedLinear take_linear(int64_t* at, WeightFormat format, int64_t outputs, int64_t inputs) {
    PackedLinear m;
    m.outputs = lanes_up(outputs);
    m.inputs = inputs;
    m.weight = take(at, m.outputs * row_words(format, inputs));
    m.bias = take(at, m.outputs);
    m.scale = format == WeightFormat::int8 ? take(at, m.outputs) : -1;
    return m;
}
PackedNorm take_norm(int64_t* at, const TransformerShape& s) {
    PackedNorm n;
    n.weight = take(at, s.width);
    n.bias = s.norm == NormKind::layer ? take(at, s.width) : -1;
    return n;
}

// f over [0, count), `unit` items at a time, by the whole team where the work is worth it. What f does may not depend
// on the cut.
template <class F>
void share(Team* team, int64_t count, int64_t unit, int64_t work, const F& f) {
    if (team && work >= kSpreadWork)
        team->share(count, unit, f);
    else
        f(0, count);
}

float* scores_room(int64_t positions) {
    static thread_local std::vector<float> room;
    if (static_cast<int64_t>(room.size()) < lanes_up(positions)) room.resize(static_cast<size_t>(lanes_up(positions)));
    return room.data();
}

}  // namespace

PackedLayout::PackedLayout(const TransformerShape& s) {
    int64_t at = 0;
    embedding = take(&at, s.vocab * s.width);
    positions = take(&at, s.position == PositionKind::learned ? s.max_len * s.width : 0);
    for (int64_t i = 0; i < s.layers; ++i) {
        PackedLayer l;
        l.before_attention = take_norm(&at, s);
        l.qkv = take_linear(&at, s.format, s.qkv(), s.width);
        l.q_norm = s.qk_norm ? take(&at, s.head_dim) : -1;
        l.k_norm = s.qk_norm ? take(&at, s.head_dim) : -1;
        l.out = take_linear(&at, s.format, s.width, s.heads * s.head_dim);
        l.after_attention = s.post_norms ? take_norm(&at, s) : PackedNorm{-1, -1};
        l.before_mlp = take_norm(&at, s);
        l.up = take_linear(&at, s.format, s.gated() ? 2 * lanes_up(s.ff) : s.ff, s.width);
        l.down = take_linear(&at, s.format, s.width, s.ff);
        l.after_mlp = s.post_norms ? take_norm(&at, s) : PackedNorm{-1, -1};
        layers.push_back(l);
    }
    norm = take_norm(&at, s);
    head = take_linear(&at, s.format, s.vocab, s.width);
    size = at;
}

EngineScratch::EngineScratch(const TransformerShape& s, int64_t rows, int64_t logit_rows)
    : x(static_cast<size_t>(rows * lanes_up(s.width))),
      normed(static_cast<size_t>(std::max(rows, logit_rows) * lanes_up(s.width))),
      qkv(static_cast<size_t>(rows * lanes_up(s.qkv()))),
      attended(static_cast<size_t>(rows * s.heads * s.head_dim)),
      hidden(static_cast<size_t>(rows * lanes_up(s.ff))),
      logits(static_cast<size_t>(logit_rows * lanes_up(s.vocab))) {}

Engine::Engine(const TransformerShape& shape, const float* packed, const float* turns, float* cache, int64_t length)
    : shape_(shape),
      layout_(shape),
      packed_(packed),
      turns_(turns),
      cache_(cache),
      length_(length),
      head_floats_(length * (shape.head_dim + shape.value_width())),
      linear_body_(GM_CALL_ISA(linear_panels)),
      norm_body_(GM_CALL_ISA(norm_rows)),
      cap_body_(GM_CALL_ISA(cap_values)),
      place_body_(GM_CALL_ISA(place_heads)),
      attend_body_(GM_CALL_ISA(attend_row)) {}

void Engine::linear(const PackedLinear& m, const float* x, int64_t x_stride, float* out, int64_t rows, Epilogue kind,
                    Team* team) const {
    const bool gated = is_gated(kind);
    const LinearArgs args{x,
                          reinterpret_cast<const uint32_t*>(packed_ + m.weight),
                          packed_ + m.bias,
                          m.scale < 0 ? nullptr : packed_ + m.scale,
                          out,
                          x_stride,
                          gated ? m.outputs / 2 : m.outputs,
                          rows,
                          m.inputs,
                          kind,
                          shape_.format,
                          layout_.size >= kFar};
    const int64_t panels = m.outputs / kLanes, unit = panels >= 64 ? 8 : 4;  // panels that a thread takes together
    share(team, panels, unit, rows * m.inputs * m.outputs,
          [&](int64_t begin, int64_t end) { linear_body_(args, begin, end); });
}

void Engine::norm(const PackedNorm& n, const float* x, float* out, int64_t rows, Team* team) const {
    const NormArgs args{x,
                        packed_ + n.weight,
                        n.bias < 0 ? nullptr : packed_ + n.bias,
                        out,
                        lanes_up(shape_.width),
                        shape_.width,
                        shape_.norm,
                        shape_.eps};
    share(team, rows, 1, rows * shape_.width * 8, [&](int64_t begin, int64_t end) { norm_body_(args, begin, end); });
}

void Engine::attention(EngineScratch& s, int64_t layer, const TokenRow* rows, int64_t count, Team* team) const {
    const TransformerShape& m = shape_;
    const PackedLayer& l = layout_.layers[static_cast<size_t>(layer)];
    const int64_t qkv = lanes_up(m.qkv()), attended = m.heads * m.head_dim;
    const int64_t layer_floats = m.kv_heads * head_floats_;
    const auto part = [&](const TokenRow& r) { return cache_ + (r.slot * m.layers + layer) * layer_floats; };

    share(team, count, 1, count * m.qkv() * 16, [&](int64_t begin, int64_t end) {
        for (int64_t r = begin; r < end; ++r)
            place_body_({s.qkv.data() + r * qkv, l.q_norm < 0 ? nullptr : packed_ + l.q_norm,
                         l.k_norm < 0 ? nullptr : packed_ + l.k_norm,
                         turns_ ? turns_ + rows[r].position * m.rotary : nullptr, part(rows[r]), m.heads, m.kv_heads,
                         m.head_dim, m.rotary, length_, rows[r].position, m.eps, m.score_scale});
    });

    const int64_t window = m.windows[static_cast<size_t>(layer)];
    const auto first = [&](const TokenRow& r) {
        return window > 0 && r.position >= window ? r.position - window + 1 : 0;
    };
    int64_t work = 0;
    for (int64_t r = 0; r < count; ++r) work += 2 * attended * (rows[r].position + 1 - first(rows[r]));
    const int64_t group = m.heads / m.kv_heads;
    share(team, count * m.kv_heads, 1, work, [&](int64_t begin, int64_t end) {
        float* scores = scores_room(length_);
        for (int64_t i = begin; i < end; ++i) {
            const int64_t r = i / m.kv_heads, h = i % m.kv_heads, at = h * group * m.head_dim;
            attend_body_({s.qkv.data() + r * qkv + at, part(rows[r]) + h * head_floats_,
                          s.attended.data() + r * attended + at, scores, group, m.head_dim, length_, first(rows[r]),
                          rows[r].position, m.score_cap});
        }
    });
}

void Engine::add(EngineScratch& s, const PackedLinear& m, const PackedNorm& after, const float* y, int64_t y_stride,
                 int64_t rows, Team* team) const {
    if (after.weight < 0) return linear(m, y, y_stride, s.x.data(), rows, Epilogue::add, team);
    linear(m, y, y_stride, s.normed.data(), rows, Epilogue::store, team);
    norm(after, s.normed.data(), s.normed.data(), rows, team);
    for (int64_t r = 0; r < rows; ++r) {
        float* x = s.x.data() + r * lanes_up(shape_.width);
        const float* more = s.normed.data() + r * lanes_up(shape_.width);
        for (int64_t i = 0; i < shape_.width; ++i) x[i] += more[i];
    }
}

void Engine::run(EngineScratch& s, const TokenRow* rows, int64_t count, Team* team) const {
    const TransformerShape& m = shape_;
    const int64_t width = lanes_up(m.width), attended = m.heads * m.head_dim;
    for (int64_t r = 0; r < count; ++r) {
        float* x = s.x.data() + r * width;
        const float* token = packed_ + layout_.embedding + rows[r].token * m.width;
        std::memcpy(x, token, static_cast<size_t>(m.width) * sizeof(float));
        std::memset(x + m.width, 0, static_cast<size_t>(width - m.width) * sizeof(float));
        if (m.position == PositionKind::learned) {
            const float* place = packed_ + layout_.positions + rows[r].position * m.width;
            for (int64_t i = 0; i < m.width; ++i) x[i] += place[i];
        }
    }
    for (int64_t i = 0; i < m.layers; ++i) {
        const PackedLayer& l = layout_.layers[static_cast<size_t>(i)];
        norm(l.before_attention, s.x.data(), s.normed.data(), count, team);
        linear(l.qkv, s.normed.data(), width, s.qkv.data(), count, Epilogue::store, team);
        attention(s, i, rows, count, team);
        if (m.parallel) norm(l.before_mlp, s.x.data(), s.normed.data(), count, team);  // of x as attention read it
        add(s, l.out, l.after_attention, s.attended.data(), attended, count, team);
        if (!m.parallel) norm(l.before_mlp, s.x.data(), s.normed.data(), count, team);
        linear(l.up, s.normed.data(), width, s.hidden.data(), count, static_cast<Epilogue>(m.activation), team);
        add(s, l.down, l.after_mlp, s.hidden.data(), lanes_up(m.ff), count, team);
    }
}

void Engine::copy_cache(const float* others, int64_t room, int64_t prefix, int64_t slot, int64_t count) const {
    const int64_t d = shape_.head_dim, values = shape_.value_width(), heads = shape_.layers * shape_.kv_heads;
    for (int64_t h = 0; h < heads; ++h) {
        const float* from = others + (prefix * heads + h) * room * (d + values);
        float* to = cache_ + (slot * heads + h) * head_floats_;
        std::copy_n(from, lanes_up(count) * d, to);
        std::copy_n(from + room * d, count * values, to + length_ * d);
    }
}

void Engine::final_norm(EngineScratch& s, const int64_t* which, int64_t count) const {
    const int64_t width = lanes_up(shape_.width);
    for (int64_t i = 0; i < count; ++i)
        norm(layout_.norm, s.x.data() + which[i] * width, s.normed.data() + i * width, 1, nullptr);
}

void Engine::head(EngineScratch& s, int64_t count, Team* team) const {
    const int64_t width = lanes_up(shape_.width);
    linear(layout_.head, s.normed.data(), width, s.logits.data(), count, Epilogue::store, team);
    if (shape_.logit_cap > 0.0f) {
        const int64_t vocab = lanes_up(shape_.vocab);
        share(team, count, 1, count * vocab * 16, [&](int64_t begin, int64_t end) {
            cap_body_(s.logits.data() + begin * vocab, (end - begin) * vocab, shape_.logit_cap);
        });
    }
}

}  // namespace gm
