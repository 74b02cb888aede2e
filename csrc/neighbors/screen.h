// The screened search: integer dot products find candidates, differences decide. See docs/neighbors.md for the proof.
#pragma once

#include <vector>

#include "neighbors/pack.h"
#include "neighbors/select.h"

namespace gm {

// Whether screening pays: many coordinates, many references, few of them wanted.
// Fewer wanted than a quarter of kMostCandidates.
inline bool screening_pays(const Points& p, int64_t k) {
    return p.width > kLowWidth && p.width <= kScreenWidth && p.references >= 512 && k <= 224 &&
           16 * k <= p.references && p.queries >= 16;
}
inline bool screening_can(const Points& p, int64_t k) {
    return p.width > kLowWidth && p.width <= kScreenWidth && k <= 224;
}

// The arrays of a Lattice for `rows` points.
class LatticeMemory {
 public:
    LatticeMemory(int64_t rows, int64_t width, int64_t value_bytes)
        : values_(static_cast<size_t>(rows * width * value_bytes + 64)),
          floats_(static_cast<size_t>(3 * rows)),
          starts_(static_cast<size_t>(rows)),
          rows_(rows),
          row_bytes_(width * value_bytes) {}
    // The lattice from row `first` on.
    Lattice at(int64_t first) {
        float* f = floats_.data() + first;
        return {values_.data() + first * row_bytes_, f, f + rows_, f + 2 * rows_, starts_.data() + first};
    }

