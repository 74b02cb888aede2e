// The screened search: integer dot products find candidates, differences decide. See docs/neighbors.md for the proof.
#pragma once

#include <vector>

#include "neighbors/pack.h"
#include "neighbors/select.h"

namespace gm {

// Whether screening pays: many coordinates, many references, few of them wanted.
constexpr int64_t kMostScreened = 2048;  // neighbours: their lists stay within kMostCandidates
constexpr int64_t kMostByBytes = 224;    // neighbours that a list of bytes has room for
inline bool screening_can(const Points& p, int64_t k) {
    return p.width > kLowWidth && p.width <= kScreenWidth && k <= kMostScreened;
}
inline bool screening_pays(const Points& p, int64_t k) {
    return screening_can(p, k) && p.references >= 512 && 16 * k <= p.references && p.queries >= 16;
}

// What a search did, summed over its rows.
struct Tally {
    int64_t by_bytes = 0, by_words = 0;  // rows screened
    int64_t certified = 0;               // of them
    int64_t candidates = 0;              // exact distances of the certified rows
};

// The arrays of a Lattice for `rows` points.
class LatticeMemory {
 public:
    LatticeMemory(int64_t rows, int64_t width, int64_t value_bytes)
        : values_(new uint8_t[static_cast<size_t>(rows * width * value_bytes + 64)]),
          floats_(static_cast<size_t>(3 * rows)),
          starts_(static_cast<size_t>(rows)),
          rows_(rows),
          row_bytes_(width * value_bytes) {}
    // The lattice from row `first` on.
    Lattice at(int64_t first) {
        float* f = floats_.data();
        return Lattice{values_.get(), f, f + rows_, f + 2 * rows_, starts_.data()}.from(first * row_bytes_, first);
    }

 private:
    std::unique_ptr<uint8_t[]> values_;  // pages that are not used are not touched
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

// Points that are packed as they stand, or null.
template <class F, class T>
const F* packed_in_place(const T* points, int64_t dim, int64_t width) {
    if constexpr (std::is_same_v<F, T>) return dim == width ? points : nullptr;
    return nullptr;
}

// Points as RowsOf.
template <class F, class T>
struct Unpacked {
    const T* points;
    int64_t dim, width;
    RowsOf<F> rows() const { return {&row, this}; }

 private:
    static const F* row(const void* context, int64_t i, F* scratch) {
        const auto& c = *static_cast<const Unpacked*>(context);
        if constexpr (std::is_same_v<F, T>)
            if (c.dim == c.width) return c.points + i * c.dim;
        pack_rows(scratch, c.points, i, i + 1, 1, c.dim, c.width);
        return scratch;
    }
};

// Points of one batch to the lattice.
template <class F>
struct Quantiser {
    std::vector<F> centre;
    int64_t dim, width;
    bool bytes;

