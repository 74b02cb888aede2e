// Sets of training points (docs/context.md).
#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY_FRAGMENT(gmkern, m) {
    // train [M, ...] of any dtype, seed [] or [n], sample_ids [n] int64
    // -> points [n, size, ...], indices [n, size] int64
    m.def("draw_sets(Tensor train, Tensor seed, Tensor sample_ids, SymInt size) -> (Tensor, Tensor)");
}