 private:
    std::vector<uint8_t> values_;
    std::vector<float> floats_;
    std::vector<int32_t> starts_;
    int64_t rows_, row_bytes_;
};

template <class F>
struct ScreenBodies;
template <>
struct ScreenBodies<float> {
    void (*quantise)(const Quantise<float>&) = GM_CALL_ISA(quantise_fp32);
    int64_t (*rerank)(const Rerank<float>&) = GM_CALL_ISA(rerank_fp32);
};
template <>
struct ScreenBodies<double> {
    void (*quantise)(const Quantise<double>&) = GM_CALL_ISA(quantise_fp64);
    int64_t (*rerank)(const Rerank<double>&) = GM_CALL_ISA(rerank_fp64);
};

// The mean of up to 1024 references: any point serves, one amid the data leaves small residuals.
template <class F, class T>
inline std::vector<F> centre_of(const T* references, const Points& p) {
    const int64_t step = std::max<int64_t>(1, p.references / 1024);
    std::vector<double> sum(static_cast<size_t>(p.dim), 0.0);
    int64_t taken = 0;
    for (int64_t row = 0; row < p.references; row += step, ++taken)
        for (int64_t d = 0; d < p.dim; ++d)
            sum[static_cast<size_t>(d)] += static_cast<double>(references[row * p.dim + d]);
    std::vector<F> centre(static_cast<size_t>(p.width), F(0));
    for (int64_t d = 0; d < p.dim; ++d)
        centre[static_cast<size_t>(d)] = static_cast<F>(sum[static_cast<size_t>(d)] / static_cast<double>(taken));
    return centre;
}

template <class T>
struct Context {
    const T* references;
    int64_t dim, width;
};
template <class F, class T>
const F* reference_row(const void* context, int64_t i, F* scratch) {
    const auto& c = *static_cast<const Context<T>*>(context);
    if constexpr (std::is_same_v<F, T>)
        if (c.dim == c.width) return c.references + i * c.dim;
    pack_rows(scratch, c.references, i, i + 1, 1, c.dim, c.width);
    return scratch;
}

// One batch. done(row, keys, count) for each row found, in parallel; the rows that are not come back.
template <class F, class T, class Done>
inline std::vector<int64_t> run_screen(const T* queries, const T* references, const Points& p, int64_t k, bool root,
                                       bool exclude_self, int64_t block_rows, const Done& done) {
    using Key = typename KeyOf<F>::type;
    const ScreenBodies<F> bodies;
    const auto screen = GM_CALL_ISA(screen_tile);
    const int64_t bytes = GM_CALL_ISA(screen_value_bytes)();
    const int64_t capacity = std::min(kMostCandidates, round_up(32 * k + 512 + p.width, kGroup));
    const int64_t row_bytes = p.width * bytes + capacity * 12;
    const int64_t tile = 4 * kScreenQueryTile;
    const int64_t slab =
        std::min(round_up(p.queries, tile), round_up(std::max(kSlabBytes / row_bytes, tile * num_threads()), tile));
    const int64_t wanted = block_rows > 0 ? block_rows : std::max<int64_t>(kBlockBytes / (p.width * bytes), 64);
    const int64_t block = std::min(round_up(p.references, kScreenTile), round_up(wanted, kScreenTile));
    LatticeMemory x(slab, p.width, bytes), y(block, p.width, bytes);
    std::vector<float> squares(static_cast<size_t>(slab * capacity + kGroup)), residuals(squares.size());
    std::vector<float> reach(static_cast<size_t>(slab));
    std::vector<uint32_t> index(squares.size());
    std::vector<int32_t> counts(reach.size()), next(reach.size());
    std::vector<int64_t> selves(exclude_self ? reach.size() : 0), left;
    // |computed - true| <= gamma |true| / 2 with gamma = (width / 16 + 8) u, on both sides of a comparison.
    const float stretch = 1.0f + 4.0f * static_cast<float>(p.width / 16 + 8) / (1 << 24);
    const auto candidates = [&](int64_t row) {
        const int64_t at = row * capacity;
        const Lattice own = x.at(row);
        return Candidates{squares.data() + at,
                          residuals.data() + at,
                          index.data() + at,
                          counts.data() + row,
                          next.data() + row,
                          reach.data() + row,
                          own.norms,
                          own.residuals,
                          capacity,
                          k,
                          stretch};
    };
    const std::vector<F> centre = centre_of<F>(references, p);
    const Context<T> context{references, p.dim, p.width};
    // Rows [first, first + count) of `from` to the lattice, 16 at a time.
    const auto quantise = [&](LatticeMemory& to, const T* from, int64_t first, int64_t count, bool are_references) {
        parallel_for(0, (count + kGroup - 1) / kGroup, 8, [&](int64_t begin, int64_t end) {
            std::vector<F> rows(static_cast<size_t>(kGroup * p.width));
            for (int64_t g = begin; g < end; ++g) {
                const int64_t row = first + g * kGroup, held = std::min(kGroup, count - g * kGroup);
                pack_rows(rows.data(), from, row, row + held, held, p.dim, p.width);
                bodies.quantise({rows.data(), centre.data(), held, p.width, are_references, to.at(g * kGroup)});
            }
        });
    };
    for (int64_t q = 0; q < p.queries; q += slab) {
        const int64_t count = std::min(slab, p.queries - q);
        quantise(x, queries, q, count, false);
        for (int64_t i = 0; i < count; ++i) {
            const auto row = static_cast<size_t>(i);
            const bool boundless = std::isinf(x.at(i).residuals[0]);  // no lattice for this query
            counts[row] = boundless ? -1 : 0;
            next[row] = static_cast<int32_t>(2 * k + 32);
            reach[row] = boundless ? std::numeric_limits<float>::quiet_NaN() : std::numeric_limits<float>::infinity();
            if (exclude_self) selves[row] = q + i;
        }
        for (int64_t r = 0; r < p.references; r += block) {
            const int64_t held = std::min(block, p.references - r);
            quantise(y, references, r, held, true);
            parallel_for(0, (count + kScreenQueryTile - 1) / kScreenQueryTile, 1, [&](int64_t begin, int64_t end) {
                const int64_t first = begin * kScreenQueryTile;
                screen({x.at(first), y.at(0), exclude_self ? selves.data() + first : nullptr,
                        std::min(end * kScreenQueryTile, count) - first, r, held, p.width, candidates(first)});
            });
        }
        parallel_for(0, count, 8, [&](int64_t begin, int64_t end) {
            std::vector<F> query(static_cast<size_t>(p.width)), scratch(query.size());
            std::vector<Key> keys(static_cast<size_t>(capacity));
            for (int64_t i = begin; i < end; ++i) {
                pack_rows(query.data(), queries, q + i, q + i + 1, 1, p.dim, p.width);
                const int64_t found = bodies.rerank({query.data(), &reference_row<F, T>, &context, scratch.data(),
                                                     p.width, candidates(i), root, keys.data()});
                counts[static_cast<size_t>(i)] = static_cast<int32_t>(found);
                if (found >= 0) done(q + i, keys.data(), found);
            }
        });
        for (int64_t i = 0; i < count; ++i)
            if (counts[static_cast<size_t>(i)] < 0) left.push_back(q + i);
    }
    return left;
}

}  // namespace gm
