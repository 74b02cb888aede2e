"""The kernels of an EGNN's layers, compiled for GPUs with no GPU: in budget, on tensor cores."""

from __future__ import annotations

import re

import pytest
import torch

from tests.aot.compiling import ARCHITECTURES, compile_triton

WIDTH = 64


def compiled(kernel, architecture: int, dtype: torch.dtype, constants: dict, warps: int, **options):
    number = "*fp64" if dtype == torch.float64 else "*fp32"
    types = {"cell": "*fp64", "inverse": "*fp64", "owners": "*i64"} | dict.fromkeys(
        ("positions", "halves", "weights", "rooms", "state", "sums", "moved", "by_positions", "by_state", "start_from",
         "by", "to_positions", "by_halves", "partials", "x", "weight", "bias", "added", "times", "out", "slopes",
         "biases"),
        number,
    )  # fmt: skip
    parts = ("positions", "cell", "inverse", "by_positions", "start_from")  # may be of users' tensors, at any address
    aligned = [n for n in kernel.arg_names if n in types and n not in parts]
    return compile_triton(
        kernel, architecture, types=types, constants=constants, aligned=tuple(aligned), num_warps=warps,
        enable_fp_fusion=False, **options,
    )  # fmt: skip


def of_edges(dtype: torch.dtype, width: int = WIDTH) -> dict:
    from gmkern.dynamics.egnn.triton_layout import Tiles

    t = Tiles.of(width, dtype)
    return {
        "MOVES": True, "LIMIT": 6.25, "SCALE": 0.2, "BOXED": True, "DIM": 3, "D": 4, "P": t.padded, "I": t.own,
        "J": t.others,
    }  # fmt: skip


def chunks(dtype: torch.dtype, width: int = WIDTH) -> dict:
    from gmkern.dynamics.egnn.triton_layout import Tiles

    t = Tiles.of(width, dtype)
    return {"C": t.chunk, "K": t.depth}


@pytest.mark.parametrize(
    ("architecture", "width", "boxed"), [*((a, WIDTH, True) for a in ARCHITECTURES), (90, WIDTH, False), (90, 16, True)]
)
def test_narrow_messages(architecture, width, boxed):
    pytest.importorskip("triton")
    from gmkern.dynamics.egnn.triton_kernels import narrow_messages_kernel
    from gmkern.dynamics.egnn.triton_layout import WARPS, Tiles

    assert Tiles.of(width, torch.float32).narrow
    constants = of_edges(torch.float32, width) | {"H": width, "BOXED": boxed}
    built = compiled(narrow_messages_kernel, architecture, torch.float32, constants, WARPS)
    # Two programs of four warps a multiprocessor, with 255 registers: 64 of a tile's messages in two terms, 32 sums of
    # products, 16 of an atom's messages. What a box takes waits on the stack, and on sm_80, whose products have the
    # weights too in registers, some of those; without a box on sm_90 nothing does within the loop over neighbours.
    assert built.registers <= 255
    assert built.spilled <= (320 if architecture == 80 else 224 if boxed else 48)
    assert built.shared <= 80 * 1024  # both weights in two terms, 64 KB, and 16 KB where halves change hands
    products = [line for line in built.ttgir.splitlines() if re.search(r"(tt\.dot|warp_group_dot|tc_gen5_mma) ", line)]
    assert len(products) == 6
    gates = len(re.findall(r"rcp\.approx\.ftz\.f32", built.ptx))
    assert gates == 3 * 64 * constants["P"] // 128  # all of a thread's: 64 edges, 128 threads
    assert len(re.findall(r"div\.full\.f32", built.ptx)) <= 2  # of the distance alone


