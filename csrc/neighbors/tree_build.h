// The tree of boxes (tree.h): its construction by median splits, and the search of one batch in it.
#pragma once

#include <array>
#include <vector>

#include "neighbors/pack.h"
#include "neighbors/select.h"
#include "neighbors/tree.h"

namespace gm {

// The order of the points and the boxes over them. Splits depend on the points alone, and no result on the splits.
template <class F, int W>
class TreeMemory {
 public:
    template <class T>
    TreeMemory(const T* rows, int64_t count, int64_t dim) : count_(count), groups_((count + kGroup - 1) / kGroup) {
        records_.resize(static_cast<size_t>(count));
        parallel_for(0, count, kSmall * kGroup, [&](int64_t begin, int64_t end) {
            for (int64_t i = begin; i < end; ++i) {
                Record& r = records_[static_cast<size_t>(i)];
                for (int64_t d = 0; d < W; ++d) r.x[d] = d < dim ? static_cast<F>(rows[i * dim + d]) : F(0);
                r.index = static_cast<uint32_t>(i);
            }
        });
        order();
        pack();
        enclose();
        std::vector<Record>().swap(records_);
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
    struct Record {
        F x[W];
        uint32_t index;
    };
    struct Range {
        int64_t begin, end;  // groups
    };

    // The widest side of a sample, halved where whole nodes end.
    Range split(Range r) {
        int64_t unit = 1;
        while (unit * kGroup < r.end - r.begin) unit *= kGroup;
        const int64_t middle = r.begin + (r.end - r.begin + unit - 1) / unit / 2 * unit;
        Record* const points = records_.data();
        const int64_t first = r.begin * kGroup, last = std::min(r.end * kGroup, count_);
        std::array<F, W> least, most;
        std::copy_n(points[first].x, W, least.begin());
        most = least;
        for (int64_t i = first, step = std::max<int64_t>(1, (last - first) / 512); i < last; i += step)
            for (size_t d = 0; d < W; ++d) {
                least[d] = std::min(least[d], points[i].x[d]);
                most[d] = std::max(most[d], points[i].x[d]);
            }
        size_t side = 0;
        for (size_t d = 1; d < W; ++d)  // halves: the width of all finite numbers would overflow
            if (most[d] / 2 - least[d] / 2 > most[side] / 2 - least[side] / 2) side = d;
        std::nth_element(points + first, points + middle * kGroup, points + last,
                         [side](const Record& a, const Record& b) {  // copies lie in the order of their index
                             return a.x[side] < b.x[side] || (a.x[side] == b.x[side] && a.index < b.index);
                         });
        return {middle, r.end};
    }
    void order_within(Range r) {
        while (r.end - r.begin > 1) {
            const Range right = split(r);
            order_within({r.begin, right.begin});
            r = right;
        }
    }
    void order() {
        std::vector<Range> ranges{{0, groups_}};
        const auto enough = static_cast<size_t>(num_threads());  // halves are equal: one range for each
        for (int64_t longest = groups_; num_threads() > 1 && longest > 64 && ranges.size() < enough;
             longest = longest / 2 + 1) {
            const size_t had = ranges.size();
            ranges.resize(2 * had);
            parallel_for(0, static_cast<int64_t>(had), 1, [&](int64_t begin, int64_t end) {
                for (auto i = static_cast<size_t>(begin); i < static_cast<size_t>(end); ++i) {
                    Range& left = ranges[i];
                    ranges[had + i] = {left.end, left.end};
                    if (left.end - left.begin < 2) continue;
                    ranges[had + i] = split(left);
                    left.end = ranges[had + i].begin;
                }
            });
        }
        parallel_for(0, static_cast<int64_t>(ranges.size()), 1, [&](int64_t begin, int64_t end) {
            for (int64_t i = begin; i < end; ++i) order_within(ranges[static_cast<size_t>(i)]);
        });
    }
    void pack() {
        points_.resize(static_cast<size_t>(groups_ * W * kGroup));
        index_.resize(static_cast<size_t>(groups_ * kGroup));
        parallel_for(0, groups_, kSmall, [&](int64_t begin, int64_t end) {
            for (int64_t i = begin * kGroup; i < end * kGroup; ++i) {
                const Record& r = records_[static_cast<size_t>(std::min(i, count_ - 1))];
                for (int64_t d = 0; d < W; ++d)
                    points_[static_cast<size_t>((i / kGroup * W + d) * kGroup + i % kGroup)] = r.x[d];
                index_[static_cast<size_t>(i)] = r.index;
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
    std::vector<Record> records_;
    std::vector<F> points_;
    std::vector<uint32_t> index_;
    std::vector<std::vector<F>> boxes_;
    std::vector<std::vector<uint32_t>> firsts_;
};

inline void (*tree_body(float))(const TreeSearch<float>&) { return GM_CALL_ISA(tree_search_fp32); }
inline void (*tree_body(double))(const TreeSearch<double>&) { return GM_CALL_ISA(tree_search_fp64); }

inline bool tree_can(const Points& p) { return p.width <= kTreeWidth; }
// Whether building pays (measured): about 350 queries at k = 1, 35 at k = 100.
inline bool tree_pays(const Points& p, int64_t k) {
    const int64_t queries = std::min<int64_t>(p.queries, 350);
    return tree_can(p) && p.references >= 256 && 2 * k <= p.references && queries * queries * k >= 350 * 350;
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

// use(rows [held], packed [held, W], held) for runs of queries, in parallel: those of the tree's own set in its order,
// where neighbours are cached.
template <class F, int W, class T, class Use>
void each_run(const T* queries, const Points& p, const Tree<F>& tree, bool within, const Use& use) {
    constexpr int64_t kRun = 64;
    parallel_for(0, (p.queries + kRun - 1) / kRun, 1, [&](int64_t begin, int64_t end) {
        std::vector<F> packed(static_cast<size_t>(kRun * W));
        std::array<int64_t, kRun> rows;
        for (int64_t run = begin; run < end; ++run) {
            const int64_t first = run * kRun, held = std::min(kRun, p.queries - first);
            for (int64_t i = 0; i < held; ++i) {
                const int64_t row = within ? tree.index[first + i] : first + i;
                rows[static_cast<size_t>(i)] = row;
                pack_rows(packed.data() + i * W, queries, row, row + 1, 1, p.dim, W);
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
    const bool within = queries == references && p.queries == p.references;
    const auto body = tree_body(F());
    const int64_t capacity = k <= kTreeSortedKeys ? k : k + std::clamp<int64_t>(k, 4, 256);
    struct Context {
        const Done& done;
        const int64_t* rows;
    };
    with_tree_width(p.width, [&](auto width) {
        constexpr int W = decltype(width)::value;
        const TreeMemory<F, W> memory(references, p.references, p.dim);
        const Tree<F> tree = memory.tree();
        each_run<F, W>(queries, p, tree, within, [&](const int64_t* rows, const F* packed, int64_t held) {
            std::vector<Key> keys(static_cast<size_t>(capacity));
            const Context context{done, rows};
            body({&tree, packed, exclude_self ? rows : nullptr, held, k, root, keys.data(), capacity,
                  [](const void* c, int64_t row, Key* found, int64_t count) {
                      const auto& to = *static_cast<const Context*>(c);
                      to.done(to.rows[row], found, count);
                  },
                  &context});
        });
    });
}

}  // namespace gm
