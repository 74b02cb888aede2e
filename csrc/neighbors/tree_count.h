// Counts within radii in the tree of tree_build.h.
#pragma once

#include "neighbors/tree_build.h"

namespace gm {

// Bounds of the points in the tree's order, and the least and largest below each node's children.
template <class F>
class TreeBoundsMemory {
 public:
    TreeBoundsMemory() = default;
    TreeBoundsMemory(const Tree<F>& tree, const F* bounds) {
        std::vector<F> least(static_cast<size_t>(round_up(tree.count, kGroup)));
        for (size_t i = 0; i < least.size(); ++i) least[i] = bounds[tree.index[i]];
        points_ = least;
        std::vector<F> most = least;
        for (int level = 0; level < tree.levels; ++level) {
            const size_t children = least.size() / kGroup, room = (children + kGroup - 1) / kGroup * kGroup;
            std::vector<F> low(room), high(room);
            for (size_t i = 0; i < room; ++i) {  // missing children are copies of the last
                const auto at = static_cast<int64_t>(std::min(i, children - 1) * kGroup);
                low[i] = *std::min_element(least.begin() + at, least.begin() + at + kGroup);
                high[i] = *std::max_element(most.begin() + at, most.begin() + at + kGroup);
            }
            least_.push_back(low);
            most_.push_back(high);
            least.swap(low);
            most.swap(high);
        }
    }
    TreeBounds<F> bounds() const {
        TreeBounds<F> b{points_.data(), {}, {}};
        for (size_t level = 0; level < least_.size(); ++level) {
            b.least[level] = least_[level].data();
            b.most[level] = most_[level].data();
        }
        return b;
    }

 private:
    std::vector<F> points_;
    std::vector<std::vector<F>> least_, most_;
};

inline void (*tree_count_body(float))(const TreeCount<float>&) { return GM_CALL_ISA(tree_count_fp32); }
inline void (*tree_count_body(double))(const TreeCount<double>&) { return GM_CALL_ISA(tree_count_fp64); }

// One batch of squared bounds, [N] or [M].
template <class F, class T>
void count_in_tree(const T* queries, const T* references, const Points& p, const F* bounds, bool per_reference,
                   bool exclude_self, int64_t* counts) {
    const auto body = tree_count_body(F());
    with_tree_width(p.width, [&](auto width) {
        constexpr int W = decltype(width)::value;
        const Planted<F, W> planted = plant<F, W>(queries, references, p, false);
        const Tree<F> tree = planted.memory.tree();
        const auto bounds_memory = per_reference ? TreeBoundsMemory<F>(tree, bounds) : TreeBoundsMemory<F>();
        const TreeBounds<F> among = bounds_memory.bounds();
        each_run(planted, queries, p, [&](const int64_t* rows, const F* packed, int64_t held) {
            const auto room = static_cast<size_t>(held);
            std::vector<F> own_bounds(room), own(exclude_self ? room * W : 0);
            std::vector<int64_t> found(room);
            for (int64_t i = 0; i < held; ++i) {  // the excluded point has the query's index: one bound for both
                if (exclude_self || !per_reference) own_bounds[static_cast<size_t>(i)] = bounds[rows[i]];
                if (exclude_self) pack_rows(own.data() + i * W, references, rows[i], rows[i] + 1, 1, p.dim, W);
            }
            body({&tree, packed, held, per_reference ? nullptr : own_bounds.data(), per_reference ? &among : nullptr,
                  exclude_self ? own.data() : nullptr, own_bounds.data(), found.data()});
            for (int64_t i = 0; i < held; ++i) counts[rows[i]] = found[static_cast<size_t>(i)];
        });
    });
}

}  // namespace gm
