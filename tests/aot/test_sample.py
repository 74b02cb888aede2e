"""The kernel that chooses tokens, compiled for GPUs with no GPU: nothing approximate, nothing fused, in budget."""

from __future__ import annotations

import pytest

from tests.aot.compiling import ARCHITECTURES, compile_triton, unpromised_instructions

SAMPLE, SCORE, GRADIENT = 0, 1, 2
POINTERS = {"mask": "*u8", "met": "*i32", "seeds": "*i64", "sample_ids": "*i64", "steps": "*i64", "params": "*fp64"}


@pytest.mark.parametrize(
    ("mode", "dtype", "architecture"),
    [
        *((SAMPLE, "fp32", architecture) for architecture in ARCHITECTURES),
        (SAMPLE, "bf16", 90),
        (SAMPLE, "fp64", 90),
        (SCORE, "fp32", 90),
        (GRADIENT, "fp32", 90),
    ],
)
def test_sample_kernel(mode, dtype, architecture):
    pytest.importorskip("triton")
    from gmkern.decode.sample.triton_kernels import _TILE, _WARPS, sample_kernel

    fp64 = dtype == "fp64"
    real = "*fp64" if fp64 else "*fp32"
    outs = dict.fromkeys(("scratch", "logprobs", "raw_logprobs", "log_kept_mass", "slopes", "gradient"), real)
    compiled = compile_triton(
        sample_kernel,
        architecture,
        types={"logits": f"*{dtype}", "tokens": "*i64", **POINTERS, **outs},
        constants={"HAS_MASK": True, "HAS_MET": True, "FP64": fp64, "MODE": mode, "TILE": _TILE},
        num_warps=_WARPS,
        enable_fp_fusion=False,
    )
    assert unpromised_instructions(compiled.ptx) == []
    # The greatest use is a tile's shuffle to interleave words: 4 bytes a token (fp64: 8), and a scan's warp totals.
    assert compiled.shared <= _TILE * (8 if fp64 else 4) + 1024
    # 128 registers leave room for two programs of 256 threads a multiprocessor; fp64 masses are two words, not one
    assert compiled.registers <= (255 if fp64 else 128)
    assert compiled.spilled == 0
