// Counts within bounds in a tree of boxes: a box that lies all in or all out is not opened. Compiled once per
// instruction set.
#include "neighbors/tree_boxes.h"

namespace gm {
inline namespace GM_ISA {
namespace {

// A bound for each of sixteen children or points: the query's own, or theirs.
template <class F>
GM_HD x16<F> bounds_at(const F* bound, const F* theirs, int64_t first) {
    return theirs != nullptr ? x16<F>::load(theirs + first) : x16<F>(*bound);
}

template <int W, class F>
int64_t count_one(const TreeCount<F>& s, int64_t row, const int64_t* children) {
    struct Frame {  // a node whose children are being visited
        uint32_t left;
        int64_t first;  // its first child
    };
    const Tree<F>& t = *s.tree;
    const TreeBounds<F>* among = s.among;
    const F *x = s.queries + row * W, *bound = s.bounds + (among != nullptr ? 0 : row);
    Frame frames[kTreeLevels];
    int64_t total = 0;
    const auto open = [&](int level, int64_t node) {
        x16<F> least, most;
        squares_within_boxes<W>(x, t.boxes[level] + node * 2 * W * kGroup, least, most);
        Frame& f = frames[level];
        f.first = node * kGroup;
        const F* largest = among != nullptr ? among->most[level] : nullptr;
        const F* smallest = among != nullptr ? among->least[level] : nullptr;
        f.left = bits_le(least, bounds_at(bound, largest, f.first)) & first_bits(children[level] - f.first);
        const int64_t held = int64_t(1) << (4 * level + 4);  // points of a child, but for the last
        for (uint32_t in = bits_le(most, bounds_at(bound, smallest, f.first)) & f.left; in != 0; in &= in - 1) {
            const int64_t begin = (f.first + __builtin_ctz(in)) * held;
            total += t.count - begin < held ? t.count - begin : held;
            f.left &= ~(in & -in);
        }
    };
    int level = t.levels - 1;
    open(level, 0);
    while (level < t.levels) {
        Frame& f = frames[level];
        if (f.left == 0) {
            ++level;
            continue;
        }
        const int64_t child = f.first + __builtin_ctz(f.left);
        f.left &= f.left - 1;
        if (level > 0) {
            open(--level, child);
            continue;
        }
        const x16<F> bounds = bounds_at(bound, among != nullptr ? among->points : nullptr, child * kGroup);
        const uint32_t bits = bits_le(squares_to<W>(x, t.points + child * W * kGroup), bounds);
        total += __builtin_popcount(bits & first_bits(t.count - child * kGroup));
    }
    return total;
}

template <int W, class F>
void count(const TreeCount<F>& s) {
    int64_t children[kTreeLevels];
    children_of_levels(*s.tree, children);
    for (int64_t row = 0; row < s.count; ++row) {
        s.counts[row] = count_one<W>(s, row, children);
        if (s.own == nullptr) continue;
        F v[W];
        for (int d = 0; d < W; ++d) v[d] = SquaredDifference::of(s.queries[row * W + d], s.own[row * W + d]);
        s.counts[row] -= join_variables<SquaredDifference, W>(v) <= s.own_bounds[row];
    }
}

template <class F>
void count_any(const TreeCount<F>& s) {
    switch (s.tree->width) {
        case 1:
            return count<1>(s);
        case 2:
            return count<2>(s);
        case 3:
            return count<3>(s);
        case 4:
            return count<4>(s);
        default:
            return count<8>(s);
    }
}

}  // namespace

void tree_count_fp32(const TreeCount<float>& s) { count_any(s); }
void tree_count_fp64(const TreeCount<double>& s) { count_any(s); }

}  // namespace GM_ISA
}  // namespace gm
