"""Networks from noise to a sample: no intermediate reaches memory."""

from __future__ import annotations

import copy
import itertools

import torch
from torch import Tensor

from gmkern import latent
from gpu_cases.case import Case, with_gradient

_WIDTHS = (32, 128, 128, 64)
_FLOP = 2.0 * sum(a * b for a, b in itertools.pairwise(_WIDTHS))  # of a sample


def _decoder(device: torch.device) -> torch.nn.Sequential:
    torch.manual_seed(4)
    layers: list[torch.nn.Module] = []
    for inputs, outputs in itertools.pairwise(_WIDTHS):
        layers += [torch.nn.Linear(inputs, outputs), torch.nn.GELU()]
    return torch.nn.Sequential(*layers[:-1]).to(device)


def network(device: torch.device, tiny: bool) -> Case:
    rows = 100 if tiny else 1 << 16
    decoder = _decoder(device).requires_grad_(False)
    seed, ids = torch.tensor(7, device=device), torch.arange(rows, device=device)

    def check() -> None:
        ours = latent.sample(decoder, 100, seed=7)
        truth = latent.sample(copy.deepcopy(decoder).cpu(), 100, seed=7, backend="reference")
        torch.testing.assert_close(ours.cpu(), truth, rtol=1e-4, atol=1e-5)

    return Case(
        f"n={rows} {' x '.join(map(str, _WIDTHS))} fp32",
        lambda: latent.sample(decoder, rows, seed=seed, sample_ids=ids),
        check,
        {"randn + eager layers": lambda: decoder(torch.randn(rows, _WIDTHS[0], device=device))},
        moved=4.0 * rows * _WIDTHS[-1],
        flop=rows * _FLOP,
    )


def backward(device: torch.device, tiny: bool) -> Case:
    rows = 100 if tiny else 1 << 16
    decoder = _decoder(device)
    leaves = list(decoder.parameters())
    seed, ids = torch.tensor(7, device=device), torch.arange(rows, device=device)

    def gradients(backend: str | None) -> list[Tensor]:
        drawn = latent.sample(decoder, 100, seed=7, backend=backend).square().mean()
        return list(torch.autograd.grad(drawn, leaves))

    def check() -> None:
        for ours, truth in zip(gradients(None), gradients("reference"), strict=True):
            torch.testing.assert_close(
                ours, truth, rtol=1e-3, atol=1e-3 * float(truth.abs().max())
            )  # sums of 100 terms

    return Case(
        f"n={rows} {' x '.join(map(str, _WIDTHS))} fp32",
        with_gradient(lambda: latent.sample(decoder, rows, seed=seed, sample_ids=ids), leaves),
        check,
        {"randn + eager layers": with_gradient(lambda: decoder(torch.randn(rows, _WIDTHS[0], device=device)), leaves)},
        moved=4.0 * rows * _WIDTHS[-1],
        flop=3 * rows * _FLOP,
    )


CASES = {"latent.sample": network, "latent.sample backward": backward}
