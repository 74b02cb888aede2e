"""context.draw's kernel, compiled for GPUs with no GPU: in budget."""

from __future__ import annotations

import pytest

from tests.aot.compiling import ARCHITECTURES, compile_triton


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize(("size", "width", "element"), [(10, 784, "i32"), (1024, 3, "i64"), (1, 5000, "i8")])
def test_draws(architecture, size, width, element):
    pytest.importorskip("triton")
    from gmkern.context.draw.triton_kernels import draw_kernel, shape

    tiles = shape(size, width)
    compiled = compile_triton(
        draw_kernel,
        architecture,
        types=dict.fromkeys(("train", "points"), f"*{element}")
        | dict.fromkeys(("seeds", "sample_ids", "indices"), "*i64"),
        constants={"K": tiles["K"], "WIDTH": tiles["WIDTH"]},
        num_warps=tiles["num_warps"],
        enable_fp_fusion=False,
    )
    # A thread has 8 elements of a row, of 64 bits each with its address: 32 registers; of 1,024 moves 8 of two 64-bit
    # words, and as much again for a step's copies: 64. 128 leave room for four programs of four warps.
    assert compiled.registers <= 128
    assert compiled.spilled == 0
    assert compiled.shared <= 1024  # a word a warp, for what a set's warps tell each other
