"""The path neighbors."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from gmkern import neighbors
from gpu_cases.case import Case


def _nearest(device: torch.device, tiny: bool, dim: int, k: int) -> Case:
    rows = 200 if tiny else 50_000
    made = torch.Generator().manual_seed(2)
    x, y = (torch.randn(rows, dim, generator=made).to(device) for _ in range(2))

    few = slice(None, None, rows // 20)

    def check() -> None:
        ours, truth = neighbors.knn(x, y, k), neighbors.knn(x[few].cpu(), y.cpu(), k, backend="reference")
        assert torch.equal(ours.indices[few].cpu(), truth.indices), "indices differ from the reference"
        assert torch.equal(ours.distances[few].cpu(), truth.distances), "distances differ from the reference"

    def product() -> Tensor:
        squares = y.square().sum(1)
        blocks = [(squares - 2 * (block @ y.T)).topk(k, largest=False).indices for block in x.split(4096)]
        return torch.cat(blocks)

    rivals = {"matmul + topk": product}
    if k == 1 and (assign := _flash_assignment()) is not None:
        halves = x.half()[None], y.half()[None], x.square().sum(1)[None]
        rivals["flash-kmeans' assignment, of fp16"] = lambda: assign(*halves)
    return Case(
        f"{rows} x {rows} D={dim} k={k} fp32",
        lambda: neighbors.knn(x, y, k),
        check,
        rivals,
        work=2.0 * rows * rows * dim,  # of the products that screen; the exact distances are few
        unit="flop",
    )


def _flash_assignment() -> Callable[..., object] | None:
    """flash-kmeans' nearest centroid (Triton), where that package is installed: absent from the rivals otherwise."""
    try:
        from flash_kmeans.assign_euclid_triton import euclid_assign_triton  # type: ignore[import-not-found]
    except ImportError:
        return None
    return euclid_assign_triton  # type: ignore[no-any-return]


def _nearest_of(dim: int, k: int) -> Callable[[torch.device, bool], Case]:
    return lambda device, tiny: _nearest(device, tiny, dim, k)


def counts_within(device: torch.device, tiny: bool) -> Case:
    rows, dim = (200, 64) if tiny else (50_000, 64)
    x = torch.randn(rows, dim, generator=torch.Generator().manual_seed(3)).to(device)
    radius = math.sqrt(2 * dim) - 2.0

    def check() -> None:
        few = x[:: rows // 100]
        ours = neighbors.count_within(few, x, radius)
        assert torch.equal(ours.cpu(), neighbors.count_within(few.cpu(), x.cpu(), radius, backend="reference"))

    return Case(
        f"{rows} x {rows} D={dim} fp32",
        lambda: neighbors.count_within(x, x, radius),
        check,
        {"cdist": lambda: torch.cat([(torch.cdist(block, x) <= radius).sum(1) for block in x.split(4096)])},
        work=float(rows) * rows,
        unit="pairs",
    )


def kernel_sums(device: torch.device, tiny: bool) -> Case:
    rows, dim = (200, 64) if tiny else (50_000, 64)
    x = torch.randn(rows, dim, generator=torch.Generator().manual_seed(5)).to(device)

    def check() -> None:
        few = x[:: rows // 100]
        ours = neighbors.kernel_sum(few, x, bandwidth=8.0)
        truth = neighbors.kernel_sum(few.cpu().double(), x.cpu().double(), bandwidth=8.0)
        torch.testing.assert_close(ours.cpu().double(), truth, rtol=1e-5, atol=0.0)

    def blocks() -> Tensor:
        return torch.cat([(torch.cdist(block, x).square() / -128.0).exp().sum(1) for block in x.split(4096)])

    return Case(
        f"{rows} x {rows} D={dim} rbf fp32",
        lambda: neighbors.kernel_sum(x, x, bandwidth=8.0),
        check,
        {"cdist + exp + sum": blocks},
        work=float(rows) * rows,
        unit="pairs",
    )


# Every width at k = 1, and more neighbours where selection binds and where products do.
SEARCHES = ((16, 1), (64, 1), (128, 1), (512, 1), (2048, 1), (64, 5), (512, 5), (64, 100), (2048, 100))
CASES = {
    **{f"neighbors.knn D={dim} k={k}": _nearest_of(dim, k) for dim, k in SEARCHES},
    "neighbors.count_within": counts_within,
    "neighbors.kernel_sum": kernel_sums,
}
