"""The kernel of whole steps, compiled for GPUs with no GPU: in budget, its products those of kernels of one op."""

from __future__ import annotations

import pytest

from tests.aot.compiling import ARCHITECTURES, compile_triton, products

FLOATS = (
    *("norm_weight", "norm_bias", "head_scale", "turns", "x", "qkv", "queries", "attended", "hidden", "made", "logits"),
    *("logprobs", "raws", "kepts"),
)
IDS = ("table", "seeds", "sample_ids", "ends", "step", "token", "tokens")
WORDS = ("windows", "slots", "state", "position")
FLAGS = (
    *("GATED", "PARALLEL", "POST", "HEAD_NORMED", "LEARNED", "QKV_BIASED", "OUT_BIASED", "BIASED", "SCALED"),
    *("HEAD_SCALED", "CAPPED", "NARROW", "HEAD_NARROW"),
)
SHAPES = {  # weights, width, heads, key heads, width of the MLP, tokens, norm, activation, what is on
    "gpt2": ("fp32", 128, 4, 4, 512, 512, "layernorm", "gelu_tanh", ("LEARNED", "QKV_BIASED", "OUT_BIASED", "BIASED")),
    "qwen3": ("bf16", 256, 4, 2, 768, 1000, "rmsnorm", "silu", ("GATED", "HEAD_NORMED", "NARROW", "HEAD_NARROW")),
}


@pytest.mark.parametrize(
    ("name", "architecture"),
    [*(("gpt2", architecture) for architecture in ARCHITECTURES), ("qwen3", 90)],
)
def test_whole_steps(name, architecture):
    pytest.importorskip("triton")
    import triton.language as tl

    from gmkern.decode.attention.triton_kernels import tiles_of
    from gmkern.decode.generate.resident import STAGES, WARPS, tile
    from gmkern.decode.generate.triton_steps import steps_kernel
    from gmkern.decode.transformer.triton_kernels import blocks

    weights, width, heads, key_heads, hidden, vocab, norm, activation, on = SHAPES[name]
    size, dim, parts = {"fp32": 4, "bf16": 2}[weights], width // heads, 2 if "GATED" in on else 1
    constants = {
        "WIDTH": width, "HEADS": heads, "KEY_HEADS": key_heads, "DIM": dim, "TURNED": 0 if "LEARNED" in on else dim,
        "HIDDEN": hidden, "VOCAB": vocab, "NORM": norm, "EPS": 1e-5, "ACTIVATION": activation,
        "WEIGHT": tl.float32 if weights == "fp32" else tl.bfloat16, "CAP": 0.0,
        "QKV": tile(width, (heads + 2 * key_heads) * dim, size), "OUT": tile(heads * dim, width, size),
        "UP": tile(width, hidden, size * parts), "DOWN": tile(hidden, width, size), "LAST": tile(width, vocab, size),
        "BLOCK": blocks(width, width, 4)["I"], "PARAMS": 10, **tiles_of(dim), **{flag: flag in on for flag in FLAGS},
    }  # fmt: skip
    types = dict.fromkeys(FLOATS, "*fp32") | dict.fromkeys(IDS, "*i64") | dict.fromkeys(WORDS, "*i32")
    types |= dict.fromkeys(("embedding", "places", "head", "keys", "values"), f"*{weights}")
    compiled = compile_triton(
        steps_kernel,
        architecture,
        types=types | {"packed": "*fp64", "layer_stride": "i64", "softcap": "fp32", "scale": "fp32"},
        constants=constants,
        aligned=(*FLOATS, "embedding", "places", "head", "keys", "values", "layer_stride"),
        num_warps=WARPS,
        num_stages=STAGES,
        enable_fp_fusion=False,
    )
    # One program a multiprocessor, of as many registers as there are: a step's addresses and rows' numbers live through
    # all its phases, and about a hundred words of them wait in local memory, where the phases' loops leave them
    assert compiled.registers <= 255
    assert compiled.spilled <= 704
    assert compiled.shared <= 48 * 1024  # a phase's blocks of weights, or of keys and values, on their way
    if architecture == 90:
        assert_products_of_one_op(products(compiled.ttgir), weights, width, heads * dim, dim)


def assert_products_of_one_op(found, weights, width, outputs, dim):
    from gmkern.decode.attention.triton_kernels import WARPS, attention_kernel, tiles_of
    from gmkern.decode.transformer import triton_kernels as kernels
    from tests.aot import test_attention, test_transformer

    flags = dict.fromkeys(("GATED", "BIASED", "SCALED", "ADDED", "PAGED", "ALIBI", "CAPPED"), False)
    linear = {"NORM": "layernorm", "EPS": 1e-5, "ACTIVATION": "none", "CAP": 0.0, "NARROW": weights == "bf16"}
    linear |= {"INPUTS": width, "OUTPUTS": outputs} | kernels.blocks(width, outputs, 4 if weights == "fp32" else 2)
    one_op = {}
    for kernel, types, constants, warps in (
        (kernels.linear_kernel, test_transformer.types(weights), linear, kernels.WARPS),
        (attention_kernel, test_attention.types(weights), {"FOLDED": True} | tiles_of(dim), WARPS),
    ):
        mine = {flag: flags[flag] for flag in flags if flag in kernel.arg_names}
        alone = compile_triton(
            kernel, 90, types=types, constants=mine | constants, num_warps=warps, enable_fp_fusion=False
        )
        for (terms, outputs_of, kind), ways in products(alone.ttgir).items():
            one_op.setdefault((terms, outputs_of == 8, kind), set()).update(ways)
    steps = {}
    for (terms, outputs_of, kind), ways in found.items():
        steps.setdefault((terms, outputs_of == 8, kind), set()).update(ways)  # eight: a row's sum
    assert len(one_op) >= 4
    for sums, ways in one_op.items():
        assert steps[sums] == ways, sums
