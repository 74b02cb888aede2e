// The tree of boxes (tree.h): its construction from an order of the points, and the search of one batch in it.
#pragma once

#include <array>
#include <vector>

#include "neighbors/median_order.h"
#include "neighbors/select.h"
#include "neighbors/tree.h"

namespace gm {

// Points as [count, W] in F.
template <class F, int W, class T>
std::vector<F> packed_points(const T* rows, int64_t count, int64_t dim) {
    std::vector<F> packed(static_cast<size_t>(count * W));
    parallel_for(0, count, 1 << 15, [&](int64_t begin, int64_t end) {
        pack_rows(packed.data() + begin * W, rows, begin, end, end - begin, dim, W);
    });
    return packed;
}

// The points in an order of groups that are compact, and the boxes over them. No result depends on the order.
template <class F, int W>
class TreeMemory {
 public:
    TreeMemory(const std::vector<F>& rows, int64_t count, std::vector<uint32_t> order)
        : count_(count), groups_((count + kGroup - 1) / kGroup), index_(std::move(order)) {
        index_.resize(static_cast<size_t>(groups_ * kGroup), index_.back());
        pack(rows);
        enclose();
    }
    Tree<F> tree() const {
        Tree<F> t{points_.data(), index_.data(), count_, W, static_cast<int>(boxes_.size()), {}, {}};
        for (size_t level = 0; level < boxes_.size(); ++level) {
            t.boxes[level] = boxes_[level].data();
            t.firsts[level] = firsts_[level].data();
        }
        return t;
    }

 private:
    static constexpr int64_t kSmall = 2048;  // groups that one thread packs sooner than several meet
    void pack(const std::vector<F>& rows) {
        points_.resize(static_cast<size_t>(groups_ * W * kGroup));
        parallel_for(0, groups_, kSmall, [&](int64_t begin, int64_t end) {
            for (int64_t i = begin * kGroup; i < end * kGroup; ++i)
                for (int64_t d = 0; d < W; ++d)
                    points_[static_cast<size_t>((i / kGroup * W + d) * kGroup + i % kGroup)] =
                        rows[static_cast<size_t>(index_[static_cast<size_t>(i)] * W + d)];
        });
    }
    // Boxes of each level from the points or the boxes of the level below.
    void enclose() {
        for (int64_t children = groups_, below = 0; boxes_.empty() || children > 1;) {
            const int64_t nodes = (children + kGroup - 1) / kGroup;
            const bool lowest = boxes_.empty();
            const F* const from = lowest ? points_.data() : boxes_.back().data();
            const uint32_t* const index = lowest ? index_.data() : firsts_.back().data();
            std::vector<F> level(static_cast<size_t>(nodes * 2 * W * kGroup), F(0));
            std::vector<uint32_t> firsts(static_cast<size_t>(nodes * kGroup));
            parallel_for(0, children, kSmall, [&](int64_t begin, int64_t end) {
                for (int64_t i = begin; i < end; ++i) {
                    // A node's missing children are not counted; a group's are copies.
                    const int64_t held = lowest ? kGroup : std::min(kGroup, below - i * kGroup);
                    firsts[static_cast<size_t>(i)] = *std::min_element(index + i * kGroup, index + i * kGroup + held);
                    for (int64_t d = 0; d < W; ++d) {
                        const F* least = lowest ? from + (i * W + d) * kGroup : from + (i * 2 * W + d) * kGroup;
                        const F* most = lowest ? least : least + W * kGroup;
                        F* to = level.data() + (i / kGroup * 2 * W + d) * kGroup + i % kGroup;
                        to[0] = *std::min_element(least, least + held);
                        to[W * kGroup] = *std::max_element(most, most + held);
                    }
                }
            });
            boxes_.push_back(std::move(level));
            firsts_.push_back(std::move(firsts));
            below = children;
            children = nodes;
        }
    }

