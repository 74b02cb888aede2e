// Points in an order in which sixteen that follow each other lie close together: that of a k-d tree.
#pragma once

#include <algorithm>
#include <numeric>
#include <vector>

#include "neighbors/pack.h"
#include "neighbors/tree.h"

namespace gm {

// Points as columns of their coordinates, dim padded to W with 0, and the row that each was.
template <class F, int W>
class OrderedPoints {
 public:
    OrderedPoints() = default;
    template <class T>
    OrderedPoints(const T* rows, int64_t count, int64_t dim)
        : values_(static_cast<size_t>(2 * W * count), F(0)), index_(static_cast<size_t>(2 * count)), count_(count) {
        parallel_for(0, count, 1 << 15, [&](int64_t begin, int64_t end) {
            for (int64_t i = begin; i < end; ++i)
                for (int64_t d = 0; d < dim; ++d)
                    values_[static_cast<size_t>(d * count + i)] = static_cast<F>(rows[i * dim + d]);
            std::iota(index_.begin() + begin, index_.begin() + end, static_cast<uint32_t>(begin));
        });
    }
    // Compact groups of sixteen, in each of several sets of points.
    static void put_in_order(OrderedPoints* sets, size_t count);

    bool empty() const { return count_ == 0; }
    int64_t count() const { return count_; }
    const F* column(int64_t d) const { return values_.data() + d * count_; }
    const uint32_t* index() const { return index_.data(); }

 private:
    TreeOrder<F> order() {
        TreeOrder<F> o{{}, index_.data(), {}, index_.data() + count_, count_, W};
        for (int d = 0; d < W; ++d) {
            o.columns[d] = values_.data() + d * count_;
            o.spare[d] = values_.data() + (W + d) * count_;
        }
        return o;
    }
    void drop_spare() {
        values_.resize(static_cast<size_t>(W * count_));
        values_.shrink_to_fit();
        index_.resize(static_cast<size_t>(count_));
        index_.shrink_to_fit();
    }

    std::vector<F> values_;
    std::vector<uint32_t> index_;
    int64_t count_ = 0;
};

inline auto tree_halve(float) { return GM_CALL_ISA(tree_halve_fp32); }
inline auto tree_halve(double) { return GM_CALL_ISA(tree_halve_fp64); }
inline auto tree_order(float) { return GM_CALL_ISA(tree_order_fp32); }
inline auto tree_order(double) { return GM_CALL_ISA(tree_order_fp64); }

template <class F, int W>
void OrderedPoints<F, W>::put_in_order(OrderedPoints* sets, size_t count) {
    struct Range {
        size_t set;
        int64_t begin, end;  // groups
    };
    const auto halve = tree_halve(F());
    const auto order = tree_order(F());
    std::vector<TreeOrder<F>> orders;
    std::vector<Range> ranges;
    int64_t longest = 0;
    for (size_t i = 0; i < count; ++i) {
        orders.push_back(sets[i].order());
        ranges.push_back({i, 0, (sets[i].count_ + kGroup - 1) / kGroup});
        longest = std::max(longest, ranges.back().end);
    }
    const auto each = [&](const auto& f) {
        parallel_for(0, static_cast<int64_t>(ranges.size()), 1, [&](int64_t begin, int64_t end) {
            for (int64_t i = begin; i < end; ++i) f(ranges[static_cast<size_t>(i)], i);
        });
    };
    // Ranges for every thread, and short ones, since each is ordered in one go. All of one length: halves are equal.
    constexpr int64_t kLongest = 1 << 13;
    for (; longest > kLongest || (longest > 64 && ranges.size() < static_cast<size_t>(num_threads()));
         longest = longest / 2 + 1) {
        std::vector<Range> right(ranges.size());
        each([&](Range& left, int64_t i) {
            Range& rest = right[static_cast<size_t>(i)] = left;
            rest.begin = left.end - left.begin > 1 ? halve(orders[left.set], left.begin, left.end) : left.end;
            left.end = rest.begin;
        });
        ranges.insert(ranges.end(), right.begin(), right.end());
    }
    each([&](const Range& r, int64_t) { order(orders[r.set], r.begin, r.end); });
    for (size_t i = 0; i < count; ++i) sets[i].drop_spare();
}

}  // namespace gm
