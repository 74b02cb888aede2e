// Chains of classical models (docs/classical.md).
#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY_FRAGMENT(gmkern, m) {
    // weight [H, V], biases [V] and [H], visible [B, V] of 0 and 1, all fp32; seed [] or [B], sample_ids [B],
    // first_step
    // [] int64 -> visible [B, V], hidden [B, H] after `steps` sweeps of both layers
    m.def(
        "gibbs_chain(Tensor weight, Tensor visible_bias, Tensor hidden_bias, Tensor visible, Tensor seed, "
        "Tensor sample_ids, Tensor first_step, int steps) -> (Tensor, Tensor)");
}
