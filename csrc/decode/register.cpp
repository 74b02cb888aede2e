// The decode path's ops.
#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY_FRAGMENT(gmkern, m) {
    // logits [B, V]; params [1 or B, 10] fp64 in SampleParams' order; mask [B, V] bool; history [B, H], seed and step
    // [] or [B], sample_ids [B] int64 -> tokens [B] int64, logprobs, raw_logprobs, log_kept_mass [B]
    m.def(
        "sample(Tensor logits, Tensor params, Tensor? mask, Tensor? history, Tensor seed, Tensor sample_ids, "
        "Tensor step) -> (Tensor, Tensor, Tensor, Tensor)");
    // tokens [B] int64 -> logprobs [B]; grad [B] -> d loss / d logits [B, V] in fp32 (fp64 logits: fp64)
    m.def("token_logprobs(Tensor logits, Tensor tokens, Tensor params, Tensor? mask, Tensor? history) -> Tensor");
    m.def(
        "token_logprobs_backward(Tensor grad, Tensor logits, Tensor tokens, Tensor params, Tensor? mask, "
        "Tensor? history) -> Tensor");
    // tokens [B] int64 -> logprobs, raw_logprobs, log_kept_mass, entropy (0 where not asked for), each [B]
    m.def(
        "score_tokens(Tensor logits, Tensor tokens, Tensor params, Tensor? mask, Tensor? history, bool entropy) -> "
        "(Tensor, Tensor, Tensor, Tensor)");
    m.def(
        "score_tokens_backward(Tensor grad_logprobs, Tensor grad_raw, Tensor grad_entropy, Tensor logits, "
        "Tensor tokens, Tensor params, Tensor? mask, Tensor? history) -> Tensor");
    // q [B, Tq, Hq, D] fp32; keys, values [pages, page_size, Hkv, D] fp32, bf16, fp16 or int8; lengths [B] int32;
    // page_table [B, n] int32 (none: row b is page b); scales [pages, page_size, Hkv] fp32 for int8; slopes [Hq] fp32;
    // window 0: all; softcap 0: none -> out [B, Tq, Hq, D], lse [B, Tq, Hq]
    m.def(
        "attention(Tensor q, Tensor keys, Tensor values, Tensor lengths, Tensor? page_table, Tensor? key_scale, "
        "Tensor? value_scale, Tensor? slopes, int window, float softcap, float scale) -> (Tensor, Tensor)");
    // -> [1] int64, another where a byte of the tensors is another
    m.def("fingerprint(Tensor[] tensors) -> Tensor");
    // The parameters in the order of gmkern/decode/transformer/packed.py, fp32 -> [size]; shape: transformer_ops.h
    m.def("pack_transformer(Tensor[] weights, int[] shape) -> Tensor");
    m.def("packed_transformer_size(int[] shape) -> int");
    // tokens, slots, positions [R], wanted [Q] int64: adds each token to its slot's cache -> logits [Q, V]
    m.def(
        "transformer_logits(Tensor packed, Tensor turns, Tensor(a!) cache, Tensor tokens, Tensor slots, "
        "Tensor positions, Tensor wanted, int[] shape, float[] reals) -> Tensor");
    // the same, but the last norms [Q, width], of which transformer_head makes the logits, to the bit
    m.def(
        "transformer_hidden(Tensor packed, Tensor turns, Tensor(a!) cache, Tensor tokens, Tensor slots, "
        "Tensor positions, Tensor wanted, int[] shape, float[] reals) -> Tensor");
    m.def("transformer_head(Tensor packed, Tensor hidden, int[] shape, float[] reals) -> Tensor");
    // up to `steps` steps of all slots; slots [S, 3]: row (-1: free), tokens cached, and those of its twin; progress
    // [4]: next row, rows done, a row that could not be drawn for or -1, its SampleFlaw; params [N, 10] fp64 as for
    // sample; order [N]: rows as they were done; prefix_cache [G, layers, kv_heads, P, ...]: caches of beginnings that
    // rows share, prefix_of [N] the one of each row or -1, prefix_lengths [G] how many tokens each holds, fewer than
    // its rows' prompts; side_prompts, side_ptr [N + 1], scale [N] fp32: guidance's unconditional prompts, whose caches
    // stand S slots on, or all empty
    m.def(
        "generate_steps(Tensor packed, Tensor turns, Tensor(a!) cache, Tensor prompts, Tensor prompt_ptr, "
        "Tensor end_tokens, Tensor seed, Tensor sample_ids, Tensor params, Tensor(b!) slots, Tensor(c!) progress, "
        "Tensor(d!) tokens, Tensor(e!) lengths, "
        "Tensor(f!) logprobs, Tensor(g!) raw_logprobs, Tensor(h!) log_kept_mass, Tensor(i!) finished, Tensor(j!) "
        "order, Tensor prefix_cache, "
        "Tensor prefix_of, Tensor prefix_lengths, Tensor side_prompts, Tensor side_ptr, Tensor scale, SymInt steps, "
        "int[] shape, float[] reals) -> ()");
}
