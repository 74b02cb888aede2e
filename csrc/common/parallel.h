// Threads: torch's own pool, so that torch.set_num_threads rules.
#pragma once

#include <cstdint>
#include <torch/csrc/stable/ops.h>

namespace gm {

// f(begin, end) over disjoint ranges that cover [begin, end), each of at least `grain` items. f must not throw.
// What a range computes may not depend on where the ranges were cut.
template <class F>
inline void parallel_for(int64_t begin, int64_t end, int64_t grain, const F& f) {
    if (begin >= end) return;
    torch::stable::parallel_for(begin, end, grain, f);
}

inline int64_t num_threads() { return static_cast<int64_t>(torch::stable::get_num_threads()); }

}  // namespace gm
