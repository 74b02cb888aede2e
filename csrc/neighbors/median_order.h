// The order of points in space: ranges are halved at the median of their widest side, down to groups of sixteen.
#pragma once

#include <algorithm>
#include <array>
#include <vector>

#include "neighbors/pack.h"
#include "neighbors/select.h"

namespace gm {

inline uint32_t order_bits(float x) { return bit_cast<uint32_t>(in_order(x)); }
inline uint64_t order_bits(double x) { return bit_cast<uint64_t>(in_order(x)); }

// Every side is sorted once, by counting; a range that is split at one side then keeps the order of the others by a
// stable partition, without a branch. Equal coordinates stand in the order of their index.
template <class F, int W>
class MedianOrder {
 public:
    // rows [count, W]; threads: whether several may work on it
    MedianOrder(const F* rows, int64_t count, bool threads)
        : rows_(rows), count_(count), groups_((count + kGroup - 1) / kGroup), threads_(threads) {
        const auto n = static_cast<size_t>(count);
        for (size_t d = 0; d < W; ++d) {
            by_side_[d].resize(n);
            rank_[d].resize(n);
        }
        spare_.resize(n);
        each(W, [&](int64_t d) { sort_side(static_cast<size_t>(d)); });
        halve();
        index_.swap(by_side_[0]);
    }
    // The points' numbers, sixteen to a group.
    std::vector<uint32_t> take() { return std::move(index_); }

 private:
    struct Range {
        int64_t begin, end;  // groups
    };

    template <class Function>
    void each(int64_t count, const Function& f) {
        const auto some = [&](int64_t begin, int64_t end) {
            for (int64_t i = begin; i < end; ++i) f(i);
        };
        threads_ ? parallel_for(0, count, 1, some) : some(0, count);
    }

    void sort_side(size_t side) {
        using Bits = decltype(order_bits(F()));
        struct Entry {
            Bits bits;
            uint32_t index;
        };
        constexpr int kDigit = 11, kPasses = (sizeof(Bits) * 8 + kDigit - 1) / kDigit;
        constexpr size_t kDigits = size_t(1) << kDigit;
        const auto n = static_cast<size_t>(count_);
        std::vector<Entry> from(n), to(n);
        std::vector<std::array<uint32_t, kDigits>> starts(kPasses);
        for (auto& s : starts) s.fill(0);
        for (size_t i = 0; i < n; ++i) {
            const Bits bits = order_bits(rows_[i * W + side] + F(0));  // -0 is 0
            from[i] = {bits, static_cast<uint32_t>(i)};
            for (int pass = 0; pass < kPasses; ++pass)
                ++starts[static_cast<size_t>(pass)][(bits >> (pass * kDigit)) % kDigits];
        }
        for (int pass = 0; pass < kPasses; ++pass) {
            auto& start = starts[static_cast<size_t>(pass)];
            uint32_t next = 0;
            for (uint32_t& s : start) next += std::exchange(s, next);
            for (const Entry& e : from) to[start[(e.bits >> (pass * kDigit)) % kDigits]++] = e;
            from.swap(to);
        }
        for (size_t i = 0; i < n; ++i) {
            by_side_[side][i] = from[i].index;
            rank_[side][from[i].index] = static_cast<uint32_t>(i);
        }
    }

    // Halved where whole nodes end.
    Range split(Range r) {
        int64_t unit = 1;
        while (unit * kGroup < r.end - r.begin) unit *= kGroup;
        const int64_t middle = r.begin + (r.end - r.begin + unit - 1) / unit / 2 * unit;
        const int64_t first = r.begin * kGroup, at = middle * kGroup, last = std::min(r.end * kGroup, count_);
        size_t side = 0;
        F widest = -1;
        for (size_t d = 0; d < W; ++d) {  // halves: the width of all finite numbers would overflow
            const F width = rows_[by_side_[d][static_cast<size_t>(last - 1)] * W + d] / 2 -
                            rows_[by_side_[d][static_cast<size_t>(first)] * W + d] / 2;
            if (width > widest) {
                widest = width;
                side = d;
            }
        }
        const uint32_t* rank = rank_[side].data();
        const uint32_t pivot = rank[by_side_[side][static_cast<size_t>(at)]];
        for (size_t d = 0; d < W; ++d) {
            if (d == side) continue;
            uint32_t *points = by_side_[d].data(), *right = spare_.data() + first;
            uint32_t *left = points + first, *const end = right;
            for (int64_t i = first; i < last; ++i) {
                const uint32_t point = points[i];
                const bool goes_left = rank[point] < pivot;
                *left = point;
                *right = point;
                left += goes_left;
                right += !goes_left;
            }
            std::copy(end, right, left);
        }
        return {middle, r.end};
    }
    void halve_within(Range r) {
        while (r.end - r.begin > 1) {
            const Range right = split(r);
            halve_within({r.begin, right.begin});
            r = right;
        }
    }
    void halve() {
        std::vector<Range> ranges{{0, groups_}};
        const auto enough = threads_ ? static_cast<size_t>(num_threads()) : 1;  // halves are equal: one range for each
        for (int64_t longest = groups_; longest > 64 && ranges.size() < enough; longest = longest / 2 + 1) {
            const size_t had = ranges.size();
            ranges.resize(2 * had);
            each(static_cast<int64_t>(had), [&](int64_t at) {
                const auto i = static_cast<size_t>(at);
                Range& left = ranges[i];
                ranges[had + i] = {left.end, left.end};
                if (left.end - left.begin < 2) return;
                ranges[had + i] = split(left);
                left.end = ranges[had + i].begin;
            });
        }
        each(static_cast<int64_t>(ranges.size()), [&](int64_t i) { halve_within(ranges[static_cast<size_t>(i)]); });
    }

    const F* rows_;
    int64_t count_, groups_;
    bool threads_;
    std::array<std::vector<uint32_t>, W> by_side_, rank_;  // points by rank, ranks by point
    std::vector<uint32_t> spare_, index_;
};

}  // namespace gm