    int64_t count_, groups_;
    std::vector<uint32_t> index_;
    std::vector<F> points_;
    std::vector<std::vector<F>> boxes_;
    std::vector<std::vector<uint32_t>> firsts_;
};

inline void (*tree_body(float))(const TreeSearch<float>&) { return GM_CALL_ISA(tree_search_fp32); }
inline void (*tree_body(double))(const TreeSearch<double>&) { return GM_CALL_ISA(tree_search_fp64); }

inline void (*tree_together_body(float))(const TreeSearch<float>&) { return GM_CALL_ISA(tree_search_together_fp32); }
inline void (*tree_together_body(double))(const TreeSearch<double>&) { return GM_CALL_ISA(tree_search_together_fp64); }

inline bool tree_can(const Points& p) { return p.width <= kTreeWidth; }
// Whether building pays (measured): about 350 queries at k = 1, 35 at k = 100; above 4 coordinates 1000 and 100.
inline bool tree_pays(const Points& p, int64_t k) {
    const int64_t enough = p.width <= 4 ? 350 : 1000, queries = std::min(p.queries, enough);
    return tree_can(p) && p.references >= 256 && 2 * k <= p.references && queries * queries * k >= enough * enough;
}

// f(std::integral_constant) of the width of a tree.
template <class Function>
void with_tree_width(int64_t width, const Function& f) {
    switch (width) {
        case 1:
            return f(std::integral_constant<int, 1>());
        case 2:
            return f(std::integral_constant<int, 2>());
        case 3:
            return f(std::integral_constant<int, 3>());
        case 4:
            return f(std::integral_constant<int, 4>());
        default:
            return f(std::integral_constant<int, 8>());
    }
}

// A batch's points of both sides, and the tree of the references.
template <class F, int W>
struct Planted {
    std::vector<F> queries;
    std::vector<uint32_t> order;  // of the queries: neighbours together; empty: as they stand
    TreeMemory<F, W> memory;
};
template <class F, int W, class T>
Planted<F, W> plant(const T* queries, const T* references, const Points& p, bool order_queries) {
    const bool within = queries == references && p.queries == p.references;
    std::vector<F> y = packed_points<F, W>(references, p.references, p.dim);
    std::vector<F> x = within ? std::vector<F>() : packed_points<F, W>(queries, p.queries, p.dim);
    std::vector<uint32_t> of_references, of_queries;
    if (!within && order_queries) {  // both at once
        parallel_for(0, 2, 1, [&](int64_t begin, int64_t end) {
            for (int64_t side = begin; side < end; ++side)
                if (side == 0)
                    of_references = MedianOrder<F, W>(y.data(), p.references, false).take();
                else
                    of_queries = MedianOrder<F, W>(x.data(), p.queries, false).take();
        });
    } else {
        of_references = MedianOrder<F, W>(y.data(), p.references, true).take();
        if (within) of_queries = of_references;
    }
    TreeMemory<F, W> memory(y, p.references, std::move(of_references));
    return {within ? std::move(y) : std::move(x), std::move(of_queries), std::move(memory)};
}

// use(rows [held], packed [held, W], held) for runs of queries, in parallel.
template <class F, int W, class Use>
void each_run(const Planted<F, W>& planted, int64_t queries, const Use& use) {
    constexpr int64_t kRun = 64;
    parallel_for(0, (queries + kRun - 1) / kRun, 1, [&](int64_t begin, int64_t end) {
        std::vector<F> packed(static_cast<size_t>(kRun * W));
        std::array<int64_t, kRun> rows;
        for (int64_t run = begin; run < end; ++run) {
            const int64_t first = run * kRun, held = std::min(kRun, queries - first);
            for (int64_t i = 0; i < held; ++i) {
                const int64_t row = planted.order.empty() ? first + i : planted.order[static_cast<size_t>(first + i)];
                rows[static_cast<size_t>(i)] = row;
                std::copy_n(planted.queries.data() + row * W, W, packed.data() + i * W);
            }
            use(rows.data(), packed.data(), held);
        }
    });
}

// One batch: done(row, keys, count) for every query, in parallel.
template <class F, class T, class Done>
void run_tree(const T* queries, const T* references, const Points& p, int64_t k, bool root, bool exclude_self,
              const Done& done) {
    using Key = typename KeyOf<F>::type;
    // Sixteen queries share a search where they lie within few leaves.
    const bool together = k <= kTreeSortedKeys && p.width <= kTogetherWidth && p.queries * 4 >= p.references;
    const auto body = together ? tree_together_body(F()) : tree_body(F());
    const int64_t capacity = k <= kTreeSortedKeys ? k : k + std::clamp<int64_t>(k, 4, 256);
    struct Context {
        const Done& done;
        const int64_t* rows;
    };
    with_tree_width(p.width, [&](auto width) {
        constexpr int W = decltype(width)::value;
        const Planted<F, W> planted = plant<F, W>(queries, references, p, together);
        const Tree<F> tree = planted.memory.tree();
        each_run(planted, p.queries, [&](const int64_t* rows, const F* packed, int64_t held) {
            std::vector<Key> keys(static_cast<size_t>(capacity));
            const Context context{done, rows};
            body({&tree, packed, exclude_self ? rows : nullptr, held, k, 0, root, keys.data(), capacity,
                  [](const void* c, int64_t row, Key* found, int64_t count) {
                      const auto& to = *static_cast<const Context*>(c);
                      to.done(to.rows[row], found, count);
                  },
                  &context});
        });
    });
}

}  // namespace gm
