// The decode path's ops.
#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY_FRAGMENT(gmkern, m) {
    // logits [B, V]; params [1 or B, 6] fp64 in SampleParams' order; mask [B, V] bool; history [B, H], seed and step []
    // or [B], sample_ids [B] int64 -> tokens [B] int64, logprobs, raw_logprobs, log_kept_mass [B]
    m.def(
        "sample(Tensor logits, Tensor params, Tensor? mask, Tensor? history, Tensor seed, Tensor sample_ids, "
        "Tensor step) -> (Tensor, Tensor, Tensor, Tensor)");
    // tokens [B] int64 -> logprobs [B]; grad [B] -> d loss / d logits [B, V] in fp32 (fp64 logits: fp64)
    m.def("token_logprobs(Tensor logits, Tensor tokens, Tensor params, Tensor? mask, Tensor? history) -> Tensor");
    m.def(
        "token_logprobs_backward(Tensor grad, Tensor logits, Tensor tokens, Tensor params, Tensor? mask, "
        "Tensor? history) -> Tensor");
}
