"""The kernels of the head and the draw for few rows, compiled for GPUs with no GPU: in budget, the draw exact."""

from __future__ import annotations

import pytest

from tests.aot.compiling import ARCHITECTURES, compile_triton, unpromised_instructions

TYPES = (
    dict.fromkeys(("x", "scale", "logits", "greatest", "best", "logprobs", "raws", "kepts"), "*fp32")
    | dict.fromkeys(("seeds", "sample_ids", "steps", "raw", "mass", "ends", "step", "token", "tokens"), "*i64")
    | dict.fromkeys(("best_token", "state", "position"), "*i32")
    | {"packed": "*fp64"}
)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("weights", ["bf16", "fp32"])
def test_head(weights, architecture):
    pytest.importorskip("triton")
    from gmkern.decode.generate.triton_head import STAGES, WARPS, head_kernel
    from gmkern.decode.transformer.triton_kernels import blocks

    shape = {"INPUTS": 768, "OUTPUTS": 50257, "SCALED": False, "CAP": 0.0, "NARROW": weights == "bf16", "PARAMS": 10}
    compiled = compile_triton(
        head_kernel,
        architecture,
        types=TYPES | {"weight": f"*{weights}"},
        constants=shape | blocks(768, 50257, 2 if weights == "bf16" else 4),
        aligned=("x", "weight", "logits"),
        num_warps=WARPS,
        num_stages=STAGES,
        enable_fp_fusion=False,
    )
    assert "cp.async" in compiled.ptx  # weights are on their way while others are multiplied
    assert compiled.registers <= 255  # two programs of four warps a multiprocessor, of 65,536
    assert compiled.spilled == 0
    assert compiled.shared <= 80 * 1024


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_what_follows(architecture):
    pytest.importorskip("triton")
    from gmkern.decode.generate.triton_head import WARPS, finish_kernel, masses_kernel

    for kernel in (masses_kernel, finish_kernel):
        compiled = compile_triton(
            kernel, architecture, types=TYPES, constants={"PARAMS": 10}, num_warps=WARPS, enable_fp_fusion=False
        )
        assert unpromised_instructions(compiled.ptx) == []
        # two whole numbers of 64 bits for each of the sixteen that a thread has of a tile of 16 rows by 128
        assert compiled.registers <= 255
        assert compiled.spilled == 0
        assert compiled.shared <= 4 * 1024
