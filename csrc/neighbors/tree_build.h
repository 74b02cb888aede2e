// The tree of boxes (tree.h): its construction from an order of the points, and the search of one batch in it.
#pragma once

#include <array>
#include <vector>

#include "neighbors/median_order.h"
#include "neighbors/select.h"
#include "neighbors/tree.h"

namespace gm {

// Ordered points in groups, and the boxes over them. No result depends on the order.
template <class F, int W>
class TreeMemory {
 public:
    explicit TreeMemory(const OrderedPoints<F, W>& ordered)
        : count_(ordered.count()),
          groups_((count_ + kGroup - 1) / kGroup),
          index_(ordered.index(), ordered.index() + count_) {
        index_.resize(static_cast<size_t>(groups_ * kGroup), index_.back());
        pack(ordered);
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
    void pack(const OrderedPoints<F, W>& ordered) {
        points_.resize(static_cast<size_t>(groups_ * W * kGroup));
        parallel_for(0, groups_, kSmall, [&](int64_t begin, int64_t end) {
            for (int64_t group = begin; group < end; ++group) {
                const int64_t held = std::min(kGroup, count_ - group * kGroup);
                for (int64_t d = 0; d < W; ++d) {
                    const F* from = ordered.column(d) + group * kGroup;
                    F* to = points_.data() + (group * W + d) * kGroup;
                    std::fill(std::copy_n(from, held, to), to + kGroup, from[held - 1]);
                }
            }
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

// The tree of a batch's references, and its queries where they are put in order as well: neighbours together.
template <class F, int W>
struct Planted {
    OrderedPoints<F, W> queries;  // empty: as they stand
    TreeMemory<F, W> memory;
};
template <class F, int W, class T>
Planted<F, W> plant(const T* queries, const T* references, const Points& p, bool order_queries) {
    const bool within = queries == references && p.queries == p.references;
    std::array<OrderedPoints<F, W>, 2> sets{OrderedPoints<F, W>(references, p.references, p.dim), {}};
    if (!within && order_queries) sets[1] = OrderedPoints<F, W>(queries, p.queries, p.dim);
    OrderedPoints<F, W>::put_in_order(sets.data(), sets[1].empty() ? 1 : 2);
    TreeMemory<F, W> memory(sets[0]);
    return {std::move(sets[within ? 0 : 1]), std::move(memory)};
}

// use(rows [held], packed [held, W], held) for runs of queries, in parallel.
template <class F, int W, class T, class Use>
void each_run(const Planted<F, W>& planted, const T* queries, const Points& p, const Use& use) {
    constexpr int64_t kRun = 64;
    const OrderedPoints<F, W>& ordered = planted.queries;
    parallel_for(0, (p.queries + kRun - 1) / kRun, 1, [&](int64_t begin, int64_t end) {
        std::array<F, kRun * W> packed;
        std::array<int64_t, kRun> rows;
        for (int64_t run = begin; run < end; ++run) {
            const int64_t first = run * kRun, held = std::min(kRun, p.queries - first);
            if (ordered.empty()) {
                std::iota(rows.begin(), rows.end(), first);
                pack_rows(packed.data(), queries, first, first + held, held, p.dim, W);
            } else {
                std::copy_n(ordered.index() + first, held, rows.data());
                for (int64_t d = 0; d < W; ++d)
                    for (int64_t i = 0; i < held; ++i)
                        packed[static_cast<size_t>(i * W + d)] = ordered.column(d)[first + i];
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
    // Sixteen queries share a search where they lie within few leaves. Alone, queries in order pay where the tree is
    // past the caches (measured: 10 neighbours of 300,000 points in space take 0.7 of the time, of 50,000 1.1).
    const bool dense = p.queries * 4 >= p.references;
    const bool together = k <= kTreeSortedKeys && p.width <= kTogetherWidth && dense;
    const bool order_queries = together || (dense && p.references >= int64_t(1) << 18);
    const auto body = together ? tree_together_body(F()) : tree_body(F());
    const int64_t capacity = k <= kTreeSortedKeys ? k : k + std::clamp<int64_t>(k, 4, 256);
    struct Context {
        const Done& done;
        const int64_t* rows;
    };
    with_tree_width(p.width, [&](auto width) {
        constexpr int W = decltype(width)::value;
        const Planted<F, W> planted = plant<F, W>(queries, references, p, order_queries);
        const Tree<F> tree = planted.memory.tree();
        each_run(planted, queries, p, [&](const int64_t* rows, const F* packed, int64_t held) {
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
