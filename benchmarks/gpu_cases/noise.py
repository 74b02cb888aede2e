"""Noise, sets of training points, and networks from noise to a sample."""

from __future__ import annotations

import copy
import itertools

import torch
from torch import Tensor

import gmkern
from gmkern import context, latent
from gpu_cases.case import Case


def noise_normal(device: torch.device, tiny: bool) -> Case:
    rows, n = (3, 1000) if tiny else (4096, 1 << 16)
    ids = torch.arange(rows, device=device)

    def check() -> None:
        few = torch.tensor([0, rows - 1])
        ours = gmkern.random.normal(3, few.to(device), 1, n).cpu()
        assert torch.equal(ours, gmkern.random.normal(3, few, 1, n, backend="reference")), (
            "bits differ from the contract"
        )

    seed, step = torch.tensor(3, device=device), torch.tensor(1, device=device)
    return Case(
        f"{rows} x {n} fp32",
        lambda: gmkern.random.normal(seed, ids, step, n),
        check,
        {"torch.randn": lambda: torch.randn(rows, n, device=device)},
        moved=4 * rows * n,
    )


def latent_network(device: torch.device, tiny: bool) -> Case:
    """Noise through a small decoder: no intermediate reaches memory."""
    rows = 100 if tiny else 1 << 16
    widths = (32, 128, 128, 64)
    torch.manual_seed(4)
    layers: list[torch.nn.Module] = []
    for inputs, outputs in itertools.pairwise(widths):
        layers += [torch.nn.Linear(inputs, outputs), torch.nn.GELU()]
    decoder = torch.nn.Sequential(*layers[:-1]).to(device).requires_grad_(False)
    seed = torch.tensor(7, device=device)

    def check() -> None:
        ours = latent.sample(decoder, 100, seed=7)
        truth = latent.sample(copy.deepcopy(decoder).cpu(), 100, seed=7, backend="reference")
        torch.testing.assert_close(ours.cpu(), truth, rtol=1e-4, atol=1e-5)

    return Case(
        f"n={rows} {' x '.join(map(str, widths))} fp32",
        lambda: latent.sample(decoder, rows, seed=seed),
        check,
        {"randn + eager layers": lambda: decoder(torch.randn(rows, widths[0], device=device))},
        work=2.0 * rows * sum(a * b for a, b in itertools.pairwise(widths)),
        unit="flop",
    )


def context_sets(device: torch.device, tiny: bool) -> Case:
    sets, size, rows = (50, 10, 300) if tiny else (16384, 10, 60_000)
    train = torch.randn(rows, 784, generator=torch.Generator().manual_seed(4)).to(device)
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


CASES = {
    "noise.normal": noise_normal,
    "latent.sample": latent_network,
    "context.draw": context_sets,
}
