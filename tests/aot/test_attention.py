"""The kernels of attention, compiled for GPUs with no GPU: in budget, on tensor cores."""

from __future__ import annotations

import pytest

from tests.aot.compiling import ARCHITECTURES, compile_triton

NUMBERS = ("queries", "slopes", "outs", "lses", "masses", "part_outs", "part_masses", "part_peaks")
FLOATS = ("key_scale", "value_scale")
# What a launch finds to be multiples of 16, so that loads and stores are wide.
ALIGNED = ("queries", "keys", "values", "lengths", "outs", "lses", "masses", "dim")
STRIDES = [f"{x}_{part}" for x in ("k", "v", "ks", "vs") for part in ("page", "slot", "head")]


def types(cache: str) -> dict[str, str]:
    return (
        dict.fromkeys((*NUMBERS, *FLOATS), "*fp32")
        | dict.fromkeys(("keys", "values"), f"*{cache}")
        | dict.fromkeys(("lengths", "tables"), "*i32")
        | dict.fromkeys(STRIDES, "i64")
        | {"softcap": "fp32", "scale": "fp32"}
    )


@pytest.mark.parametrize(
    ("cache", "dim", "folded", "options", "architecture"),
    [
        *(("bf16", 128, folded, (), architecture) for architecture in ARCHITECTURES for folded in (False, True)),
        ("i8", 128, False, ("PAGED", "SCALED"), 90),
        *(("fp8e4nv", 128, False, ("PAGED", "SCALED"), architecture) for architecture in (90, 100)),
        ("fp32", 64, True, ("ALIBI", "CAPPED"), 90),
        ("fp16", 256, False, ("PAGED",), 90),
    ],
)
def test_attention(cache, dim, folded, options, architecture):
    pytest.importorskip("triton")
    from gmkern.decode.attention.triton_kernels import WARPS, attention_kernel, tiles_of

    flags = {name: name in options for name in ("PAGED", "SCALED", "ALIBI", "CAPPED")}
    compiled = compile_triton(
        attention_kernel,
        architecture,
        types=types(cache),
        constants=tiles_of(dim) | flags | {"FOLDED": folded},
        aligned=(*ALIGNED, *(s for s in STRIDES if s.startswith(("k_", "v_")))),
        num_warps=WARPS,
        enable_fp_fusion=False,
    )
    assert "mma" in compiled.ptx
    # Every warp of a tile holds its 16 rows' products: one program of eight warps a multiprocessor, with its 255.
    assert compiled.registers <= 224
    assert compiled.spilled == 0
    # keys, values, queries and weights of one step, in the layouts that tensor cores take
    assert compiled.shared <= 24 * 1024


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_folding(architecture):
    pytest.importorskip("triton")
    from gmkern.decode.attention.triton_kernels import fold_kernel

    compiled = compile_triton(
        fold_kernel, architecture, types=types("bf16"), constants={"D": 128}, num_warps=1, enable_fp_fusion=False
    )
    assert compiled.registers <= 64  # four numbers of a head a thread, twice, and addresses
    assert compiled.spilled == 0
