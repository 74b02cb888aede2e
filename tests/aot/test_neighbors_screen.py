"""The screened search, compiled for GPUs with no GPU: on tensor cores, and in budget."""

from __future__ import annotations

import pytest

from tests.aot.compiling import ARCHITECTURES, compile_triton, unpromised_instructions

TENSOR_CORES = {80: "mma.sync.aligned", 90: "wgmma.mma_async", 100: "tcgen05.mma"}
FLOAT, HALF = "*fp32", "*fp16"


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("width", [16, 128, 2048])
def test_lanes(width, architecture):
    pytest.importorskip("triton")
    from gmkern.neighbors.knn.triton_screen import lanes_kernel
    from gmkern.neighbors.triton_halves import STAGES, shape_of

    shape = shape_of(width, architecture)
    compiled = compile_triton(
        lanes_kernel,
        architecture,
        types={"x": HALF, "y": HALF, "terms": FLOAT, "nearest": FLOAT, "second": FLOAT},
        constants={
            "WIDTH": width,
            "CHUNK": shape.chunk,
            "MASK": 127,
            "EXCLUDE": width == 128,
            "N": shape.n,
            "M": shape.m,
        },
        aligned=("x", "y", "terms", "nearest", "second", "lanes"),
        num_warps=shape.warps,
        num_stages=STAGES,
        enable_fp_fusion=False,
    )
    assert TENSOR_CORES[architecture] in compiled.ptx
    assert unpromised_instructions(compiled.ptx) == []
    # The rows of a tile once, up to three tiles of references in flight, and where a tile of products passes through
    # shared memory that tile: within what a program may have (163, 227 and 227 KB).
    tiles = shape.chunk * 2 * (3 * shape.m + (1 if width == shape.chunk else 3) * shape.n)
    assert compiled.shared <= min(tiles + 4 * shape.n * shape.m, (163 if architecture == 80 else 227) << 10)
    # A thread holds 64 products (128 in the tile of 256 columns) and half as many of the least and second least, and
    # both while they are compared. Only on sm_90 do products keep out of the way until they are done.
    assert compiled.registers <= (208 if architecture == 90 and shape.m == 128 else 255)
    # 128 products and 64 least are close to all registers: addresses of the outer loop may wait in local memory.
    assert compiled.spilled <= (64 if shape.m == 256 else 0)


@pytest.mark.parametrize(("lanes", "architecture"), [(512, 90), (4096, 80), (4096, 100)])
def test_sieve(lanes, architecture):
    pytest.importorskip("triton")
    from gmkern.neighbors.knn import triton_screen
    from gmkern.neighbors.triton_halves import ETA, epsilon, stretch

    floats = ("nearest", "second", "x_squares", "x_residuals", "y_squares", "y_residuals", "terms", "common", "scale")
    compiled = compile_triton(
        triton_screen.sieve_kernel,
        architecture,
        types=dict.fromkeys(floats, FLOAT) | {"candidates": "*i32", "counts": "*i32"},
        constants={
            "MASK": 63,
            "EPSILON": epsilon(64),
            "STRETCH": stretch(64),
            "ETA": ETA,
            "CAPACITY": 512,
            "EACH": 32,
            "LANES": lanes,
        },
        num_warps=triton_screen.sieve_warps(lanes),
        enable_fp_fusion=False,
    )
    assert unpromised_instructions(compiled.ptx) == []
    assert compiled.shared <= 1024  # what the warps tell each other of counts
    assert compiled.registers <= 200  # 8 or 16 lanes a thread, of each their two values, bounds, column and place
    assert compiled.spilled == 0


