// What the launchers and the bodies of the neighbour ops share: the layout of packed points, and the tile's arguments.
//
// Points are packed in F (float or double), a "width" of zeros-padded coordinates each, in groups of 16 references:
//   width <= 16 (D <= 16)   group g holds coordinate d of its 16 references at data[(g * width + d) * 16 + lane]
//   width > 16              reference r holds its coordinates at data[r * width + d]; width is a multiple of 16
// Padding adds squares of exactly 0, which changes no bit of a sum of squares.
#pragma once

#include <cstdint>

#include "common/isa.h"

namespace gm {

constexpr int64_t kGroup = 16;     // references of a group: one vector of distances
constexpr int64_t kQueryTile = 4;  // queries that meet a group together; packed queries are a multiple of it
constexpr int64_t kLowWidth = 16;  // up to this width, lanes are references; above it, lanes are coordinates

enum class Metric : int64_t { euclidean = 0, sqeuclidean = 1, manhattan = 2, chebyshev = 3, inner_product = 4 };

// A tile of queries meets a block of references.
template <class F>
struct Sweep {
    const F* queries;       // [round_up(query_count, kQueryTile), width]
    const int64_t* selves;  // [query_count]: the reference that is the query itself and does not count, or null
    int64_t query_count;
    const F* references;   // [round_up(count, kGroup), width], laid out as above
    int64_t first, count;  // numbers of the references in their batch: first .. first + count - 1
    int64_t width;
};

// Keys of the candidates: distance bits above the index, so that < is the total order (distance, index).
__extension__ typedef unsigned __int128 uint128;
template <class F>
struct KeyOf;
template <>
struct KeyOf<float> {
    using type = uint64_t;
};
template <>
struct KeyOf<double> {
    using type = uint128;
};

// A reservoir of candidates per query: keys[row * capacity ...], how many are there, and the squared distance from
// which on a candidate cannot be among the k nearest (NaN while fewer than `capacity` were seen: nothing is refused).
template <class F>
struct Reservoirs {
    typename KeyOf<F>::type* keys;
    int64_t* counts;
    F* limits;
    int64_t capacity, k;
    bool root;  // keys hold sqrt(d^2) (euclidean), not d^2
};

// Counts of pairs whose squared distance is at most a bound, given per query [query_count] or per reference
// [round_up(count, kGroup)].
template <class F>
struct Counts {
    const F* bounds;
    bool per_reference;
    int64_t* counts;  // [query_count], added to
};

// --- screening by integer dot products (docs/neighbors-algorithms.md has the proof) ---
//
// A point x is taken about a common centre and rounded to a lattice of its own: x' = x - centre, and x^ = scale * X
// with integers |X_d| <= 127 (bytes), or |X_d| <= 2^15 - 1 and |X| < 2^15.5 (words). Only its residual |x' - x^| is
// lost, and the triangle inequality bounds what that does to a distance; X.Y itself is exact. Every stored float below
// is rounded to the safe side by kScreenSlack.
constexpr float kScreenSlack = 1.0f / (1 << 19);
constexpr int64_t kScreenWidth = 1 << 15;  // coordinates at most: X.Y stays in an int32
// Words before they are rounded, which adds at most 1/2 to each and 91 to their length: |X.Y| <= |X| |Y| < 2^31.
constexpr float kScreenWord = 32700.0f, kScreenLength = 46200.0f;
constexpr int64_t kMostCandidates = 1 << 13;  // of one query

// Integers of packed points. Bytes (AVX-512 VNNI only): queries [row][width] of X + 128 (unsigned), references in
// groups of 16, [group][width / 4][lane][4] (signed). Words, int16: queries [row][width], references [group][width /
// 2][lane][2].
struct Lattice {
    void* values;
    float* scales;     // queries: -2 scale; references: scale
    float* norms;      // |x^|^2, less the slack
    float* residuals;  // |x' - x^|, plus the slack
    int32_t* starts;   // references: where the dot product starts, -128 sum Y for bytes, else 0

