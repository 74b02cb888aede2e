// Uniform exploration over the legal tokens, and the entropy of what a token is drawn from. For body files.
#pragma once

#include "common/noise_fill.h"
#include "decode/sample.h"

GM_NAMESPACE_BEGIN

template <class F>
int64_t count_legal(const F* z, int64_t n) {
    int64_t count = 0;
    for (int64_t i = 0; i < n; ++i) count += z[i] > F(-__builtin_inff());
    return count;
}

// `token`, or with probability epsilon a uniform choice among the legal ones: two words of stream EXPLORE decide.
template <class F>
int64_t explore(const SampleRow& row, const F* z, int64_t token) {
    const Words4<uint32_t> words =
        noise_block<uint32_t>(noise_key(row.seed, kStreamExplore), row.id, row.step, uint32_t(0));
    if (!(static_cast<double>(words.w[0]) < row.params.epsilon * 0x1p32)) return token;
    const auto legal = static_cast<uint64_t>(count_legal(z, row.vocab));
    auto left = static_cast<int64_t>((words.w[1] * legal) >> 32);
    for (int64_t i = 0;; ++i)
        if (z[i] > F(-__builtin_inff()) && left-- == 0) return i;
}

// q = (1 - epsilon) p + epsilon / legal.
template <class F>
struct Mixture {
    F epsilon, legal;
    F of(F p) const { return (F(1) - epsilon) * p + epsilon / legal; }
    F share(F p) const { return ((F(1) - epsilon) * p) / of(p); }
};

template <class F>
struct Entropy {
    F value = 0, mean_slope = 0;  // the mean over the policy of entropy_slope
};

// d entropy / d p of a token of log-probability log_p, up to what all tokens have in common.
template <class F>
F entropy_slope(const Mixture<F>& m, F log_p, F p) {
    if (m.epsilon == 0) return -log_p;
    return -(F(1) - m.epsilon) * log_positive(m.of(p));
}

// each_kept(f) calls f(index, w, e) for each kept token; kept is the sum of the e's. Sums go by index.
template <class F, class Each>
Entropy<F> entropy_of(const Mixture<F>& m, F kept, const Each& each_kept) {
    double sum = 0, mean = 0, rest = m.legal;
    const F log_kept = log_positive(kept);
    each_kept([&](int64_t, F w, F e) {
        const F p = e / kept, log_p = w - log_kept;
        mean += static_cast<double>(p) * entropy_slope(m, log_p, p);
        sum -= m.epsilon == 0 ? static_cast<double>(p) * log_p : static_cast<double>(m.of(p)) * log_positive(m.of(p));
        rest -= 1;
    });
    if (m.epsilon > 0 && rest > 0) sum -= rest * (m.of(F(0)) * log_positive(m.of(F(0))));
    return {static_cast<F>(sum), static_cast<F>(mean)};
}

GM_NAMESPACE_END