@pytest.mark.parametrize(("k", "lanes"), [(1, 16), (256, 16)])
def test_rerank(k, lanes):
    pytest.importorskip("triton")
    from gmkern.neighbors.knn.triton_screen import _SMALL, rerank_kernel

    compiled = compile_triton(
        rerank_kernel,
        90,
        types={"queries": FLOAT, "references": FLOAT, "candidates": "*i32", "counts": "*i32", "keys": "*i64"},
        constants={
            "METRIC": 0,
            "EXCLUDE": True,
            "CAPACITY": 512,
            "LANES": lanes,
            "M": max(64, k),
            "K": k,
        },
        num_warps=_SMALL,
        enable_fp_fusion=False,
    )
    assert unpromised_instructions(compiled.ptx) == []
    assert compiled.shared <= 16 * 512  # keys, as they are sorted
    assert compiled.registers <= 216  # 32 lanes a thread, or 8 for a candidate at a time, twice: sides and sums
    assert compiled.spilled == 0


@pytest.mark.parametrize("dtype", ["fp32", "bf16", "fp16"])
def test_halves(dtype):
    pytest.importorskip("triton")
    from gmkern.neighbors.triton_halves import _CHUNK, _ROWS, extents_kernel, halves_kernel

    floats = ("centre", "scale", "half_squares", "residuals", "extents")
    types = dict.fromkeys(floats, FLOAT) | {"points": f"*{dtype}", "values": HALF}
    for kernel in (halves_kernel, extents_kernel):
        compiled = compile_triton(
            kernel, 90, types=types, constants={"ROWS": _ROWS, "CHUNK": _CHUNK}, enable_fp_fusion=False
        )
        assert unpromised_instructions(compiled.ptx) == []
        assert compiled.shared <= 512
        assert compiled.registers <= 104  # eight coordinates a thread in float64, and what was lost of them
        assert compiled.spilled == 0


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("width", [64, 512])
def test_counts(width, architecture):
    pytest.importorskip("triton")
    from gmkern.neighbors.count_within.triton_screen import _ROOM, decide_kernel
    from gmkern.neighbors.triton_halves import STAGES, shape_of

    shape = shape_of(width, architecture)._replace(m=128)
    compiled = compile_triton(
        decide_kernel,
        architecture,
        types=dict.fromkeys(("out_rows", "out_columns", "in_rows", "in_columns"), FLOAT)
        | {"x": HALF, "y": HALF, "counts": "*i64", "listed": "*i32", "places": "*i32"},
        constants={
            "WIDTH": width, "CHUNK": shape.chunk, "EXCLUDE": True, "ROOM": _ROOM, "N": shape.n, "M": shape.m,
        },
        aligned=("x", "y", "out_rows", "out_columns", "in_rows", "in_columns"),
        num_warps=shape.warps,
        num_stages=STAGES,
        enable_fp_fusion=False,
    )  # fmt: skip
    assert TENSOR_CORES[architecture] in compiled.ptx
    assert unpromised_instructions(compiled.ptx) == []
    tiles = shape.chunk * 2 * (3 * shape.m + (1 if width == shape.chunk else 3) * shape.n)
    assert compiled.shared <= min(tiles + 4 * shape.n * shape.m, (163 if architecture == 80 else 227) << 10)
    # 64 products a thread, as many bits of what is in doubt, and columns: what is rare waits in memory.
    assert compiled.spilled <= 64


def test_doubts():
    pytest.importorskip("triton")
    from gmkern.neighbors.count_within.triton_screen import _ROOM, _WARPS, doubts_kernel

    compiled = compile_triton(
        doubts_kernel,
        90,
        types=dict.fromkeys(("queries", "references", "radii"), FLOAT)
        | {"listed": "*i32", "places": "*i32", "counts": "*i64"},
        constants={"PER_REFERENCE": True, "STRICT": True, "ROOM": _ROOM, "LANES": 16, "M": 64},
        num_warps=_WARPS,
        enable_fp_fusion=False,
    )
    assert unpromised_instructions(compiled.ptx) == []
    assert compiled.shared <= 4 * 16 * 64  # lanes of a tile, once
    assert compiled.registers <= 168  # eight lanes a thread, of both sides, and their places
    assert compiled.spilled == 0