@pytest.mark.parametrize(("architecture", "dtype"), [*((a, torch.float32) for a in ARCHITECTURES), (90, torch.float64)])
def test_messages(architecture, dtype):
    pytest.importorskip("triton")
    from gmkern.dynamics.egnn.triton_kernels import REGISTERS, messages_kernel
    from gmkern.dynamics.egnn.triton_layout import WARPS

    most = REGISTERS if dtype == torch.float32 else None
    built = compiled(messages_kernel, architecture, dtype, of_edges(dtype) | chunks(dtype), WARPS, maxnreg=most)
    assert "mma" in built.ptx
    # 16 sums a thread, operands in three terms each and the addresses of two rooms: three programs of four warps a
    # multiprocessor, in float64 two. On sm_80, whose products keep their operands in registers, some wait on the stack.
    assert built.registers <= (most or 255)
    assert built.spilled <= (64 if architecture == 80 else 8)
    assert built.shared <= 48 * 1024  # inputs and weights of three steps, 12 KB a step, and room


@pytest.mark.parametrize(
    ("architecture", "dtype", "speaks"),
    [*((a, torch.float32, False) for a in ARCHITECTURES), (90, torch.float64, False), (90, torch.float32, True)],
)
def test_adjoint(architecture, dtype, speaks):
    pytest.importorskip("triton")
    from gmkern.dynamics.egnn.triton_adjoint import ADJOINT_WARPS, adjoint_kernel

    constants = of_edges(dtype) | chunks(dtype) | {"SPEAKS": speaks, "WEIGHTS": not speaks}
    built = compiled(adjoint_kernel, architecture, dtype, constants, ADJOINT_WARPS)
    assert "mma" in built.ptx
    # One program of eight warps a multiprocessor, with its 255: addresses of six rooms and a tile's edges. On sm_80,
    # whose products keep their operands in registers, and in float64, some thirty numbers wait on the stack.
    assert built.registers <= 255
    assert built.spilled <= (128 if architecture == 80 or dtype == torch.float64 else 8)
    assert built.shared <= 48 * 1024


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_atoms(architecture):
    pytest.importorskip("triton")
    from gmkern.dynamics.egnn.triton_adjoint import outer_kernel
    from gmkern.dynamics.egnn.triton_layout import WARPS, Tiles, linear_kernel, prepare_kernel, unpack_kernel

    t = Tiles.of(WIDTH, torch.float32)
    wide = {"ROWS": t.rows, "C": t.chunk}
    linear = {
        "X_STRIDE": 128, "X_WIDTH": 128, "ADDED_STRIDE": 0, "ADDED_WIDTH": 0, "OUT_STRIDE": 64, "OUT_WIDTH": 64,
        "INPUTS": 128, "OUTPUTS": 64, "TRANSPOSED": False, "BIASED": True, "ACTIVE": True, "SLOPES": True,
        "TIMES": False, "ADDED": False, "K": t.depth,
    }  # fmt: skip
    place = {"H": WIDTH - 1, "P": WIDTH, "BLOCK": 256}
    pointers = {"ptr": "*i64", "owners": "*i64"} | dict.fromkeys(
        ("weights", "padded", "features", "sums", "state"), "*fp32"
    )
    for kernel, types, constants in (
        (prepare_kernel, pointers, {"SUMS": True}),
        (unpack_kernel, {"weights": "*fp32", "padded": "*fp64"}, {}),
    ):
        built = compile_triton(kernel, architecture, types=types, constants=place | constants)
        assert built.registers <= 40  # of two numbers a thread, 64-bit places: eleven programs a multiprocessor
        assert (built.spilled, built.shared) == (0, 0)
    outer = {"BY_WIDTH": 64, "X_STRIDE": 128, "OUTPUTS": 64, "INPUTS": 128, "SIZE": 20_000}
    for kernel, constants in ((linear_kernel, linear), (outer_kernel, outer)):
        built = compiled(kernel, architecture, torch.float32, wide | constants, WARPS)
        assert "mma" in built.ptx
        # 16 sums a thread, operands in three terms, the steps over a layer's inputs unrolled: two programs of four
        # warps a multiprocessor
        assert built.registers <= 255
        assert built.spilled <= 8
        assert built.shared <= 64 * 1024
