// Threads: torch's own pool, so that torch.set_num_threads rules.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <torch/csrc/stable/ops.h>

#include "common/ear.h"

namespace gm {

inline int64_t num_threads() { return static_cast<int64_t>(torch::stable::get_num_threads()); }

// f(begin, end, part) over disjoint ranges that cover [begin, end), each of at least `grain` items (but for the last of
// a part). No two at a time have one part, of which there are at most num_threads(). f must not throw, and what a range
// computes may not depend on where the ranges were cut: where signals are to be heard, ranges are pieces of a few
// milliseconds, and all stop for them. Then it may throw itself.
template <class F>
inline void parallel_parts(int64_t begin, int64_t end, int64_t grain, const F& f) {
    if (begin >= end) return;
    const int64_t parts = std::min(num_threads(), (end - begin + grain - 1) / grain);
    const int64_t each = (end - begin + parts - 1) / parts;
    const auto last = [&](int64_t part) { return std::min(end, begin + (part + 1) * each); };
    Clock::time_point until;
    if (!has_ear(until))
        return torch::stable::parallel_for(0, parts, 1, [&](int64_t first_part, int64_t last_part) {
            for (int64_t part = first_part; part < last_part; ++part)
                if (begin + part * each < last(part)) f(begin + part * each, last(part), part);
        });

    const std::unique_ptr<int64_t[]> reached(new int64_t[static_cast<size_t>(parts)]);
    for (int64_t part = 0; part < parts; ++part) reached[static_cast<size_t>(part)] = begin + part * each;
    const auto go_on = [&](int64_t first_part, int64_t last_part) {
        for (int64_t part = first_part; part < last_part; ++part) {
            int64_t at = reached[static_cast<size_t>(part)];
            Clock::time_point now = Clock::now();
            for (int64_t size = grain; at < last(part) && now < until;) {
                const int64_t stop = std::min(last(part), at + size);
                f(at, stop, part);
                at = stop;
                const Clock::time_point then = now;
                now = Clock::now();
                if (now - then < std::chrono::milliseconds(1)) size *= 4;
            }
            reached[static_cast<size_t>(part)] = at;
        }
    };
    for (bool done = false; !done;) {
        torch::stable::parallel_for(0, parts, 1, go_on);
        hear();
        has_ear(until);
        done = true;
        for (int64_t part = 0; part < parts; ++part) done = done && reached[static_cast<size_t>(part)] >= last(part);
    }
}

// The same, for work that needs no part.
template <class F>
inline void parallel_for(int64_t begin, int64_t end, int64_t grain, const F& f) {
    parallel_parts(begin, end, grain, [&](int64_t from, int64_t to, int64_t) { f(from, to); });
}

}  // namespace gm
