"""The kernels of an EGNN's layers, compiled for GPUs with no GPU: in budget, on tensor cores."""

from __future__ import annotations

import pytest
import torch

from tests.aot.compiling import ARCHITECTURES, compile_triton

WIDTH = 64


def compiled(kernel, architecture: int, dtype: torch.dtype, constants: dict, warps: int, **options):
    number = "*fp64" if dtype == torch.float64 else "*fp32"
    types = {"cell": "*fp64", "inverse": "*fp64", "owners": "*i64"} | dict.fromkeys(
        ("positions", "halves", "weights", "rooms", "state", "moved", "by_positions", "by_state", "start_from", "by",
         "to_positions", "by_halves", "partials", "x", "weight", "bias", "added", "times", "out", "slopes", "biases"),
        number,
    )  # fmt: skip
    parts = ("positions", "cell", "inverse", "by_positions", "start_from")  # may be of users' tensors, at any address
    aligned = [n for n in kernel.arg_names if n in types and n not in parts]
    return compile_triton(
        kernel, architecture, types=types, constants=constants, aligned=tuple(aligned), num_warps=warps,
        enable_fp_fusion=False, **options,
    )  # fmt: skip


def of_edges(dtype: torch.dtype) -> dict:
    from gmkern.dynamics.egnn.triton_layout import Tiles

    t = Tiles.of(WIDTH, dtype)
    return {
        "MOVES": True, "LIMIT": 6.25, "SCALE": 0.2, "BOXED": True, "DIM": 3, "D": 4, "P": t.padded, "C": t.chunk,
        "K": t.depth, "I": t.own, "J": t.others,
    }  # fmt: skip


@pytest.mark.parametrize(("architecture", "dtype"), [*((a, torch.float32) for a in ARCHITECTURES), (90, torch.float64)])
def test_messages(architecture, dtype):
    pytest.importorskip("triton")
    from gmkern.dynamics.egnn.triton_kernels import REGISTERS, messages_kernel
    from gmkern.dynamics.egnn.triton_layout import WARPS

    most = REGISTERS if dtype == torch.float32 else None
    built = compiled(messages_kernel, architecture, dtype, of_edges(dtype), WARPS, maxnreg=most)
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

    constants = of_edges(dtype) | {"SPEAKS": speaks, "WEIGHTS": not speaks}
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
    from gmkern.dynamics.egnn.triton_layout import WARPS, Tiles, linear_kernel, owners_kernel, pack_kernel

    t = Tiles.of(WIDTH, torch.float32)
    wide = {"ROWS": t.rows, "C": t.chunk}
    linear = {
        "X_STRIDE": 128, "X_WIDTH": 128, "ADDED_STRIDE": 0, "ADDED_WIDTH": 0, "OUT_STRIDE": 64, "OUT_WIDTH": 64,
        "INPUTS": 128, "OUTPUTS": 64, "TRANSPOSED": False, "BIASED": True, "ACTIVE": True, "SLOPES": True,
        "TIMES": False, "ADDED": False, "K": t.depth,
    }  # fmt: skip
    pack = {"H": WIDTH - 1, "P": WIDTH, "BACK": True, "BLOCK": 256}
    for kernel, types, constants in (
        (owners_kernel, {"ptr": "*i64", "owners": "*i64"}, {"BLOCK": 256}),
        (pack_kernel, {"weights": "*fp32", "padded": "*fp64"}, pack),
    ):
        built = compile_triton(kernel, architecture, types=types, constants=constants)
        assert built.registers <= 32  # of two numbers a thread: as many threads as a multiprocessor holds
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
