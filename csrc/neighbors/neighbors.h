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

// A tile of queries meets a block of references.
template <class F>
struct Sweep {
    const F* queries;     // [round_up(query_count, kQueryTile), width]
    int64_t query_first;  // the number of row 0 in its batch
    int64_t query_count;
    const F* references;   // [round_up(count, kGroup), width], laid out as above
    int64_t first, count;  // numbers of the references in their batch: first .. first + count - 1
    int64_t width;
    bool exclude_self;  // reference i is query i
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

GM_DECLARE_ISA(void, knn_sweep_fp32, (const Sweep<float>&, const Reservoirs<float>&))
GM_DECLARE_ISA(void, knn_sweep_fp64, (const Sweep<double>&, const Reservoirs<double>&))
GM_DECLARE_ISA(void, count_sweep_fp32, (const Sweep<float>&, const Counts<float>&))
GM_DECLARE_ISA(void, count_sweep_fp64, (const Sweep<double>&, const Counts<double>&))

}  // namespace gm
