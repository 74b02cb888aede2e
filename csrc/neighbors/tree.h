// A tree of boxes over points of few coordinates: what launcher and bodies share. See docs/neighbors-algorithms.md.
//
// Points lie in groups of 16, in an order in which groups are compact. Sixteen groups are the children of a node of
// level 0, sixteen nodes of level l the children of one of level l + 1; the top level has one node. A node holds the
// boxes of its children, lane = child.
#pragma once

#include "neighbors/neighbors.h"

namespace gm {

constexpr int kTreeLevels = 8;          // 16^8 groups are more than there can be
constexpr int64_t kTreeWidth = 8;       // coordinates at most
constexpr int64_t kTogetherWidth = 4;   // coordinates at most, of queries that are searched for together
constexpr int64_t kTreeSortedKeys = 5;  // up to this k, a query's keys are kept in order

template <class F>
struct Tree {
    const F* points;              // [groups, width, 16]; the last group is filled up with copies of its last point
    const uint32_t* index;        // [groups, 16]
    int64_t count, width;         // points, coordinates
    int levels;                   // of nodes, at least 1
    const F* boxes[kTreeLevels];  // of level l: [nodes, 2, width, 16], least and largest coordinates of the children
    const uint32_t* firsts[kTreeLevels];  // of level l: [nodes, 16], least index below the children
};

// Points in the making of a tree: groups [begin, end) of an order are halved in place, and stably.
template <class F>
struct TreeOrder {
    F* columns[kTreeWidth];  // of each coordinate: [count]
    uint32_t* index;         // [count]
    F* spare[kTreeWidth];    // [count] each, of which a range uses its own part
    uint32_t* spare_index;   // [count]
    int64_t count, width;
};

template <class F>
struct TreeSearch {
    using Key = typename KeyOf<F>::type;
    const Tree<F>* tree;
    const F* queries;       // [count, width]
    const int64_t* selves;  // [count]: the reference that is the query itself and does not count, or null
    int64_t count, k;
    int64_t first;     // number of the first query, for `done`
    bool root;         // keys hold sqrt(d^2) (euclidean), not d^2
    Key* keys;         // room for max(k, capacity)
    int64_t capacity;  // of a reservoir, where k > Pool::kMost
    // Takes the `found` >= k keys of query `row`: the k smallest in order, or (k > Pool::kMost) more in none.
    void (*done)(const void* context, int64_t row, Key* keys, int64_t found);
    const void* context;
};

// Bounds on squares of each point, and the least and largest below the children of each node.
template <class F>
struct TreeBounds {
    const F* points;                                  // [groups, 16]
    const F *least[kTreeLevels], *most[kTreeLevels];  // of level l: [nodes, 16]
};

template <class F>
struct TreeCount {
    const Tree<F>* tree;
    const F* queries;  // [count, width]
    int64_t count;
    const F* bounds;             // [count], or null: those of the points
    const TreeBounds<F>* among;  // or null: those of the queries
    const F *own, *own_bounds;   // [count, width], [count]: points that do not count, and their bounds; or null
    int64_t* counts;             // [count]
};

// One halving, at the median of the widest side: the group in the middle. And all of them, down to single groups.
GM_DECLARE_ISA(int64_t, tree_halve_fp32, (const TreeOrder<float>&, int64_t begin, int64_t end))
GM_DECLARE_ISA(int64_t, tree_halve_fp64, (const TreeOrder<double>&, int64_t begin, int64_t end))
GM_DECLARE_ISA(void, tree_order_fp32, (const TreeOrder<float>&, int64_t begin, int64_t end))
GM_DECLARE_ISA(void, tree_order_fp64, (const TreeOrder<double>&, int64_t begin, int64_t end))
GM_DECLARE_ISA(void, tree_count_fp32, (const TreeCount<float>&))
GM_DECLARE_ISA(void, tree_count_fp64, (const TreeCount<double>&))
GM_DECLARE_ISA(void, tree_search_fp32, (const TreeSearch<float>&))
GM_DECLARE_ISA(void, tree_search_fp64, (const TreeSearch<double>&))
// Sixteen consecutive queries at a time; k <= kTreeSortedKeys and width <= kTogetherWidth.
GM_DECLARE_ISA(void, tree_search_together_fp32, (const TreeSearch<float>&))
GM_DECLARE_ISA(void, tree_search_together_fp64, (const TreeSearch<double>&))

}  // namespace gm
