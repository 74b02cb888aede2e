"""The kernel that chooses tokens, compiled for GPUs with no GPU: nothing approximate, nothing fused, in budget."""

from __future__ import annotations

import pytest

from tests.aot.compiling import ARCHITECTURES, compile_triton, unpromised_instructions

POINTERS = {"mask": "*u8", "met": "*i32", "seeds": "*i64", "sample_ids": "*i64", "steps": "*i64", "packed": "*fp64"}
REALS = (
    *("scratch", "logprobs", "raw_logprobs", "log_kept_mass", "entropies"),
    *("to_logprob", "to_raw", "to_entropy", "gradient"),
)
CASES = {
    "sample": {},
    "score whole": {"WHOLE": True, "ENTROPY": True},
    "gradient whole": {"WHOLE": True},
}


@pytest.mark.parametrize(
    ("case", "dtype", "architecture"),
    [
        *(("sample", "fp32", architecture) for architecture in ARCHITECTURES),
        ("sample", "bf16", 90),
        ("sample", "fp64", 90),
        *(("score whole", "fp32", architecture) for architecture in ARCHITECTURES),
        *(("gradient whole", "fp32", architecture) for architecture in ARCHITECTURES),
    ],
)
def test_kernels_of_rows(case, dtype, architecture):
    pytest.importorskip("triton")
    from gmkern.decode.sample.triton_kernels import sample_kernel
    from gmkern.decode.sample.triton_row import TILE, WARPS
    from gmkern.decode.sample.triton_score import gradient_kernel, score_kernel

    kernel = {"sample": sample_kernel, "score": score_kernel, "gradient": gradient_kernel}[case.split()[0]]
    fp64 = dtype == "fp64"
    compiled = compile_triton(
        kernel,
        architecture,
        types={
            "logits": f"*{dtype}",
            "tokens": "*i64",
            **POINTERS,
            **dict.fromkeys(REALS, "*fp64" if fp64 else "*fp32"),
        },
        constants={"HAS_MASK": True, "HAS_MET": True, "FP64": fp64, "TILE": TILE} | CASES[case],
        num_warps=WARPS,
        enable_fp_fusion=False,
    )
    assert unpromised_instructions(compiled.ptx) == []
    # The greatest use is a tile's shuffle to interleave words: 4 bytes a token (fp64: 8), and a scan's warp totals.
    assert compiled.shared <= TILE * (8 if fp64 else 4) + 1024
    # 128 registers leave room for two programs of 256 threads a multiprocessor; fp64 masses are two words, not one,
    assert compiled.registers <= (255 if fp64 else 128)
    # and of them ptxas would rather keep two words apart than give up the second program
    assert compiled.spilled <= (128 if fp64 else 0)
