// Systems over threads: each worker takes the next system, so ragged batches balance; what a system computes does not
// depend on who computes it.
#pragma once

#include <atomic>

#include "common/check.h"
#include "common/parallel.h"

namespace gm {

// f(system, scratch) for each system; a worker's scratch is `scratch_size` numbers of R.
template <class R, class F>
void for_each_system(int64_t systems, int64_t scratch_size, ScalarType dtype, const F& f) {
    const int64_t workers = systems < num_threads() ? systems : num_threads();
    if (workers <= 0) return;
    scratch_size = (scratch_size + 63) / 64 * 64;
    Tensor scratch = torch::stable::empty({workers * scratch_size}, dtype);
    R* memory = scratch.mutable_data_ptr<R>();
    std::atomic<int64_t> next{0};
    parallel_for(0, workers, 1, [&](int64_t begin, int64_t end) {
        for (int64_t worker = begin; worker < end; ++worker)
            for (int64_t s = next++; s < systems; s = next++) f(s, memory + worker * scratch_size);
    });
}

}  // namespace gm
