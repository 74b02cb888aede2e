"""The path neighbors."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from gmkern import neighbors
from gpu_cases.case import Case


def _nearest(device: torch.device, tiny: bool, dim: int, k: int) -> Case:
    rows = 200 if tiny else 50_000
    made = torch.Generator().manual_seed(2)
    x, y = (torch.randn(rows, dim, generator=made).to(device) for _ in range(2))

    def check() -> None:
        few = x[:: rows // 100]
        ours, truth = neighbors.knn(few, y, k), neighbors.knn(few.cpu(), y.cpu(), k, backend="reference")
        assert torch.equal(ours.indices.cpu(), truth.indices), "indices differ from the reference"
        assert torch.equal(ours.distances.cpu(), truth.distances), "distances differ from the reference"

    def product() -> Tensor:
        squares = y.square().sum(1)
        blocks = [(squares - 2 * (block @ y.T)).topk(k, largest=False).indices for block in x.split(4096)]
        return torch.cat(blocks)

    return Case(
        f"{rows} x {rows} D={dim} k={k} fp32",
        lambda: neighbors.knn(x, y, k),
        check,
        {"matmul + topk": product},
        work=float(rows) * rows,
        unit="pairs",
    )


def nearest(device: torch.device, tiny: bool) -> Case:
    return _nearest(device, tiny, 64, 1)


def nearest_five(device: torch.device, tiny: bool) -> Case:
    return _nearest(device, tiny, 64, 5)


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


CASES = {
    "neighbors.knn nearest": nearest,
    "neighbors.knn": nearest_five,
    "neighbors.count_within": counts_within,
    "neighbors.kernel_sum": kernel_sums,
}
