// What the library says of itself: the data behind gmkern.info().
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <cstdint>

#include "common/isa.h"

namespace gm {
namespace {

int64_t isa_in_use() { return static_cast<int64_t>(isa()); }
int64_t isa_supported() { return static_cast<int64_t>(best_isa()); }

bool has_cuda() {
#if defined(GM_WITH_CUDA)
    return true;
#else
    return false;
#endif
}

}  // namespace
}  // namespace gm

STABLE_TORCH_LIBRARY_FRAGMENT(gmkern, m) {
    // instruction sets: 0 baseline, 1 avx2, 2 avx512; the one in use, and the best that this processor has
    m.def("isa() -> int");
    m.def("best_isa() -> int");
    // whether CUDA kernels are in this library
    m.def("has_cuda() -> bool");
}

STABLE_TORCH_LIBRARY_IMPL(gmkern, CompositeExplicitAutograd, m) {
    m.impl("isa", TORCH_BOX(&gm::isa_in_use));
    m.impl("best_isa", TORCH_BOX(&gm::isa_supported));
    m.impl("has_cuda", TORCH_BOX(&gm::has_cuda));
}
