"""The kernels of a transformer's step, compiled for GPUs with no GPU: in budget, products on tensor cores."""

from __future__ import annotations

import pytest

from tests.aot.compiling import ARCHITECTURES, compile_triton

FLOATS = (
    *("x", "norm_weight", "norm_bias", "bias", "scale", "gate_bias", "gate_scale", "out"),
    *("qkv", "q_norm", "k_norm", "turns", "queries", "drawn_logprob", "drawn_raw", "drawn_kept"),
    *("logprobs", "raws", "kepts"),
)
IDS = ("tokens", "drawn", "ends", "step", "token", "history")
PLACES = ("firsts", "slots", "state", "position")


def types(weights: str) -> dict[str, str]:
    return (
        dict.fromkeys(FLOATS, "*fp32")
        | dict.fromkeys(IDS, "*i64")
        | dict.fromkeys(PLACES, "*i32")
        | dict.fromkeys(("weight", "gate", "keys", "values", "table", "places"), f"*{weights}")
    )


LINEARS = {  # weights, inputs, outputs, and what differs from a plain sum
    "qkv of GPT-2": ("bf16", 768, 2304, {"NORM": "layernorm", "BIASED": True}),
    "gated": ("bf16", 4096, 14336, {"NORM": "rmsnorm", "GATED": True, "ACTIVATION": "silu"}),
    "added": ("bf16", 3072, 768, {"BIASED": True, "ADDED": True}),
    "head": ("bf16", 2304, 256000, {"CAP": 30.0}),
    "float32": ("fp32", 768, 3072, {"NORM": "layernorm", "BIASED": True, "ACTIVATION": "gelu_tanh"}),
    "float32 gated": ("fp32", 4096, 14336, {"NORM": "rmsnorm", "GATED": True, "ACTIVATION": "silu"}),
    "odd": ("fp16", 17, 33, {"NORM": "rmsnorm", "ACTIVATION": "gelu"}),
    "int8": ("i8", 768, 3072, {"NORM": "layernorm", "BIASED": True, "SCALED": True, "ACTIVATION": "gelu_tanh"}),
}


@pytest.mark.parametrize(
    ("name", "architecture"),
    [(name, a) for name in LINEARS for a in ARCHITECTURES if a == 90 or name in ("qkv of GPT-2", "float32")],
)
def test_linear(name, architecture):
    pytest.importorskip("triton")
    from gmkern.decode.transformer.triton_kernels import STAGES, WARPS, blocks, linear_kernel

    weights, inputs, outputs, more = LINEARS[name]
    plain = {"NORM": "none", "EPS": 1e-5, "ACTIVATION": "none", "CAP": 0.0}
    flags = dict.fromkeys(("GATED", "BIASED", "SCALED", "ADDED"), False)
    size = {"bf16": 2, "fp16": 2, "fp32": 4, "i8": 1}[weights] * (2 if "GATED" in more else 1)
    shape = {"INPUTS": inputs, "OUTPUTS": outputs, "NARROW": weights in ("bf16", "i8")}
    compiled = compile_triton(
        linear_kernel,
        architecture,
        types=types(weights),
        constants=plain | flags | shape | blocks(inputs, outputs, size) | more,
        aligned=("x", "norm_weight", "norm_bias", "weight", "bias", "gate", "gate_bias", "out"),
        num_warps=WARPS,
        num_stages=STAGES,
        enable_fp_fusion=False,
    )
    kind = "bf16" if weights in ("bf16", "i8") else "tf32"
    assert f"mma.sync.aligned.m16n8k{16 if kind == 'bf16' else 8}.row.col.f32.{kind}" in compiled.ptx
    if inputs % 16 == 0:
        assert "cp.async" in compiled.ptx  # weights are on their way while others are multiplied
    # two programs of four warps a multiprocessor at the least: 65,536 registers, and on sm_80 164 KB of shared memory.
    # A norm's rows of 128 inputs, which tensor cores add, take more of them than the product
    assert compiled.registers <= 248
    assert compiled.spilled == 0
    assert compiled.shared <= 80 * 1024


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_rest_of_a_step(architecture):
    pytest.importorskip("triton")
    from gmkern.decode.generate.triton_kernels import advance_kernel
    from gmkern.decode.transformer.triton_kernels import WARPS, embed_kernel, norm_kernel, place_kernel

    heads = {"HEADS": 32, "KEY_HEADS": 8, "DIM": 128, "TURNED": 128, "NORMED": True, "EPS": 1e-6, "D": 128}
    for kernel, constants, warps in (
        (norm_kernel, {"WIDTH": 4096, "LAYER": True, "EPS": 1e-5, "ADDED": True, "BLOCK": 128}, WARPS),
        (embed_kernel, {"WIDTH": 4096, "LEARNED": True}, WARPS),
        (place_kernel, heads, WARPS),
        (advance_kernel, {"SIDES": 2, "REMEMBERS": True}, 2),
    ):
        kinds = types("fp32" if kernel is norm_kernel else "bf16")
        if kernel is advance_kernel:
            kinds |= {"tokens": "*i64", "position": "*i32"}
        compiled = compile_triton(
            kernel, architecture, types=kinds, constants=constants, num_warps=warps, enable_fp_fusion=False
        )
        # sixteen numbers of a tile of 16 rows by 128 a thread, thrice, and addresses
        assert compiled.registers <= 168
        assert compiled.spilled == 0
        assert compiled.shared <= 16 * 1024  # two such tiles, as tensor cores take them: their rows' sums
