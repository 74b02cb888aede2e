// Counts within radii by the lattice of screen.h: which pairs are surely in or out, and the differences of the others.
#pragma once

#include "neighbors/screen.h"

namespace gm {

inline void (*screen_count_body(float))(const ScreenCount<float>&) { return GM_CALL_ISA(screen_count_fp32); }
inline void (*screen_count_body(double))(const ScreenCount<double>&) { return GM_CALL_ISA(screen_count_fp64); }

// Between the radii `inner` and `outer` of a bound on computed squares, differences decide: a pair whose true distance
// is below inner is within, one beyond outer is not.
struct Shell {
    float inner, outer;
};
template <class F>
inline Shell shell_of(F bound, float stretch) {
    constexpr float kSmall = 1e-19f;  // covers squares that underflow
    constexpr float kMost = 1e18f;    // of points in the lattice, squares do not overflow
    if (bound < F(0)) return {0.0f, std::numeric_limits<float>::quiet_NaN()};  // nothing is within
    const float radius = static_cast<float>(std::sqrt(bound));
    return {std::min(radius * (2 - stretch) * (1 - 4 * kScreenSlack), kMost) - kSmall,
            (radius * stretch + kSmall) * (1 + 4 * kScreenSlack)};
}

// The edges of `count` points: for those that have the radii, the shell's and the residual; else the residual alone.
template <class F>
inline void screen_edges(const F* bounds, float stretch, const float* residuals, int64_t count, float* inner,
                         float* outer) {
    for (int64_t i = 0; i < count; ++i) {
        const Shell shell = bounds != nullptr ? shell_of(bounds[i], stretch) : Shell{0.0f, 0.0f};
        const float residual = residuals[i] * (1 + 4 * kScreenSlack);
        inner[i] = shell.inner - residual;
        outer[i] = shell.outer + residual;
    }
}

// One batch of squared bounds, [N] or [M]. Returns the number of pairs that took differences.
template <class F, class T>
inline int64_t screen_count_rows(const T* queries, const T* references, const Points& p, bool by_bytes, const F* bounds,
                                 bool per_reference, bool exclude_self, int64_t* counts) {
    const auto body = screen_count_body(F());
    const int64_t bytes = by_bytes ? 1 : 2;
    const ScreenBlocking blocks = screen_blocking(p, p.queries, by_bytes, 32, 0);
    LatticeMemory x(blocks.slab, p.width, bytes), y(blocks.chunk, p.width, bytes);
    const auto rows = static_cast<size_t>(blocks.slab), columns = static_cast<size_t>(blocks.chunk);
    std::vector<float> row_inner(rows), row_outer(rows), inner(columns), outer(columns);
    std::vector<int64_t> selves(exclude_self ? rows : 0), undecided(rows);
    const float stretch = screen_stretch(p.width);
    const Unpacked<F, T> own{queries, p.dim, p.width}, other{references, p.dim, p.width};
    const Quantiser<F> quantise{centre_of<F>(references, p), p.dim, p.width, by_bytes};
    int64_t total = 0;
    std::fill_n(counts, p.queries, 0);
    for (int64_t q = 0; q < p.queries; q += blocks.slab) {
        const int64_t count = std::min(blocks.slab, p.queries - q);
        quantise(x, queries, Rows{nullptr, p.queries}, q, count, false);
        screen_edges(per_reference ? nullptr : bounds + q, stretch, x.at(0).residuals, count, row_inner.data(),
                     row_outer.data());
        for (size_t i = 0; i < selves.size(); ++i) selves[i] = q + static_cast<int64_t>(i);
        std::fill(undecided.begin(), undecided.end(), 0);
        for (int64_t r = 0; r < p.references; r += blocks.chunk) {
            const int64_t held = std::min(blocks.chunk, p.references - r);
            if (q == 0 || blocks.chunk < p.references) {
                quantise(y, references, Rows{nullptr, p.references}, r, held, true);
                screen_edges(per_reference ? bounds + r : nullptr, stretch, y.at(0).residuals, held, inner.data(),
                             outer.data());
            }
            each_share(count, blocks.block, p.width, 0, held,
                       [&](int64_t first, int64_t tile, int64_t from, int64_t to) {
                           std::vector<F> scratch(static_cast<size_t>((1 + kRerank) * p.width));
                           for (; from < to; from += blocks.block)
                               body({{x.at(first), y.at(from), tile, std::min(blocks.block, held - from), p.width,
                                      row_outer.data() + first, outer.data() + from, by_bytes},
                                     row_inner.data() + first,
                                     inner.data() + from,
                                     exclude_self ? selves.data() + first : nullptr,
                                     r + from,
                                     own.rows(),
                                     other.rows(),
                                     q + first,
                                     per_reference ? bounds : bounds + q + first,
                                     per_reference,
                                     scratch.data(),
                                     counts + q + first,
                                     undecided.data() + first});
                       });
        }
        for (int64_t n : undecided) total += n;
    }
    return total;
}

enum class CountBy { differences, bytes, words };

// The fastest way for these points: what is left to the differences is learnt from some queries among some references.
template <class F, class T>
inline CountBy choose_count(const T* queries, const T* references, const Points& p, const F* bounds, bool per_reference,
                            bool screened) {
    const auto every = [](int64_t count, int64_t most) { return std::max<int64_t>(1, count / most); };
    const int64_t x_step = every(p.queries, std::clamp<int64_t>(p.queries / 4, 1, 48));
    const int64_t y_step = every(p.references, std::clamp<int64_t>(p.references / 4, 1, 2048));
    const auto some = [&](const T* points, int64_t count, int64_t step) {
        std::vector<T> rows;
        for (int64_t i = 0; i < count; i += step) rows.insert(rows.end(), points + i * p.dim, points + (i + 1) * p.dim);
        return rows;
    };
    const std::vector<T> x = some(queries, p.queries, x_step), y = some(references, p.references, y_step);
    std::vector<F> radii;
    for (int64_t i = 0, step = per_reference ? y_step : x_step; i < (per_reference ? p.references : p.queries);
         i += step)
        radii.push_back(bounds[i]);
    Points few = p;
    few.queries = static_cast<int64_t>(x.size()) / p.dim;
    few.references = static_cast<int64_t>(y.size()) / p.dim;
    radii.resize(static_cast<size_t>(round_up(static_cast<int64_t>(radii.size()), kGroup)), F(-1));
    std::vector<int64_t> counts(static_cast<size_t>(few.queries));
    const auto open_share = [&](bool by_bytes) {
        const int64_t open =
            screen_count_rows<F>(x.data(), y.data(), few, by_bytes, radii.data(), per_reference, false, counts.data());
        return static_cast<double>(open) / static_cast<double>(few.queries * few.references);
    };
    // In cycles of one core for a pair (measured): by bytes width / 64, by words width / 32, by differences width / 10
    // in tiles (up to 16 coordinates 2.5, one of which screening takes) and width + 400 alone, out of cache.
    const auto wide = static_cast<double>(p.width);
    const bool has_bytes = GM_CALL_ISA(screen_has_bytes)();
    const double by_bytes = has_bytes ? open_share(true) * (wide + 400) : wide;
    if (by_bytes <= wide / 64) return CountBy::bytes;
    const double by_words = wide / 64 + open_share(false) * (wide + 400);
    const double gained = p.width <= kLowWidth ? 1.5 : wide * 0.08 + 3;
    if (!screened && std::min(by_bytes, by_words) > gained) return CountBy::differences;
    return has_bytes && by_bytes <= by_words ? CountBy::bytes : CountBy::words;
}

}  // namespace gm
