"""The kernels of kernel sums, compiled for GPUs with no GPU: in budget."""

from __future__ import annotations

import pytest

from tests.aot.compiling import ARCHITECTURES, compile_triton

RBF, LAPLACE, RATIONAL, ENERGY, POLYNOMIAL = range(5)


def numbers(dtype: str) -> dict[str, str]:
    narrow = "*fp64" if dtype == "fp64" else "*fp32"
    return (
        dict.fromkeys(("queries", "references", "own", "others"), f"*{dtype}")
        | dict.fromkeys(("rates", "weights", "log_weights", "incoming", "sums"), narrow)
        | dict.fromkeys(("masses", "peaks", "to_own", "to_weights", "to_rates"), "*fp64")
    )


def constants(dtype: str, kernel: int, log: bool) -> dict:
    fp64 = dtype == "fp64"
    return {"KERNEL": kernel, "EXPONENT": 0.7, "OFFSET": 0.5, "LOG": log, "FP64": fp64, "N": 8 if fp64 else 16}


@pytest.mark.parametrize(
    ("dtype", "kernel", "log", "architecture"),
    [
        *(("fp32", RBF, log, architecture) for architecture in ARCHITECTURES for log in (False, True)),
        ("fp32", POLYNOMIAL, False, 90),
        ("bf16", RATIONAL, True, 90),
        ("fp64", LAPLACE, True, 90),
    ],
)
def test_sums(dtype, kernel, log, architecture):
    pytest.importorskip("triton")
    from gmkern.neighbors.kernel_sum.triton_kernels import WARPS, sum_kernel, total_kernel

    shape = constants(dtype, kernel, log)
    for function, fixed in ((sum_kernel, shape | {"M": shape["N"]}), (total_kernel, {"LOG": log, "N": 128})):
        compiled = compile_triton(
            function, architecture, types=numbers(dtype), constants=fixed, num_warps=WARPS, enable_fp_fusion=False
        )
        # As in test_neighbors.py: a tile's lanes and terms; the lanes pass through shared memory at most once.
        assert compiled.registers <= 168
        assert compiled.spilled == 0
        assert compiled.shared <= 16 * 4 * 256


@pytest.mark.parametrize(
    ("dtype", "kernel", "log", "of_references", "architecture"),
    [
        *(("fp32", RBF, True, side, architecture) for architecture in ARCHITECTURES for side in (False, True)),
        ("fp32", LAPLACE, False, True, 90),
        ("fp32", RATIONAL, True, True, 90),
        ("fp32", ENERGY, False, False, 90),
        ("fp32", POLYNOMIAL, False, True, 90),
        ("fp64", LAPLACE, True, True, 90),
    ],
)
def test_gradients(dtype, kernel, log, of_references, architecture):
    pytest.importorskip("triton")
    from gmkern.neighbors.kernel_sum.triton_kernels import WARPS, gradient_kernel

    compiled = compile_triton(
        gradient_kernel,
        architecture,
        types=numbers(dtype),
        constants=constants(dtype, kernel, log) | {"OF_REFERENCES": of_references, "M": 16},
        num_warps=WARPS,
        enable_fp_fusion=False,
    )
    # As above; the float64 products of sm_80 are of the smallest shape, and Triton keeps all of a tile's operands: 255
    # are two programs a multiprocessor there. One address may lie on the stack, read once a tile.
    assert compiled.registers <= (255 if architecture == 80 else 168)
    assert compiled.spilled <= 8
    assert compiled.shared <= 2 * 16 * 4 * 256  # the lanes, and the products' operands
