// The screened search: integer dot products find candidates, differences decide. See docs/neighbors-algorithms.md.
#pragma once

#include <cstring>
#include <vector>

#include "neighbors/pack.h"
#include "neighbors/screen_lists.h"
#include "neighbors/select.h"

namespace gm {

// Whether screening pays: many coordinates, many references, few of them wanted.
constexpr int64_t kMostScreened = 2048;  // neighbours: their lists stay within kMostCandidates
constexpr int64_t kMostByBytes = 224;    // neighbours that a list of bytes has room for
constexpr int64_t kLeastMutual = 192;    // coordinates: below, lists cost what half of the products saves
inline bool screening_can(const Points& p, int64_t k) {
    return p.width >= kLowWidth && p.width <= kScreenWidth && k <= kMostScreened;
}
inline bool screening_pays(const Points& p, int64_t k) {
    // Few queries do not make up for putting the references to the lattice, least of all in few coordinates.
    const int64_t least = p.width <= kLowWidth ? 256 : 16;
    return screening_can(p, k) && p.references >= 512 && 16 * k <= p.references && p.queries >= least;
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
    // Zeros from row `first` (of references: where a group begins) to the end of its tile, which is met whole: sums of
    // what memory happened to hold could overflow.
    void clear(int64_t first, int64_t tile) {
        std::memset(values_.get() + first * row_bytes_, 0,
                    static_cast<size_t>((round_up(first, tile) - first) * row_bytes_));
    }
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
        if (references)
            to.clear(round_up(count, kGroup), kScreenGroupTile);
        else
            to.clear(count, kScreenQueryTile);
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

// Room in the lists: what nearly all rows need, or more for those that it was too little for.
inline int64_t screen_capacity(bool by_bytes, bool wide, int64_t k, int64_t width) {
    const int64_t wanted = by_bytes ? (wide ? 32 * k + 512 + width : 8 * k + 96 + width)
                           : wide   ? 4 * k + 512
                                    : 3 * k + 96;
    return std::min(kMostCandidates, round_up(wanted, kGroup));
}

// f(first, rows, from, to) for each thread's share of `count` rows and the references [begin, end), by whole blocks.
// For the work to stop in between, the references are cut: the rows of a share read a block together.
template <class F>
inline void each_share(int64_t count, int64_t block, int64_t width, int64_t begin, int64_t end, const F& f) {
    constexpr int64_t kProducts = int64_t(1) << 31;  // of a piece: some 10 ms
    const int64_t tiles = (count + kScreenQueryTile - 1) / kScreenQueryTile;
    const int64_t share = std::max<int64_t>(1, (tiles + num_threads() - 1) / num_threads());
    const int64_t step = block * std::max<int64_t>(1, kProducts / (share * kScreenQueryTile * block * width));
    for (int64_t from = begin; from < end; from += step)
        parallel_for(0, tiles, share, [&](int64_t first_tile, int64_t last_tile) {
            const int64_t first = first_tile * kScreenQueryTile;
            f(first, std::min(last_tile * kScreenQueryTile, count) - first, from, std::min(end, from + step));
        });
}

// The chosen rows of one batch. done(row, keys, count) for each row found, in parallel; the rows that are not come
// back.
template <class F, class T, class Done>
inline std::vector<int64_t> screen_rows(const T* queries, const T* references, const Points& p, const Rows& chosen,
                                        bool by_bytes, bool wide, int64_t k, bool root, bool exclude_self,
                                        int64_t block_rows, const Done& done, Tally& tally) {
    using Key = typename KeyOf<F>::type;
    const ScreenBodies<F> bodies;
    const auto screen = GM_CALL_ISA(screen_tile);
    const int64_t bytes = by_bytes ? 1 : 2;
    const int64_t capacity = screen_capacity(by_bytes, wide, k, p.width);
    const ScreenBlocking blocks =
        screen_blocking(p, chosen.count, by_bytes, capacity * CandidateLists::kEntryBytes, block_rows);
    const int64_t slab = blocks.slab, chunk = blocks.chunk;
    LatticeMemory x(slab, p.width, bytes), y(chunk, p.width, bytes);
    CandidateLists lists(slab, capacity, k, screen_stretch(p.width));
    std::vector<int64_t> selves(exclude_self ? static_cast<size_t>(slab) : 0), left;
    std::vector<int64_t> found(static_cast<size_t>(slab));
    const Unpacked<F, T> context{references, p.dim, p.width};
    const Quantiser<F> quantise{centre_of<F>(references, p), p.dim, p.width, by_bytes};
    // Within one set a pair of rows meets once and each tells the other, where that pays.
    const bool within = queries == references && p.queries == p.references && chosen.list == nullptr &&
                        chunk >= p.references && p.width >= kLeastMutual;
    for (int64_t q = 0; q < chosen.count; q += slab) {
        const int64_t count = std::min(slab, chosen.count - q);
        quantise(x, queries, chosen, q, count, false);
        for (int64_t i = 0; i < count; ++i) lists.begin(i, x.at(i));
        for (size_t i = 0; i < selves.size(); ++i)
            selves[i] = i < static_cast<size_t>(count) ? chosen[q + static_cast<int64_t>(i)] : -1;
        // Rows of the slab meet the references [from, to) of the chunk that begins with `base`.
        const auto meet = [&](int64_t first, int64_t rows, int64_t base, int64_t from, int64_t to, bool both) {
            for (; from < to; from += blocks.block) {
                const Candidates columns = both ? lists.at(from - q, x.at(from - q)) : Candidates{};
                screen({{x.at(first), y.at(from - base), rows, std::min(blocks.block, to - from), p.width,
                         lists.at(first, x.at(first)).reach, y.at(from - base).residuals, by_bytes},
                        exclude_self && !both ? selves.data() + first : nullptr,
                        from,
                        lists.at(first, x.at(first)),
                        both ? &columns : nullptr,
                        q + first});
            }
        };
        const auto meet_all = [&](int64_t base, int64_t from, int64_t to) {
            each_share(
                count, blocks.block, p.width, from, to,
                [&](int64_t first, int64_t rows, int64_t r, int64_t end) { meet(first, rows, base, r, end, false); });
        };
        for (int64_t r = 0; r < p.references; r += chunk) {
            const int64_t held = std::min(chunk, p.references - r);
            if (q == 0 || chunk < p.references) quantise(y, references, Rows{nullptr, p.references}, r, held, true);
            const int64_t parts = within ? parts_of(count) : 0;
            if (parts == 0) {
                meet_all(r, r, r + held);
                continue;
            }
            const int64_t size = round_up((count + parts - 1) / parts, 4 * kScreenQueryTile);
            each_meeting(parts, [&](int64_t a, int64_t b) {
                const int64_t rows = std::min(size, count - a * size), columns = std::min(size, count - b * size);
                if (rows > 0 && columns > 0) meet(a * size, rows, 0, q + b * size, q + b * size + columns, a != b);
            });
            meet_all(0, 0, q);
            meet_all(0, q + count, p.references);
        }
        parallel_for(0, count, 8, [&](int64_t begin, int64_t end) {
            std::vector<F> query(static_cast<size_t>(p.width)), scratch(4 * query.size());
            std::vector<Key> keys(static_cast<size_t>(capacity));
            for (int64_t i = begin; i < end; ++i) {
                const int64_t row = chosen[q + i];
                pack_rows(query.data(), queries, row, row + 1, 1, p.dim, p.width);
                found[static_cast<size_t>(i)] = bodies.rerank(
                    {query.data(), context.rows(), scratch.data(), p.width, lists.at(i, x.at(i)), root, keys.data()});
                if (found[static_cast<size_t>(i)] >= 0) done(row, keys.data(), found[static_cast<size_t>(i)]);
            }
        });
        for (int64_t i = 0; i < count; ++i) {
            if (found[static_cast<size_t>(i)] < 0)
                left.push_back(chosen[q + i]);
            else
                tally.candidates += found[static_cast<size_t>(i)];
        }
    }
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
        queries, sample.data(), few, {rows.data(), kQueries}, true, true, near, true, false, 0,
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
    const auto rows = [&](const Rows& chosen, bool wide) {
        return screen_rows<F>(queries, references, p, chosen, by_bytes, wide, k, root, exclude_self, block_rows, done,
                              tally);
    };
    (by_bytes ? tally.by_bytes : tally.by_words) += p.queries;
    const std::vector<int64_t> crowded = rows({nullptr, p.queries}, false);
    return crowded.empty() ? crowded : rows({crowded.data(), static_cast<int64_t>(crowded.size())}, true);
}

}  // namespace gm