    // From row `first` on, whose values begin `bytes` further.
    Lattice from(int64_t bytes, int64_t first) const {
        return {static_cast<char*>(values) + bytes, scales + first, norms + first, residuals + first, starts + first};
    }
};

template <class F>
struct Quantise {
    const F* rows;    // [count, width]
    const F* centre;  // [width], 0 in the padding
    int64_t count, width;
    bool references;  // or queries
    bool bytes;       // or words
    Lattice to;       // entry 0 is that of row 0; references: row 0 begins a group, and the last group is filled up
};

// Candidates of each query: |x^ - y^|^2 less the slack, the residual of y, and its number. What lies beyond `reach`
// cannot matter.
struct Candidates {
    float *squares, *residuals;  // [rows, stride], of which the first `capacity` are used
    uint32_t* index;             // [rows, stride]
    int32_t* counts;             // [rows]; -1: too many, the row is to be done another way
    int32_t* next;               // [rows]: the count at which the reach is drawn in
    float* reach;                // [rows]: (k-th smallest upper bound) * stretch + own residual, plus the slack
    const float *own_norm, *own_residual;  // [rows]: the queries' in their lattice
    int64_t capacity, stride, k;           // 2 k + 64 <= capacity <= kMostCandidates, a multiple of 16
    float stretch;                         // covers the rounding of the final distances
};

constexpr int64_t kScreenQueryTile = 12, kScreenGroupTile = 64;

// A tile of queries meets a block of references in the lattice. What matters of a pair is whether |x^ - y^|, less the
// slack, is within row_edges[query] + edges[reference]; a NaN admits nothing.
struct ScreenTile {
    Lattice queries, references;
    int64_t query_count;  // queries.values has rows up to a multiple of kScreenQueryTile
    int64_t count;        // of references; their values have rows up to a multiple of kScreenGroupTile
    int64_t width;
    const float *row_edges, *edges;
    bool bytes;  // or words
};

struct Screen {
    ScreenTile tile;  // row_edges: the reach of each query; edges: the residuals of the references
    const int64_t* selves;
    int64_t first;  // number of the first reference
    Candidates to;
    const Candidates* columns;  // of the references, where the queries are their candidates as well; or null
    int64_t first_query;        // number of the first query
};

// Row i of a set of points as [width] numbers: in place, or through the scratch.
template <class F>
struct RowsOf {
    const F* (*row)(const void* context, int64_t i, F* scratch);
    const void* context;
};
constexpr int kRerank = 4;  // pairs whose exact squares are computed together

// One query's candidates, computed as differences.
template <class F>
struct Rerank {
    const F* query;  // [width]
    RowsOf<F> references;
    F* scratch;  // [kRerank, width]
    int64_t width;
    Candidates from;  // of the one row
    bool root;
    typename KeyOf<F>::type* keys;  // [capacity]
};

// Counts of a tile: a pair is out beyond row_edges + edges, in where |x^ - y^| plus the slack is below inner_rows +
// inner; the squares of those between are computed as differences and compared with their bounds.
template <class F>
struct ScreenCount {
    ScreenTile tile;
    const float *inner_rows, *inner;
    const int64_t* selves;
    int64_t first;  // number of the first reference
    RowsOf<F> queries, references;
    int64_t first_query;  // number of the tile's first query in `queries`
    const F* bounds;      // of the tile's queries, or of all references
    bool per_reference;
    F* scratch;                   // [1 + kRerank, width]
    int64_t *counts, *undecided;  // of the queries, added to; undecided: pairs computed
};

// Whether this set and processor multiply bytes.
GM_DECLARE_ISA(bool, screen_has_bytes, ())
GM_DECLARE_ISA(void, quantise_fp32, (const Quantise<float>&))
GM_DECLARE_ISA(void, quantise_fp64, (const Quantise<double>&))
GM_DECLARE_ISA(void, screen_tile, (const Screen&))
// The number of keys, at least k; -1 where the row is to be done without screening.
GM_DECLARE_ISA(int64_t, rerank_fp32, (const Rerank<float>&))
GM_DECLARE_ISA(int64_t, rerank_fp64, (const Rerank<double>&))
GM_DECLARE_ISA(void, screen_count_fp32, (const ScreenCount<float>&))
GM_DECLARE_ISA(void, screen_count_fp64, (const ScreenCount<double>&))

GM_DECLARE_ISA(void, knn_sweep_fp32, (const Sweep<float>&, const Reservoirs<float>&))
GM_DECLARE_ISA(void, knn_sweep_fp64, (const Sweep<double>&, const Reservoirs<double>&))
GM_DECLARE_ISA(void, knn_metric_sweep_fp32, (Metric, const Sweep<float>&, const Reservoirs<float>&))
GM_DECLARE_ISA(void, knn_metric_sweep_fp64, (Metric, const Sweep<double>&, const Reservoirs<double>&))
GM_DECLARE_ISA(void, count_sweep_fp32, (const Sweep<float>&, const Counts<float>&))
GM_DECLARE_ISA(void, count_sweep_fp64, (const Sweep<double>&, const Counts<double>&))

}  // namespace gm
