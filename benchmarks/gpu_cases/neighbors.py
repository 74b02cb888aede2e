"""The path neighbors."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from gmkern import neighbors
from gpu_cases.case import SHARE, Case, Mark, Rivals, absent, with_gradient

_FLASH = "flash-kmeans' assignment, of fp16"
_PRODUCTS = "matmul + topk"


def _nearest(device: torch.device, tiny: bool, dim: int, k: int, queries: int = 50_000) -> Case:
    n, m = (200, 200) if tiny else (queries, 50_000)
    made = torch.Generator().manual_seed(2)
    x, y = (torch.randn(rows, dim, generator=made).to(device) for rows in (n, m))
    k = min(k, m)
    few = slice(None, None, n // 20)

    def check() -> None:
        ours, truth = neighbors.knn(x, y, k), neighbors.knn(x[few].cpu(), y.cpu(), k, backend="reference")
        assert torch.equal(ours.indices[few].cpu(), truth.indices), "indices differ from the reference"
        assert torch.equal(ours.distances[few].cpu(), truth.distances), "distances differ from the reference"

    rivals: Rivals = {_PRODUCTS: lambda: _by_products(x, y, k)}
    if k == 1:
        rivals[_FLASH] = absent("flash_kmeans", "flash-kmeans", device) or _flash_assignment(x, y)
    marks = []
    if queries == 50_000:
        marks += [Mark(3.0, _PRODUCTS)] if 16 <= dim <= 128 else []
        marks += [Mark(1.0, _FLASH)] if k == 1 else []
        marks += [Mark(0.5, SHARE)] if dim == 2048 else []
    return Case(
        f"{n} x {m} D={dim} k={k} fp32",
        lambda: neighbors.knn(x, y, k),
        check,
        rivals,
        flop=2.0 * n * m * dim,  # of the products that screen; the exact distances are few
        marks=tuple(marks),
    )


def _by_products(x: Tensor, y: Tensor, k: int) -> Tensor:
    """Indices [N, k] by products alone, whose distances lose what cancels."""
    squares = y.square().sum(1)
    blocks = [(squares - 2 * (block @ y.T)).topk(k, largest=False).indices for block in x.split(4096)]
    return torch.cat(blocks)


def _flash_assignment(x: Tensor, y: Tensor) -> Callable[[], object]:
    """flash-kmeans' nearest centroid (Triton), of numbers that are rounded before."""
    halves = x.half()[None], y.half()[None], x.square().sum(1)[None]

    def run() -> object:
        from flash_kmeans.assign_euclid_triton import euclid_assign_triton

        return euclid_assign_triton(*halves)

    return run


def _nearest_of(dim: int, k: int, queries: int = 50_000) -> Callable[[torch.device, bool], Case]:
    return lambda device, tiny: _nearest(device, tiny, dim, k, queries)


def nearest_backward(device: torch.device, tiny: bool) -> Case:
    rows, dim, k = (200, 64, 5) if tiny else (50_000, 64, 5)
    made = torch.Generator().manual_seed(2)
    x, y = (torch.randn(rows, dim, generator=made).to(device).requires_grad_() for _ in range(2))

    def theirs() -> Tensor:
        with torch.no_grad():
            near = _by_products(x, y, k)
        return (x[:, None] - y[near]).square().sum(-1).sqrt()

    def check() -> None:
        ours = with_gradient(lambda: neighbors.knn(x, y, k).distances, [x, y])()
        for a, b in zip(ours, with_gradient(theirs, [x, y])(), strict=True):
            assert float((a - b).abs().median()) < 1e-5, "gradients differ"  # a near tie may have another neighbour

    return Case(
        f"{rows} x {rows} D={dim} k={k} fp32",
        with_gradient(lambda: neighbors.knn(x, y, k).distances, [x, y]),
        check,
        {"matmul + topk, then the distances": with_gradient(theirs, [x, y])},
        flop=2.0 * rows * rows * dim,
    )


def _points(device: torch.device, tiny: bool) -> Tensor:
    rows, dim = (200, 64) if tiny else (50_000, 64)
    return torch.randn(rows, dim, generator=torch.Generator().manual_seed(3)).to(device)


