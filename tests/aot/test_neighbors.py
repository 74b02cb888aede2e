"""The kernels of neighbours, compiled for GPUs with no GPU: nothing approximate, nothing fused, in budget."""

from __future__ import annotations

import pytest

from tests.aot.compiling import ARCHITECTURES, Compiled, compile_triton, unpromised_instructions

EUCLIDEAN, CHEBYSHEV, INNER_PRODUCT = 0, 3, 4


def check(compiled: Compiled, pairs: int, size: int) -> None:
    assert unpromised_instructions(compiled.ptx) == []
    # A tile's lanes may pass through shared memory once on their way to a pair's thread: 16 of `size` bytes a pair.
    assert compiled.shared <= 16 * size * pairs
    # 128 threads hold the tile's lanes, 32 of 4 bytes each; twice that for both sides' terms, and addresses. 168 leave
    # room for three programs a multiprocessor.
    assert compiled.registers <= 168
    assert compiled.spilled == 0


@pytest.mark.parametrize(
    ("dtype", "metric", "k", "architecture"),
    [
        *(("fp32", EUCLIDEAN, 16, architecture) for architecture in ARCHITECTURES),
        ("fp32", CHEBYSHEV, 1, 90),
        ("fp32", INNER_PRODUCT, 64, 90),
        ("bf16", EUCLIDEAN, 32, 90),
    ],
)
def test_nearest(dtype, metric, k, architecture):
    check(nearest(dtype, metric, k, 64, architecture), 256, 4)


def nearest(dtype: str, metric: int, k: int, dim: int, architecture: int) -> Compiled:
    pytest.importorskip("triton")
    from gmkern.neighbors.knn.triton_kernels import _WARPS, fused_tile, nearest_kernel
    from gmkern.neighbors.triton_distances import lanes_of

    rows, columns = fused_tile(dim, k)
    return compile_triton(
        nearest_kernel,
        architecture,
        types={"queries": f"*{dtype}", "references": f"*{dtype}", "selves": "*i32", "keys": "*i64"},
        constants={"METRIC": metric, "LANES": lanes_of(dim), "N": rows, "M": columns, "K": k},
        num_warps=_WARPS,
        enable_fp_fusion=False,
    )


@pytest.mark.parametrize(("dim", "k"), [(2, 1), (3, 16), (4, 64)])
def test_nearest_of_few_coordinates(dim, k):
    compiled = nearest("fp32", EUCLIDEAN, k, dim, 90)
    assert unpromised_instructions(compiled.ptx) == []
    assert compiled.shared <= 16384  # lanes of a tile, once
    # Keys of 8 bytes: a tile of 1,024 pairs and 64 nearest of 16 rows hold 8 of each a thread, and are sorted together.
    assert compiled.registers <= (232 if k == 64 else 168)
    assert compiled.spilled == 0


@pytest.mark.parametrize("dtype", ["fp32", "fp64"])
def test_distances_and_counts(dtype):
    pytest.importorskip("triton")
    from gmkern.neighbors.count_within.triton_kernels import _WARPS, count_kernel
    from gmkern.neighbors.knn.triton_kernels import distances_kernel

    fp64 = dtype == "fp64"
    tile = 8 if fp64 else 16
    sides = dict.fromkeys(("queries", "references", "distances", "radii"), f"*{dtype}") | {"counts": "*i64"}
    sides |= {"selves": "*i32"}
    shape = {"FP64": fp64, "LANES": 16, "N": tile, "M": tile}
    for kernel, constants in (
        (distances_kernel, {"METRIC": EUCLIDEAN}),
        (count_kernel, {"PER_REFERENCE": True, "STRICT": True}),
    ):
        compiled = compile_triton(
            kernel, 90, types=sides, constants=constants | shape, num_warps=_WARPS, enable_fp_fusion=False
        )
        check(compiled, tile * tile, 8 if fp64 else 4)
