"""Noise, and sets of training points."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

import gmkern
from gmkern import context
from gpu_cases.case import Case, with_gradient


def _noise(
    device: torch.device, tiny: bool, draw: Callable[..., Tensor], rival: str, theirs: Callable[[Tensor], Tensor]
) -> Case:
    rows, n = (3, 1000) if tiny else (4096, 1 << 16)
    ids = torch.arange(rows, device=device)

    def check() -> None:
        few = torch.tensor([0, rows - 1])
        ours = draw(3, few.to(device), 1, n).cpu()
        assert torch.equal(ours, draw(3, few, 1, n, backend="reference")), "bits differ from the contract"

    seed, step = torch.tensor(3, device=device), torch.tensor(1, device=device)
    return Case(
        f"{rows} x {n} fp32",
        lambda: draw(seed, ids, step, n),
        check,
        {rival: lambda: theirs(torch.empty(rows, n, device=device))},
        moved=4 * rows * n,
    )


def normal(device: torch.device, tiny: bool) -> Case:
    return _noise(device, tiny, gmkern.random.normal, "torch.randn", lambda x: x.normal_())


def uniform(device: torch.device, tiny: bool) -> Case:
    return _noise(device, tiny, gmkern.random.uniform, "torch.rand", lambda x: x.uniform_())


def gumbel(device: torch.device, tiny: bool) -> Case:
    theirs = "exponential_ + log"
    return _noise(device, tiny, gmkern.random.gumbel, theirs, lambda x: x.exponential_().log_().neg_())


def _sets(device: torch.device, tiny: bool) -> tuple[int, int, Tensor]:
    """Sets, their size, and training points [M, 784]: beyond four times an H200's L2."""
    sets, size, rows = (50, 10, 300) if tiny else (16384, 10, 100_000)
    return sets, size, torch.randn(rows, 784, generator=torch.Generator().manual_seed(4)).to(device)


def context_sets(device: torch.device, tiny: bool) -> Case:
    sets, size, train = _sets(device, tiny)
    rows = len(train)
    seed, ids = torch.tensor(6, device=device), torch.arange(sets, device=device)

    def check() -> None:
        ours = context.draw(train, 50, size, seed=6)
        truth = context.draw(train.cpu(), 50, size, seed=6, backend="reference")
        assert torch.equal(ours.indices.cpu(), truth.indices), "indices differ from the reference"
        assert torch.equal(ours.points.cpu(), truth.points), "points are not the rows drawn"

    def by_choice() -> Tensor:
        drawn = [torch.randperm(rows, device=device)[:size] for _ in range(sets // 64 or 1)]
        return train[torch.stack(drawn)]

    return Case(
        f"{sets} sets of {size} of {rows} x 784 fp32",
        lambda: context.draw(train, sets, size, seed=seed, sample_ids=ids),
        check,
        {"randperm a set + gather": by_choice},
        moved=2 * 4 * sets * size * 784,
        rival_scale=sets / (sets // 64 or 1),
    )


def context_backward(device: torch.device, tiny: bool) -> Case:
    sets, size, train = _sets(device, tiny)
    seed, ids = torch.tensor(6, device=device), torch.arange(sets, device=device)
    indices = context.draw(train, sets, size, seed=6).indices
    leaf = train.requires_grad_()

    def drawn() -> Tensor:
        return context.draw(leaf, sets, size, seed=seed, sample_ids=ids).points

    def check() -> None:
        (gradient,) = torch.autograd.grad(drawn().sum(), leaf)
        times = torch.bincount(indices.flatten(), minlength=len(train))
        assert torch.equal(gradient, times[:, None].expand_as(gradient).float()), "not as often as it was drawn"

    return Case(
        f"{sets} sets of {size} of {len(train)} x 784 fp32",
        with_gradient(drawn, [leaf]),
        check,
        {"gather": with_gradient(lambda: leaf[indices], [leaf])},
        moved=4 * 784 * (4 * sets * size + len(train)),  # rows gathered and given back, and the gradient written
    )


CASES = {
    "noise.normal": normal,
    "noise.uniform": uniform,
    "noise.gumbel": gumbel,
    "context.draw": context_sets,
    "context.draw backward": context_backward,
}
