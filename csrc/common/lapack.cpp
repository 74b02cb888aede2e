// LAPACK, through PyTorch: one call takes seconds for a large matrix, and cannot be stopped. So where Python wishes to
// be heard it runs in a thread of its own, which knows no Python, while this one waits and hears. Where a handler
// raises, the wait ends; the thread runs to the end of its call, and what it found is freed.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <future>
#include <string>
#include <thread>
#include <tuple>
#include <utility>
#include <vector>

#include "common/ear.h"

namespace gm {
namespace {

using torch::stable::Tensor;
using Pair = std::tuple<Tensor, Tensor>;

// An op of PyTorch's that gives two tensors.
Pair two_of(const char* op, std::vector<StableIValue> stack) {
    STABLE_TORCH_ERROR_CODE_CHECK(torch_call_dispatcher(op, "", stack.data(), TORCH_ABI_VERSION));
    return {torch::stable::detail::to<Tensor>(stack[0]), torch::stable::detail::to<Tensor>(stack[1])};
}

Pair heard(const char* op, std::vector<StableIValue> stack) {
    Clock::time_point until;
    if (!has_ear(until)) return two_of(op, std::move(stack));
    std::packaged_task<Pair()> task([op, stack = std::move(stack)]() mutable { return two_of(op, std::move(stack)); });
    std::future<Pair> found = task.get_future();
    std::thread(std::move(task)).detach();
    while (found.wait_for(std::chrono::milliseconds(20)) != std::future_status::ready) hear();
    return found.get();
}

Pair symmetric_eigen(Tensor matrix, bool vectors) {
    using torch::stable::detail::from;
    return heard("aten::_linalg_eigh", {from(matrix), from(std::string("L")), from(vectors)});
}

Pair cholesky(Tensor matrix) {
    using torch::stable::detail::from;
    return heard("aten::linalg_cholesky_ex", {from(matrix), from(false), from(false)});
}

}  // namespace
}  // namespace gm

STABLE_TORCH_LIBRARY_FRAGMENT(gmkern, m) {
    // of symmetric matrices, by their lower triangles: eigenvalues that ascend, and eigenvectors as columns (none where
    // not asked for)
    m.def("symmetric_eigen(Tensor matrix, bool vectors) -> (Tensor, Tensor)");
    // the lower factor, and 0 where there is one
    m.def("cholesky(Tensor matrix) -> (Tensor, Tensor)");
}

STABLE_TORCH_LIBRARY_IMPL(gmkern, CompositeExplicitAutograd, m) {
    m.impl("symmetric_eigen", TORCH_BOX(&gm::symmetric_eigen));
    m.impl("cholesky", TORCH_BOX(&gm::cholesky));
}