def _counts(device: torch.device, tiny: bool, per: str) -> Case:
    x = _points(device, tiny)
    rows, dim = x.shape
    middle = math.sqrt(2 * dim) - 2.0
    radii = middle + 0.2 * torch.rand(rows, generator=torch.Generator().manual_seed(5)).to(device)

    def check() -> None:
        few = slice(None, None, rows // 100)
        own = radii if per == "reference" else radii[few]
        ours = neighbors.count_within(x[few], x, own, per=per)
        assert torch.equal(ours.cpu(), neighbors.count_within(x[few].cpu(), x.cpu(), own.cpu(), per=per))

    def distances() -> Tensor:
        bounds = radii[None].expand(rows, rows) if per == "reference" else radii[:, None]
        blocks = zip(x.split(4096), bounds.split(4096), strict=True)
        return torch.cat([(torch.cdist(block, x) <= bound).sum(1) for block, bound in blocks])

    return Case(
        f"{rows} x {rows} D={dim} fp32",
        lambda: neighbors.count_within(x, x, radii, per=per),
        check,
        {"cdist": distances},
        flop=2.0 * rows * rows * dim,
        work=float(rows) * rows,
        unit="pairs",
    )


def counts_within(device: torch.device, tiny: bool) -> Case:
    return _counts(device, tiny, "query")


def counts_within_theirs(device: torch.device, tiny: bool) -> Case:
    return _counts(device, tiny, "reference")


def _kernel_sums(device: torch.device, tiny: bool, log: bool, back: bool) -> Case:
    x = _points(device, tiny)
    rows, dim = x.shape
    ours = neighbors.log_kernel_sum if log else neighbors.kernel_sum
    leaf = x.clone().requires_grad_() if back else x

    def check() -> None:
        few = x[:: rows // 100]
        got = ours(few, x, bandwidth=8.0)
        truth = ours(few.cpu().double(), x.cpu().double(), bandwidth=8.0)
        torch.testing.assert_close(got.cpu().double(), truth, rtol=1e-5, atol=1e-6 if log else 0.0)
        if back:
            some = few.clone().requires_grad_()
            wide = few.cpu().double().requires_grad_()
            (grad,) = torch.autograd.grad(ours(some, x, bandwidth=8.0).sum(), some)
            (want,) = torch.autograd.grad(ours(wide, x.cpu().double(), bandwidth=8.0).sum(), wide)
            torch.testing.assert_close(grad.cpu().double(), want, rtol=0, atol=1e-5 * float(want.abs().max()))

    def theirs() -> Tensor:
        logs = (torch.cdist(block, leaf).square() / -128.0 for block in leaf.split(4096))
        return torch.cat([one.logsumexp(1) if log else one.exp().sum(1) for one in logs])

    def run() -> Tensor:
        return ours(leaf, leaf, bandwidth=8.0)

    name = "cdist + logsumexp" if log else "cdist + exp + sum"
    return Case(
        f"{rows} x {rows} D={dim} rbf fp32",
        with_gradient(run, [leaf]) if back else run,
        check,
        {name: with_gradient(theirs, [leaf]) if back else theirs},
        work=float(rows) * rows,
        unit="pairs",
    )


def kernel_sums(device: torch.device, tiny: bool) -> Case:
    return _kernel_sums(device, tiny, False, False)


def log_kernel_sums(device: torch.device, tiny: bool) -> Case:
    return _kernel_sums(device, tiny, True, False)


def kernel_sums_backward(device: torch.device, tiny: bool) -> Case:
    return _kernel_sums(device, tiny, False, True)


# Every width at k = 1, more neighbours where selection binds and where products do, and few coordinates.
SEARCHES = ((16, 1), (64, 1), (128, 1), (512, 1), (2048, 1), (3, 5), (64, 5), (512, 5), (64, 100), (2048, 100))
CASES = {
    **{f"neighbors.knn D={dim} k={k}": _nearest_of(dim, k) for dim, k in SEARCHES},
    "neighbors.knn D=64 k=2048": _nearest_of(64, 2048, 4096),
    "neighbors.knn backward": nearest_backward,
    "neighbors.count_within": counts_within,
    "neighbors.count_within per reference": counts_within_theirs,
    "neighbors.kernel_sum": kernel_sums,
    "neighbors.log_kernel_sum": log_kernel_sums,
    "neighbors.kernel_sum backward": kernel_sums_backward,
}
