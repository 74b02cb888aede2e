"""Networks from noise to a sample, and a machine's chains: no intermediate reaches memory."""

from __future__ import annotations

import copy
import itertools

import torch
import torch.nn.functional as F
from torch import Tensor

from gmkern import latent
from gmkern.classical import RBM
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


def sweeps(device: torch.device, tiny: bool) -> Case:
    """Gibbs chains of a machine of the size of MNIST, as persistent contrastive divergence runs them."""
    chains, visible, hidden, steps = (5, 20, 10, 3) if tiny else (256, 784, 500, 100)
    machine = RBM(visible, hidden, seed=2).to(device).requires_grad_(False)
    for parameter in machine.parameters():
        parameter.normal_(0.0, 0.1)
    seed, ids = torch.tensor(7, device=device), torch.arange(chains, device=device)
    start = (torch.rand(chains, visible, device=device) < 0.5).float()

    def check() -> None:
        ours = machine.sample(chains, steps=1, seed=7)
        truth = copy.deepcopy(machine).cpu().sample(chains, steps=1, seed=7, backend="reference")
        # a uniform falls within a probability's rounding, some 1e-5, less often than that
        assert (ours.cpu() != truth).float().mean() < 1e-3, "units differ from the reference"

    def eager() -> Tensor:
        v, w = start, machine.weight
        for _ in range(steps):
            h = torch.bernoulli(torch.sigmoid(F.linear(v, w, machine.hidden_bias)))
            v = torch.bernoulli(torch.sigmoid(F.linear(h, w.t(), machine.visible_bias)))
        return v

    return Case(
        f"{chains} chains of {visible} x {hidden}, {steps} sweeps, fp32",
        lambda: machine.sample(chains, steps=steps, seed=seed, sample_ids=ids),
        check,
        {"eager PyTorch, torch.bernoulli": eager},
        flop=4.0 * chains * visible * hidden * steps,
        work=chains * steps,
        unit="sweeps",
    )


CASES = {"latent.sample": network, "latent.sample backward": backward, "classical.RBM.sample": sweeps}
