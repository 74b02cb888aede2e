// Noise through a network (docs/latent.md).
#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY_FRAGMENT(gmkern, m) {
    // seed [] or [n], sample_ids [n] int64; layer l: weights[l] [out, in], biases[l] [out] fp32, an activation
    // (latent.h) and its slope -> [n, out of the last layer]
    m.def(
        "latent_mlp(Tensor seed, Tensor sample_ids, Tensor[] weights, Tensor[] biases, int[] activations, "
        "float[] slopes) -> Tensor");
}
