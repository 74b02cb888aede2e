// One row: logits to a token and its log-probabilities (docs/sampling.md). Compiled once per instruction set.
#include "decode/sample_draw.h"
#include "decode/sample_select.h"

namespace gm {
inline namespace GM_ISA {
namespace {

constexpr int64_t kChunk = 64;

// The parameters at the arithmetic's precision.
template <class F>
struct Filters {
    F temperature, top_p, min_p, typical_p, penalty;
    double top_k;

    explicit Filters(const SampleParams& p)
        : temperature(static_cast<F>(p.temperature)),
          top_p(static_cast<F>(p.top_p)),
          min_p(static_cast<F>(p.min_p)),
          typical_p(static_cast<F>(p.typical_p)),
          penalty(static_cast<F>(p.repetition_penalty)),
          top_k(p.top_k) {}
    bool valid() const {
        const F infinity = F(__builtin_inff());
        return temperature >= 0 && temperature < infinity && top_p >= 0 && top_p <= 1 && min_p >= 0 && min_p <= 1 &&
               typical_p >= 0 && typical_p <= 1 && penalty > 0 && penalty < infinity && top_k >= 0;
    }
    bool cuts_k(int64_t vocab) const { return top_k >= 1 && top_k < static_cast<double>(vocab); }
    bool any(int64_t vocab) const { return cuts_k(vocab) || top_p < 1 || min_p > 0 || typical_p < 1; }
};

float from_half(uint16_t h) {
    const uint32_t sign = static_cast<uint32_t>(h & 0x8000) << 16, rest = h & 0x7FFF;
    const float magnitude =
        rest >= 0x7C00 ? bit_cast<float>(uint32_t(0x7F800000) | (rest << 13)) : bit_cast<float>(rest << 13) * 0x1p112f;
    return bit_cast<float>(bit_cast<uint32_t>(magnitude) | sign);
}

const float* load_row(const SampleRow& row, float* room) {
    const int64_t n = row.vocab, s = row.logits_stride;
    if (row.type == LogitType::fp32) {
        const auto* from = static_cast<const float*>(row.logits);
        if (s == 1) return from;
        for (int64_t i = 0; i < n; ++i) room[i] = from[i * s];
    } else {
        const auto* from = static_cast<const uint16_t*>(row.logits);
        if (row.type == LogitType::bf16 && s == 1)
            for (int64_t i = 0; i < n; ++i) room[i] = bit_cast<float>(static_cast<uint32_t>(from[i]) << 16);
        else if (row.type == LogitType::bf16)
            for (int64_t i = 0; i < n; ++i) room[i] = bit_cast<float>(static_cast<uint32_t>(from[i * s]) << 16);
        else
            for (int64_t i = 0; i < n; ++i) room[i] = from_half(from[i * s]);
    }
    return room;
}
const double* load_row(const SampleRow& row, double* room) {
    const auto* from = static_cast<const double*>(row.logits);
    if (row.logits_stride == 1) return from;
    for (int64_t i = 0; i < row.vocab; ++i) room[i] = from[i * row.logits_stride];
    return room;
}

template <class F>
GM_HD x16<F> lanes_at(const F* from, int64_t at, int64_t n) {
    return at + 16 <= n ? x16<F>::load(from + at)
           : at < n     ? x16<F>::load_first(from + at, static_cast<int>(n - at), F(-__builtin_inff()))
                        : x16<F>(F(-__builtin_inff()));
}

// The greatest of a row; infinity where one is NaN or +infinity.
template <class F>
F greatest_of(const F* x, int64_t n) {
    using M = typename MaskOf<F>::type;
    const x16<F> infinity{F(__builtin_inff())};
    x16<F> top(F(-__builtin_inff()));
    x16<M> fine(M(-1));
    for (int64_t at = 0; at < n; at += 16) {
        const x16<F> v = lanes_at(x, at, n);
        fine = fine & (v < infinity);
        top = max(v, top);
    }
    alignas(64) M ok[16];
    fine.store(ok);
    M all = -1;
    for (const M lane : ok) all &= lane;
    return all ? max_lanes(top) : F(__builtin_inff());
}

// What a row needs, carved from the caller's scratch.
template <class F>
struct Room {
    F *x, *z;
    Survivors<F> kept;

    Room(void* scratch, int64_t vocab) {
        char* at = static_cast<char*>(scratch);
        const int64_t lanes = (vocab + 63) / 64 * 64;
        const auto take = [&](auto*& to) {
            to = reinterpret_cast<std::remove_reference_t<decltype(to)>>(at);
            at += (lanes * static_cast<int64_t>(sizeof(*to)) + 63) / 64 * 64;
        };
        take(x), take(z), take(kept.z), take(kept.e), take(kept.index);
        take(kept.key), take(kept.weight), take(kept.place);
    }
};

template <class F>
class Row {
    using V = x16<F>;
    using Mass = typename Fixed<F>::Mass;
    using M = typename MaskOf<F>::type;
    using U = typename Bits<F>::U;
    static constexpr int kPivots = 6;
    static constexpr F kPivot[kPivots] = {F(-1), F(-2), F(-4), F(-6), F(-9), F(-14)};

    const SampleRow& row_;
    const int64_t n_;
    const Filters<F> filters_;
    Room<F> room_;
    const F *x_, *z_;
    F x_top_ = 0, top_ = 0;  // the greatest logit, and the greatest processed one
    Mass raw_mass_ = 0, mass_ = 0, pivot_mass_[kPivots] = {};

 public:
    Row(const SampleRow& row, void* scratch)
        : row_(row),
          n_(row.vocab),
          filters_(row.params),
          room_(scratch, row.vocab),
          x_(load_row(row, room_.x)),
          z_(x_) {}

    SampleOut run() {
        SampleOut out{-1, __builtin_nan(""), __builtin_nan(""), __builtin_nan(""), prepare()};
        if (out.flaw != SampleFlaw::none) return out;
        const bool draws = row_.token < 0, greedy = filters_.temperature == 0, filtered = filters_.any(n_) && !greedy;
        int64_t token = row_.token;
        F kept_mass = 1;
        bool inside;  // whether the token is kept
        if (greedy) {
            const int64_t best = first_at_top();
            if (draws) token = best;
            inside = token == best;
            sums<false>(nullptr);
        } else if (filtered) {
            if (filters_.top_p < 1 && !filters_.cuts_k(n_))
                sums<true>(nullptr);
            else
                sums<false>(nullptr);
            select();
            if (draws) token = draw_survivor();
            inside = survives(token);
            kept_mass = Fixed<F>::real(room_.kept.mass());
        } else {
            Draw<F> draw(row_, top_);
            if (draws) draw.consider(first_at_top(), top_);
            sums<false>(draws ? &draw : nullptr);
            if (draws) token = draw.token();
            inside = z_[token] > F(-__builtin_inff());
            kept_mass = Fixed<F>::real(mass_);
        }
        out.token = token;
        out.raw_logprob = (x_[token] - x_top_) - log_positive(Fixed<F>::real(raw_mass_));
        out.log_kept_mass = filtered ? log_positive(kept_mass / Fixed<F>::real(mass_)) : F(0);
        out.logprob = !inside ? F(-__builtin_inff()) : greedy ? F(0) : (z_[token] - top_) - log_positive(kept_mass);
        if (row_.gradient != nullptr) fill_gradient(token, inside && !greedy, filtered, kept_mass);
        return out;
    }

 private:
    // Processed logits: repetition penalty, temperature, mask; -infinity where illegal.
    SampleFlaw prepare() {
        if (!filters_.valid()) return SampleFlaw::bad_params;
        if (row_.token >= n_) return SampleFlaw::token_out_of_range;
        x_top_ = top_ = greatest_of(x_, n_);
        if (x_top_ == F(__builtin_inff())) return SampleFlaw::not_finite;
        const bool penalised = filters_.penalty != 1 && row_.history_size > 0;
        const F t = filters_.temperature == 0 ? F(1) : filters_.temperature;
        if (penalised || t != 1 || row_.mask != nullptr) {
            F* z = room_.z;
            if (t == 1)
                std::memcpy(z, x_, static_cast<size_t>(n_) * sizeof(F));
            else
                for (int64_t i = 0; i < n_; ++i) z[i] = x_[i] / t;
            for (int64_t h = 0; penalised && h < row_.history_size; ++h) {
                const int64_t v = row_.history[h];
                if (v >= 0 && v < n_) z[v] = (x_[v] > 0 ? x_[v] / filters_.penalty : x_[v] * filters_.penalty) / t;
            }
            if (row_.mask != nullptr)
                for (int64_t i = 0; i < n_; ++i) z[i] = row_.mask[i * row_.mask_stride] ? z[i] : F(-__builtin_inff());
            z_ = z;
            top_ = greatest_of(z_, n_);
            if (top_ == F(__builtin_inff())) return SampleFlaw::not_finite;
        }
        return top_ == F(-__builtin_inff()) ? SampleFlaw::no_legal_token : SampleFlaw::none;
    }

    int64_t first_at_top() const {
        for (int64_t at = 0;; at += 16) {
            const int64_t end = at + 16 < n_ ? at + 16 : n_;
            F most = z_[at];
            for (int64_t i = at; i < end; ++i) most = z_[i] > most ? z_[i] : most;
            if (most == top_ || end == n_)
                for (int64_t i = at; i < end; ++i)
                    if (z_[i] == top_) return i;
        }
    }

    // mass_ and raw_mass_, with the mass above each pivot where PIVOTS; draws meanwhile if `draw` is given.
    template <bool PIVOTS>
    void sums(Draw<F>* draw) {
        MassSum<F> all, raw, pivots[kPivots];
        const V top(top_), x_top(x_top_);
        const bool same = z_ == x_;
        alignas(64) uint32_t words[kChunk];
        for (int64_t at = 0, chunk = 1; at < n_; at += kChunk, ++chunk) {
            if (draw != nullptr) draw->top_words(at, words, F());
            for (int j = 0; j < 4; ++j) {
                const int64_t here = at + 16 * j;
                const V w = lanes_at(z_, here, n_) - top;
                const V e = exp_nonpositive(w);
                all.add(e);
                if (!same) raw.add(exp_nonpositive(lanes_at(x_, here, n_) - x_top));
                if (PIVOTS)
                    for (int p = 0; p < kPivots; ++p) pivots[p].add(select_at_least(w, kPivot[p], e));
                if (draw == nullptr) continue;
                for (uint32_t lanes = draw->may_win(words + 16 * j, e); lanes != 0; lanes &= lanes - 1) {
                    const int64_t token = here + __builtin_ctz(lanes);
                    if (token < n_ && z_[token] > F(-__builtin_inff())) draw->consider(token, z_[token]);
                }
            }
            if (chunk % 64 == 0) {
                all.flush();
                raw.flush();
                for (int p = 0; PIVOTS && p < kPivots; ++p) pivots[p].flush();
            }
        }
        mass_ = all.total();
        raw_mass_ = same ? mass_ : raw.total();
        for (int p = 0; PIVOTS && p < kPivots; ++p) pivot_mass_[p] = pivots[p].total();
    }
    static GM_HD V select_at_least(V w, F pivot, V e) { return gm::GM_ISA::select(w >= V(pivot), e, V(F(0))); }

    // The pivot below which no token can survive; -infinity where there is none.
    F lower_bound() const {
        if (filters_.cuts_k(n_)) {
            x16<M> minus_count[kPivots];
            for (int p = 0; p < kPivots; ++p) minus_count[p] = x16<M>(M(0));
            for (int64_t at = 0; at < n_; at += 16) {
                const V w = lanes_at(z_, at, n_) - V(top_);
                for (int p = 0; p < kPivots; ++p) minus_count[p] = minus_count[p] + (w >= V(kPivot[p]));
            }
            for (int p = 0; p < kPivots; ++p)
                if (-static_cast<double>(sum_lanes(minus_count[p])) >= filters_.top_k) return kPivot[p];
        } else if (filters_.top_p < 1) {
            const Mass target = Fixed<F>::share(static_cast<double>(filters_.top_p), mass_);
            for (int p = 0; p < kPivots; ++p)
                if (pivot_mass_[p] >= target) return kPivot[p];
        } else if (filters_.min_p > 0) {
            return log_min_p();
        }
        return F(-__builtin_inff());
    }
    F log_min_p() const {
        const F least = sizeof(F) == 4 ? F(0x1p-126) : F(0x1p-1022);
        return log_positive(filters_.min_p < least ? least : filters_.min_p);
    }

    void collect(F lower) {
        Survivors<F>& kept = room_.kept;
        int64_t count = 0;
        for (int64_t at = 0; at < n_; at += 16) {
            const int64_t end = at + 16 < n_ ? at + 16 : n_;
            for (int64_t i = at; i < end; ++i) {
                kept.z[count] = z_[i];
                kept.index[count] = static_cast<int32_t>(i);
                count += z_[i] > F(-__builtin_inff()) && z_[i] - top_ >= lower;
            }
        }
        kept.count = count;
        for (int64_t at = 0; at < count; at += 16)
            exp_nonpositive(lanes_at(kept.z, at, count) - V(top_)).store(kept.e + at);
    }

    // Top-k, top-p, min-p, typical: each on what the one before left.
    void select() {
        collect(lower_bound());
        Survivors<F>& kept = room_.kept;
        const auto order = [&](int64_t i) { return order_bits(kept.z[i]); };
        const auto one = [](int64_t) { return Mass(1); };
        const auto mass = [&](int64_t i) { return mass_of(kept.e[i]); };
        const bool k = filters_.cuts_k(n_);
        if (k && filters_.top_k < static_cast<double>(kept.count))
            kept.keep_prefix(order, one, static_cast<Mass>(static_cast<int64_t>(filters_.top_k)));
        if (filters_.top_p < 1)
            kept.keep_prefix(order, mass,
                             Fixed<F>::share(static_cast<double>(filters_.top_p), k ? kept.mass() : mass_));
        if (filters_.min_p > 0) {
            const F least = log_min_p();
            kept.trim([&](int64_t i) { return kept.z[i] - top_ >= least; });
        }
        if (filters_.typical_p < 1) {
            const Mass whole = kept.mass();
            Mass depth = 0;  // sum of p (greatest - logit)
            for (int64_t i = 0; i < kept.count; ++i) depth += mass_of(kept.e[i] * (top_ - kept.z[i]));
            const F mean = static_cast<F>(-(Fixed<F>::wide(depth) / Fixed<F>::wide(whole)));
            const auto nearness = [&](int64_t i) {  // of the surprise to the entropy
                const F off = (kept.z[i] - top_) - mean;
                return static_cast<U>(~order_bits(off < 0 ? -off : off));
            };
            kept.keep_prefix(nearness, mass, Fixed<F>::share(static_cast<double>(filters_.typical_p), whole));
        }
    }

    bool survives(int64_t token) const {
        int64_t low = 0, high = room_.kept.count;
        while (low < high) {
            const int64_t mid = (low + high) / 2;
            (room_.kept.index[mid] < token ? low : high) = room_.kept.index[mid] < token ? mid + 1 : mid;
        }
        return low < room_.kept.count && room_.kept.index[low] == token;
    }

    // Few survivors: each one's block of words alone. Many: all words, as where nothing is filtered.
    int64_t draw_survivor() const {
        const Survivors<F>& kept = room_.kept;
        Draw<F> draw(row_, top_);
        if (kept.count < n_ / 16) {
            for (int64_t i = 0; i < kept.count; ++i) draw.consider(kept.index[i], kept.z[i]);
            return draw.token();
        }
        alignas(64) uint32_t words[kChunk];
        for (int64_t i = 0, at = 0; i < kept.count; at += kChunk) {
            draw.top_words(at, words, F());
            for (; i < kept.count && kept.index[i] < at + kChunk; ++i)
                if (static_cast<F>(words[kept.index[i] - at]) * F(0x1p-32f) <= kept.e[i] * draw.scale())
                    draw.consider(kept.index[i], kept.z[i]);
        }
        return draw.token();
    }

    // slope * (1 at the token - probability) * d processed / d logit; 0 where the logprob is constant.
    void fill_gradient(int64_t token, bool depends, bool filtered, F kept_mass) {
        F* to = static_cast<F*>(row_.gradient);
        std::memset(to, 0, static_cast<size_t>(n_) * sizeof(F));
        if (!depends) return;
        const F slope = static_cast<F>(row_.slope) / filters_.temperature;
        if (filtered)
            for (int64_t i = 0; i < room_.kept.count; ++i)
                to[room_.kept.index[i]] = -slope * (room_.kept.e[i] / kept_mass);
        else
            for (int64_t at = 0; at < n_; at += 16) {
                const V e = exp_nonpositive(lanes_at(z_, at, n_) - V(top_));
                (V(-slope) * (e / V(kept_mass))).store_first(to + at, static_cast<int>(n_ - at < 16 ? n_ - at : 16));
            }
        to[token] += slope;
        if (filters_.penalty == 1 || row_.history_size == 0) return;
        F* factor = room_.z;  // the processed logits are not needed any more
        for (int64_t i = 0; i < n_; ++i) factor[i] = 1;
        for (int64_t h = 0; h < row_.history_size; ++h) {
            const int64_t v = row_.history[h];
            if (v >= 0 && v < n_) factor[v] = x_[v] > 0 ? F(1) / filters_.penalty : filters_.penalty;
        }
        for (int64_t i = 0; i < n_; ++i) to[i] *= factor[i];
    }
};

}  // namespace

SampleOut sample_row_fp32(const SampleRow& row, void* scratch) { return Row<float>(row, scratch).run(); }
SampleOut sample_row_fp64(const SampleRow& row, void* scratch) { return Row<double>(row, scratch).run(); }

}  // namespace GM_ISA
}  // namespace gm
