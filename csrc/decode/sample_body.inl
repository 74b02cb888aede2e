// One row: logits to a token and its log-probabilities (docs/sampling.md). Compiled once per instruction set.
#include "common/simd_wide.h"
#include "decode/sample_draw.h"
#include "decode/sample_entropy.h"
#include "decode/sample_row.h"

namespace gm {
inline namespace GM_ISA {
namespace {

constexpr int64_t kChunk = 64;

template <class F>
class Row {
    using V = x16<F>;
    using Mass = typename Fixed<F>::Mass;
    using M = typename MaskOf<F>::type;
    using U = typename Bits<F>::U;
    static constexpr int kPivots = 10;
    static constexpr F kPivot[kPivots] = {F(-1), F(-2), F(-3), F(-4), F(-5), F(-6), F(-7), F(-8.5), F(-11), F(-14)};

    const SampleRow& row_;
    const int64_t n_;
    const Filters<F> filters_;
    Room<F> room_;
    const F *x_, *z_;
    F x_top_ = 0, top_ = 0;  // the greatest logit, and the greatest processed one
    Mass raw_mass_ = 0, mass_ = 0;

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
            sums(nullptr);
        } else if (filtered) {
            sums(nullptr);
            select();
            if (draws) token = draw_survivor();
            inside = survives(token);
            kept_mass = Fixed<F>::real(room_.kept.mass());
        } else {
            Draw<F> draw(row_, top_);
            if (draws) draw.consider(first_at_top(), top_);
            sums(draws ? &draw : nullptr);
            if (draws) token = draw.token();
            inside = z_[token] > F(-__builtin_inff());
            kept_mass = Fixed<F>::real(mass_);
        }
        if (draws && filters_.epsilon > 0) {
            token = explore<F>(row_, z_, token);
            inside = greedy ? z_[token] == top_ && token == first_at_top() : filtered ? survives(token) : true;
        }
        out.token = token;
        out.raw_logprob = (x_[token] - x_top_) - log_positive(Fixed<F>::real(raw_mass_));
        out.log_kept_mass = filtered ? log_positive(kept_mass / Fixed<F>::real(mass_)) : F(0);
        const F policy = !inside ? F(-__builtin_inff()) : greedy ? F(0) : (z_[token] - top_) - log_positive(kept_mass);
        Mixture<F> mixture{filters_.epsilon, filters_.epsilon > 0 ? F(count_legal(z_, n_)) : F(1)};
        out.logprob = filters_.epsilon == 0 ? policy
                      : z_[token] > F(-__builtin_inff())
                          ? log_positive(mixture.of(inside ? exp_nonpositive(policy) : F(0)))
                          : F(-__builtin_inff());
        Entropy<F> entropy;
        if (row_.entropy || row_.slope_entropy != 0) {
            entropy = entropy_of(mixture, kept_mass, [&](const auto& f) { each_kept(greedy, filtered, f); });
            out.entropy = entropy.value;
        }
        if (row_.gradient != nullptr)
            fill_gradient(token, inside && !greedy, greedy, filtered, kept_mass,
                          inside && filters_.epsilon > 0 ? mixture.share(exp_nonpositive(policy)) : F(1), mixture,
                          entropy);
        return out;
    }

 private:
    // Processed logits: repetition penalty, temperature, mask; -infinity where illegal.
    SampleFlaw prepare() {
        if (!filters_.valid()) return SampleFlaw::bad_params;
        if (row_.token >= n_) return SampleFlaw::token_out_of_range;
        x_top_ = top_ = greatest_of(x_, n_);
        if (x_top_ == F(__builtin_inff())) return SampleFlaw::not_finite;
        const bool penalised = row_.params.remembers() && row_.history_size > 0;
        const F t = filters_.temperature == 0 ? F(1) : filters_.temperature;
        if (penalised || t != 1 || row_.mask != nullptr) {
            F* z = room_.z;
            if (t == 1)
                std::memcpy(z, x_, static_cast<size_t>(n_) * sizeof(F));
            else
                for (int64_t i = 0; i < n_; ++i) z[i] = x_[i] / t;
            if (penalised) penalise(z, t);
            if (row_.mask != nullptr)
                for (int64_t i = 0; i < n_; ++i) z[i] = row_.mask[i * row_.mask_stride] ? z[i] : F(-__builtin_inff());
            z_ = z;
            top_ = greatest_of(z_, n_);
            if (top_ == F(__builtin_inff())) return SampleFlaw::not_finite;
        }
        return top_ == F(-__builtin_inff()) ? SampleFlaw::no_legal_token : SampleFlaw::none;
    }

    void penalise(F* z, F t) {
        int32_t* drawn = room_.kept.place;  // how often each token of history was drawn
        for (int pass = 0; pass < 3; ++pass)
            for (int64_t h = 0; h < row_.history_size; ++h) {
                const int64_t v = row_.history[h];
                if (v < 0 || v >= n_) continue;
                if (pass == 0) {
                    drawn[v] = 0;
                } else if (pass == 1) {
                    drawn[v] += static_cast<double>(h) >= filters_.prompt;
                } else {
                    const F x = x_[v] > 0 ? x_[v] / filters_.penalty : x_[v] * filters_.penalty;
                    z[v] = ((x - filters_.frequency * F(drawn[v])) - (drawn[v] > 0 ? filters_.presence : F(0))) / t;
                }
            }
    }

    // f(index, logit - greatest, e to it) over the tokens that the filters keep.
    template <class G>
    void each_kept(bool greedy, bool filtered, const G& f) const {
        if (greedy) {
            f(first_at_top(), F(0), F(1));
        } else if (filtered) {
            for (int64_t i = 0; i < room_.kept.count; ++i)
                f(room_.kept.index[i], room_.kept.z[i] - top_, room_.kept.e[i]);
        } else {
            for (int64_t i = 0; i < n_; ++i)
                if (z_[i] > F(-__builtin_inff())) f(i, z_[i] - top_, exp_nonpositive(z_[i] - top_));
        }
    }

    int64_t first_at_top() const {
        const V top(top_);
        for (int64_t at = 0;; at += 16)  // one is there; the lanes past the end are not it
            if (const uint32_t lanes = lanes_of(lanes_at(z_, at, n_) == top)) return at + __builtin_ctz(lanes);
    }

    // How far the 64 logits from `at` lie from the greatest.
    GM_HD x64<F> below(const F* from, int64_t at, V top) const {
        x64<F> w;
        for (int j = 0; j < 4; ++j) w.q[j] = lanes_at(from, at + 16 * j, n_) - top;
        return w;
    }

    // mass_ and raw_mass_; draws meanwhile if `draw` is given.
    void sums(Draw<F>* draw) {
        MassSum<F> all, raw;
        const V top(top_), x_top(x_top_);
        const bool same = z_ == x_;
        u32x16 words[4];
        for (int64_t at = 0, chunk = 1; at < n_; at += kChunk, ++chunk) {
            if (draw != nullptr) draw->top_words(at, words, F());
            uint64_t candidates = 0;
            const x64<F> e = exp_nonpositive(below(z_, at, top));
            for (int j = 0; j < 4; ++j) {
                all.add(e.q[j]);
                if (draw != nullptr) candidates |= static_cast<uint64_t>(draw->may_win(words[j], e.q[j])) << (16 * j);
            }
            if (!same) {
                const x64<F> other = exp_nonpositive(below(x_, at, x_top));
                for (int j = 0; j < 4; ++j) raw.add(other.q[j]);
            }
            for (; candidates != 0; candidates &= candidates - 1) {
                const int64_t token = at + __builtin_ctzll(candidates);
                if (token < n_ && z_[token] > F(-__builtin_inff())) draw->consider(token, z_[token]);
            }
            if (chunk % 64 == 0) {
                all.flush();
                raw.flush();
            }
        }
        mass_ = all.total();
        raw_mass_ = same ? mass_ : raw.total();
    }

    // The pivot above which the tokens that `reaches` asks for probably lie, from one logit in sixteen of a long row:
    // reaches(count, mass, whole mass) of the tokens not below a pivot.
    template <class G>
    int guess(const G& reaches) const {
        const int64_t stride = n_ < 4096 ? 1 : 16;
        F count[kPivots] = {}, mass[kPivots] = {}, whole = 0;
        for (int64_t at = 0; at + 16 <= n_; at += 16 * stride) {
            const V w = lanes_at(z_, at, n_) - V(top_), e = exp_nonpositive(w);
            whole += sum_lanes(e);
            for (int p = 0; p < kPivots; ++p) {
                const auto above = w >= V(kPivot[p]);
                count[p] += F(__builtin_popcount(lanes_of(above)));
                mass[p] += sum_lanes(gm::GM_ISA::select(above, e, V(F(0))));
            }
        }
        for (int p = 0; p < kPivots; ++p)
            if (reaches(count[p] * F(stride), mass[p], whole)) return p;
        return kPivots;
    }

    // Collects what the first filter may keep, and not many more. A wrong guess costs a pass and changes nothing.
    void collect() {
        const Survivors<F>& kept = room_.kept;
        if (filters_.cuts_k(n_)) {
            const double k = filters_.top_k;
            for (int p = guess([&](F count, F, F) { return static_cast<double>(count) >= 1.5 * k; }); p < kPivots;
                 ++p) {
                collect(kPivot[p]);
                if (static_cast<double>(kept.count) >= k) return;
            }
        } else if (filters_.top_p < 1) {
            const Mass target = Fixed<F>::share(static_cast<double>(filters_.top_p), mass_);
            for (int p = guess([&](F, F mass, F whole) { return mass >= filters_.top_p * whole; }); p < kPivots; ++p) {
                collect(kPivot[p]);
                if (kept.mass() >= target) return;
            }
        }
        const bool first = !filters_.cuts_k(n_) && filters_.top_p == 1 && filters_.min_p > 0;
        collect(first ? log_min_p() : F(-__builtin_inff()));
    }
    F log_min_p() const {
        const F least = sizeof(F) == 4 ? F(0x1p-126) : F(0x1p-1022);
        return log_positive(filters_.min_p < least ? least : filters_.min_p);
    }

    void collect(F lower) {
        Survivors<F>& kept = room_.kept;
        int64_t count = 0;
        const V top(top_), least(lower), lowest(F(-__builtin_inff()));
        const i32x16 lane = iota<int32_t>();
        for (int64_t at = 0; at < n_; at += 16) {
            const V z = lanes_at(z_, at, n_);
            const uint32_t lanes = lanes_of((z - top >= least) & (z > lowest));
            if (lanes == 0) continue;
            const Compress chosen{lanes};
            chosen(z, kept.z + count);
            chosen(i32x16(static_cast<int32_t>(at)) + lane, kept.index + count);
            count += __builtin_popcount(lanes);
        }
        kept.count = count;
        for (int64_t at = 0; at < count; at += 16)
            exp_nonpositive(lanes_at(kept.z, at, count) - V(top_)).store(kept.e + at);
    }

    // Top-k, top-p, min-p, typical: each on what the one before left.
    void select() {
        collect();
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
        draw.consider(kept.index[0], kept.z[0]);
        u32x16 words[4];
        for (int64_t at = 0; at < n_; at += kChunk) {
            draw.top_words(at, words, F());
            uint64_t candidates = 0;
            const x64<F> e = exp_nonpositive(below(z_, at, V(top_)));
            for (int j = 0; j < 4; ++j) candidates |= static_cast<uint64_t>(draw.may_win(words[j], e.q[j])) << (16 * j);
            for (; candidates != 0; candidates &= candidates - 1) {
                const int64_t token = at + __builtin_ctzll(candidates);
                if (token < n_ && survives(token)) draw.consider(token, z_[token]);
            }
        }
        return draw.token();
    }

    // Of the logprob: slope * share * (1 at the token - probability) * d processed / d logit, 0 where it is constant;
    // and of the entropy and the raw logprob. `share` is the policy's share of the token's probability.
    void fill_gradient(int64_t token, bool depends, bool greedy, bool filtered, F kept_mass, F share,
                       const Mixture<F>& mixture, const Entropy<F>& entropy) {
        F* to = static_cast<F*>(row_.gradient);
        std::memset(to, 0, static_cast<size_t>(n_) * sizeof(F));
        if (depends) fill_logprob(to, token, filtered, kept_mass, share);
        if (row_.slope_entropy != 0 && !greedy) {
            const F slope = static_cast<F>(row_.slope_entropy) / filters_.temperature,
                    log_kept = log_positive(kept_mass);
            each_kept(false, filtered, [&](int64_t i, F w, F e) {
                const F p = e / kept_mass;
                to[i] += slope * (p * (entropy_slope(mixture, w - log_kept, p) - entropy.mean_slope));
            });
        }
        if (filters_.penalty != 1 && row_.history_size > 0) {
            F* factor = room_.z;  // the processed logits are not needed any more
            for (int64_t i = 0; i < n_; ++i) factor[i] = 1;
            for (int64_t h = 0; h < row_.history_size; ++h) {
                const int64_t v = row_.history[h];
                if (v >= 0 && v < n_) factor[v] = x_[v] > 0 ? F(1) / filters_.penalty : filters_.penalty;
            }
            for (int64_t i = 0; i < n_; ++i) to[i] *= factor[i];
        }
        if (row_.slope_raw != 0) {
            const V slope(static_cast<F>(row_.slope_raw)), mass(Fixed<F>::real(raw_mass_));
            for (int64_t at = 0; at < n_; at += 16) {
                const int count = static_cast<int>(n_ - at < 16 ? n_ - at : 16);
                const V e = exp_nonpositive(lanes_at(x_, at, n_) - V(x_top_));
                (lanes_at(to, at, n_) - slope * (e / mass)).store_first(to + at, count);
            }
            to[token] += static_cast<F>(row_.slope_raw);
        }
    }

    void fill_logprob(F* to, int64_t token, bool filtered, F kept_mass, F share) const {
        const F slope = filters_.epsilon == 0 ? static_cast<F>(row_.slope) / filters_.temperature
                                              : (static_cast<F>(row_.slope) / filters_.temperature) * share;
        if (filtered)
            for (int64_t i = 0; i < room_.kept.count; ++i)
                to[room_.kept.index[i]] = -slope * (room_.kept.e[i] / kept_mass);
        else
            for (int64_t at = 0; at < n_; at += 16) {
                const V e = exp_nonpositive(lanes_at(z_, at, n_) - V(top_));
                (V(-slope) * (e / V(kept_mass))).store_first(to + at, static_cast<int>(n_ - at < 16 ? n_ - at : 16));
            }
        to[token] += slope;
    }
};

}  // namespace

SampleOut sample_row_fp32(const SampleRow& row, void* scratch) { return Row<float>(row, scratch).run(); }
SampleOut sample_row_fp64(const SampleRow& row, void* scratch) { return Row<double>(row, scratch).run(); }

}  // namespace GM_ISA
}  // namespace gm
