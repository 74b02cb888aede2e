// The noise contract's ops (docs/noise.md).
#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY(gmkern, m) {
    // kind: 0 uniform, 1 normal, 2 gumbel; seed [] or [B], sample_ids [B], step [] or [B], all int64 -> [B, n]
    m.def("noise(Tensor seed, Tensor sample_ids, Tensor step, SymInt n, int stream, int kind, bool fp64) -> Tensor");
}
