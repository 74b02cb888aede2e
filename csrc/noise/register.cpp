// The noise contract's ops (docs/noise.md), and what the library says of itself.
#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY(gmkern, m) {
    // kind: 0 uniform, 1 normal, 2 gumbel; seed [] or [B], sample_ids [B], step [] or [B], all int64 -> [B, n]
    m.def("noise(Tensor seed, Tensor sample_ids, Tensor step, SymInt n, int stream, int kind, bool fp64) -> Tensor");
    // the instruction set in use: 0 baseline, 1 avx2, 2 avx512; whether CUDA kernels are in this library
    m.def("isa() -> int");
    m.def("has_cuda() -> bool");
}