    // Rows [first, first + count) of the chosen, 16 at a time, in parallel.
    template <class T>
    void operator()(LatticeMemory& to, const T* points, const Rows& chosen, int64_t first, int64_t count,
                    bool references) const {
        const ScreenBodies<F> bodies;
        parallel_for(0, (count + kGroup - 1) / kGroup, 8, [&](int64_t begin, int64_t end) {
            std::vector<F> rows(static_cast<size_t>(kGroup * width));
            for (int64_t g = begin; g < end; ++g) {
                const int64_t row = first + g * kGroup, held = std::min(kGroup, count - g * kGroup);
                const F* packed = rows.data();
                if (const F* in_place = packed_in_place<F>(points, dim, width);
                    in_place != nullptr && chosen.list == nullptr)
                    packed = in_place + row * dim;
                else
                    for (int64_t i = 0; i < held; ++i)
                        pack_rows(rows.data() + i * width, points, chosen[row + i], chosen[row + i] + 1, 1, dim, width);
                bodies.quantise({packed, centre.data(), held, width, references, bytes, to.at(g * kGroup)});
            }
        });
    }
};

// Rows that are screened together. References of a chunk are put to the lattice together; those of a block stay in
// cache while the queries pass.
struct ScreenBlocking {
    int64_t slab, chunk, block;
};
inline ScreenBlocking screen_blocking(const Points& p, int64_t queries, bool by_bytes, int64_t state_bytes,
                                      int64_t block_rows) {
    const int64_t row_bytes = p.width * (by_bytes ? 1 : 2), tile = 4 * kScreenQueryTile;
    const int64_t least = tile * num_threads();
    const int64_t wanted = block_rows > 0 ? block_rows : kSlabBytes / row_bytes;
    return {std::min(round_up(queries, tile), round_up(std::max(kSlabBytes / (row_bytes + state_bytes), least), tile)),
            std::min(round_up(p.references, kScreenGroupTile), round_up(wanted, kScreenGroupTile)),
            round_up(std::max<int64_t>(kBlockBytes / row_bytes, 64), kScreenGroupTile)};
}

// |computed - true| <= gamma |true| / 2 for distances, gamma = (width / 16 + 8) u: on both sides of a comparison.
inline float screen_stretch(int64_t width) { return 1.0f + 4.0f * static_cast<float>(width / 16 + 8) / (1 << 24); }

// The chosen rows of one batch. done(row, keys, count) for each row found, in parallel; the rows that are not come
// back.
template <class F, class T, class Done>
inline std::vector<int64_t> screen_rows(const T* queries, const T* references, const Points& p, const Rows& chosen,
                                        bool by_bytes, int64_t k, bool root, bool exclude_self, int64_t block_rows,
                                        const Done& done, Tally& tally) {
    using Key = typename KeyOf<F>::type;
    const ScreenBodies<F> bodies;
    const auto screen = GM_CALL_ISA(screen_tile);
    const int64_t bytes = by_bytes ? 1 : 2;
    const int64_t capacity =
        std::min(kMostCandidates, round_up(by_bytes ? 32 * k + 512 + p.width : 4 * k + 512, kGroup));
    const ScreenBlocking blocks = screen_blocking(p, chosen.count, by_bytes, capacity * 12, block_rows);
    const int64_t slab = blocks.slab, chunk = blocks.chunk, block = blocks.block;
    LatticeMemory x(slab, p.width, bytes), y(chunk, p.width, bytes);
    const auto room = static_cast<size_t>(slab * capacity + kGroup);
    const std::unique_ptr<float[]> squares(new float[room]), residuals(new float[room]);
    std::vector<float> reach(static_cast<size_t>(slab));
    const std::unique_ptr<uint32_t[]> index(new uint32_t[room]);
    std::vector<int32_t> counts(reach.size()), next(reach.size());
    std::vector<int64_t> selves(exclude_self ? reach.size() : 0), left;
    const float stretch = screen_stretch(p.width);
    const auto candidates = [&](int64_t row) {
        const int64_t at = row * capacity;
        const Lattice own = x.at(row);
        return Candidates{squares.get() + at,
                          residuals.get() + at,
                          index.get() + at,
                          counts.data() + row,
                          next.data() + row,
                          reach.data() + row,
                          own.norms,
                          own.residuals,
                          capacity,
                          k,
                          stretch};
    };
    const Unpacked<F, T> context{references, p.dim, p.width};
    const Quantiser<F> quantise{centre_of<F>(references, p), p.dim, p.width, by_bytes};
    for (int64_t q = 0; q < chosen.count; q += slab) {
        const int64_t count = std::min(slab, chosen.count - q);
        quantise(x, queries, chosen, q, count, false);
        for (int64_t i = 0; i < count; ++i) {
            const auto row = static_cast<size_t>(i);
            const bool boundless = std::isinf(x.at(i).residuals[0]);  // no lattice for this query
            counts[row] = boundless ? -1 : 0;
            next[row] = static_cast<int32_t>(2 * k + 32);
            reach[row] = boundless ? std::numeric_limits<float>::quiet_NaN() : std::numeric_limits<float>::infinity();
            if (exclude_self) selves[row] = chosen[q + i];
        }
        for (int64_t r = 0; r < p.references; r += chunk) {
            const int64_t held = std::min(chunk, p.references - r);
            if (q == 0 || chunk < p.references) quantise(y, references, Rows{nullptr, p.references}, r, held, true);
            parallel_for(0, (count + kScreenQueryTile - 1) / kScreenQueryTile, 1, [&](int64_t begin, int64_t end) {
                const int64_t first = begin * kScreenQueryTile, rows = std::min(end * kScreenQueryTile, count) - first;
                for (int64_t from = 0; from < held; from += block)
                    screen({{x.at(first), y.at(from), rows, std::min(block, held - from), p.width, reach.data() + first,
                             y.at(from).residuals, by_bytes},
                            exclude_self ? selves.data() + first : nullptr,
                            r + from,
                            candidates(first)});
            });
        }
        parallel_for(0, count, 8, [&](int64_t begin, int64_t end) {
            std::vector<F> query(static_cast<size_t>(p.width)), scratch(4 * query.size());
            std::vector<Key> keys(static_cast<size_t>(capacity));
            for (int64_t i = begin; i < end; ++i) {
                const int64_t row = chosen[q + i];
                pack_rows(query.data(), queries, row, row + 1, 1, p.dim, p.width);
                const int64_t found = bodies.rerank(
                    {query.data(), context.rows(), scratch.data(), p.width, candidates(i), root, keys.data()});
                counts[static_cast<size_t>(i)] = static_cast<int32_t>(found);
                if (found >= 0) done(row, keys.data(), found);
            }
        });
        for (int64_t i = 0; i < count; ++i) {
            const int64_t found = counts[static_cast<size_t>(i)];
            if (found < 0)
                left.push_back(chosen[q + i]);
            else
                tally.candidates += found;
        }
    }
    (by_bytes ? tally.by_bytes : tally.by_words) += chosen.count;
    tally.certified += chosen.count - static_cast<int64_t>(left.size());
    return left;
}

// Whether words beat bytes, which take half the time for a pair and leave more to the exact distances: how much more,
// 48 queries among 2048 references tell.
template <class F, class T>
inline bool words_pay(const T* queries, const T* references, const Points& p, int64_t k) {
    constexpr int64_t kQueries = 48, kReferences = 2048;
    if (p.queries < 4 * kQueries || p.references < 2 * kReferences) return p.width >= 1024 || k >= 32;
    std::vector<int64_t> rows(kQueries);
    for (size_t i = 0; i < rows.size(); ++i) rows[i] = static_cast<int64_t>(i) * (p.queries / kQueries);
    std::vector<T> sample(static_cast<size_t>(kReferences * p.dim));
    for (int64_t i = 0; i < kReferences; ++i)
        std::copy_n(references + i * (p.references / kReferences) * p.dim, p.dim, sample.data() + i * p.dim);
    Points few = p;
    few.references = kReferences;
    const int64_t near = std::max<int64_t>(1, k * kReferences / p.references);
    Tally tally;
    screen_rows<F>(
        queries, sample.data(), few, {rows.data(), kQueries}, true, near, true, false, 0,
        [](int64_t, auto*, int64_t) {}, tally);
    // In cycles of one core (measured): a pair by bytes takes width / 64; an exact distance of rows out of cache
    // width + 400; a row that is not certified, width / 8 for all pairs.
    const auto wide = static_cast<double>(p.width);
    const double pairs = wide / 64 * static_cast<double>(p.references);
    const double certified = static_cast<double>(tally.certified), failed = kQueries - certified;
    const double more =
        static_cast<double>(k) * (static_cast<double>(tally.candidates) / static_cast<double>(near) - certified);
    return more * (wide + 400) + failed * 8 * pairs > kQueries * pairs;
}

// One batch, by bytes where the processor has them and they pay, or by words.
template <class F, class T, class Done>
inline std::vector<int64_t> run_screen(const T* queries, const T* references, const Points& p, int64_t k, bool root,
                                       bool exclude_self, int64_t block_rows, bool words_only, const Done& done,
                                       Tally& tally) {
    const bool by_bytes =
        !words_only && k <= kMostByBytes && GM_CALL_ISA(screen_has_bytes)() && !words_pay<F>(queries, references, p, k);
    return screen_rows<F>(queries, references, p, {nullptr, p.queries}, by_bytes, k, root, exclude_self, block_rows,
                          done, tally);
}

}  // namespace gm
