// Squared distances to sixteen points and to sixteen boxes of a tree. For body files.
#pragma once

#include "neighbors/sweep.h"
#include "neighbors/tree.h"

GM_NAMESPACE_BEGIN

// The squared distance to each of sixteen points, in the written order.
template <int W, class F>
GM_HD x16<F> squares_to(const F* x, const F* points) {
    x16<F> v[W];
#pragma GCC unroll 8
    for (int d = 0; d < W; ++d) {
        const x16<F> e = x16<F>(x[d]) - x16<F>::load(points + d * kGroup);
        v[d] = e * e;
    }
    return join_variables<SquaredDifference, W>(v);
}

// The same for the nearest point of each of sixteen boxes: rounding is monotone, so no computed square of a point in
// the box is below it.
template <int W, class F>
GM_HD x16<F> squares_to_boxes(const F* x, const F* boxes) {
    x16<F> v[W];
#pragma GCC unroll 8
    for (int d = 0; d < W; ++d) {
        const x16<F> at(x[d]), least = x16<F>::load(boxes + d * kGroup), most = x16<F>::load(boxes + (W + d) * kGroup);
        const x16<F> e = max(max(least - at, at - most), x16<F>(F(0)));
        v[d] = e * e;
    }
    return join_variables<SquaredDifference, W>(v);
}

// The same for the nearest point of each of sixteen boxes and any of the box from `low` to `high` [W].
template <int W, class F>
GM_HD x16<F> squares_between_boxes(const F* low, const F* high, const F* boxes) {
    x16<F> v[W];
#pragma GCC unroll 8
    for (int d = 0; d < W; ++d) {
        const x16<F> least = x16<F>::load(boxes + d * kGroup), most = x16<F>::load(boxes + (W + d) * kGroup);
        const x16<F> e = max(max(least - x16<F>(high[d]), x16<F>(low[d]) - most), x16<F>(F(0)));
        v[d] = e * e;
    }
    return join_variables<SquaredDifference, W>(v);
}

// For each of sixteen boxes: no computed square of a point in it is below `least` or above `most`.
template <int W, class F>
GM_HD void squares_within_boxes(const F* x, const F* boxes, x16<F>& least, x16<F>& most) {
    x16<F> near[W], far[W];
#pragma GCC unroll 8
    for (int d = 0; d < W; ++d) {
        const x16<F> at(x[d]), low = x16<F>::load(boxes + d * kGroup) - at,
                               high = at - x16<F>::load(boxes + (W + d) * kGroup);
        const x16<F> e = max(max(low, high), x16<F>(F(0))), f = min(low, high);
        near[d] = e * e;
        far[d] = f * f;
    }
    least = join_variables<SquaredDifference, W>(near);
    most = join_variables<SquaredDifference, W>(far);
}

// The first n of sixteen lanes.
GM_HD uint32_t first_bits(int64_t n) { return n < kGroup ? (1u << n) - 1 : 0xffffu; }

// The number of children of all nodes of each level.
template <class F>
inline void children_of_levels(const Tree<F>& t, int64_t* children) {
    children[0] = (t.count + kGroup - 1) / kGroup;
    for (int level = 1; level < t.levels; ++level) children[level] = (children[level - 1] + kGroup - 1) / kGroup;
}

GM_NAMESPACE_END
