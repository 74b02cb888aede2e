"""The path dynamics."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from gmkern import dynamics
from gpu_cases.case import Case


def _cloud(systems: int, atoms: int, device: torch.device) -> Tensor:
    """Atoms on a cubic grid at 1.2 sigma, jittered: [S, N, 3]."""
    side = math.ceil(atoms ** (1 / 3))
    grid = torch.cartesian_prod(*[torch.arange(side, dtype=torch.float32)] * 3)[:atoms] * 1.2
    generator = torch.Generator().manual_seed(1)
    return (grid + 0.05 * torch.randn(systems, atoms, 3, generator=generator)).to(device)


def _langevin(device: torch.device, systems: int, atoms: int, steps: int, rival_steps: int) -> Case:
    start = _cloud(systems, atoms, device)
    field = dynamics.LennardJones()
    integrator = dynamics.BAOAB(dt=0.002, temperature=0.5, friction=1.0)

    def run(positions: Tensor, count: int, backend: str | None = None) -> Tensor:
        return dynamics.simulate(
            field, positions, integrator=integrator, steps=count, seed=7, backend=backend
        ).positions

    def check() -> None:
        ours = run(start[:4], 10).cpu()
        truth = run(start[:4].cpu(), 10, "reference")
        # Ten steps of three updates round each coordinate 30 times by eps/2 of its size; sums of forces in another
        # order add dt^2 eps |f|, which is less.
        close = 30 * torch.finfo(torch.float32).eps * float(start.abs().max())
        torch.testing.assert_close(ours, truth, rtol=0, atol=close)

    return Case(
        f"{systems} x {atoms} LJ BAOAB, {steps} steps",
        lambda: run(start, steps),
        check,
        {"eager PyTorch": lambda: run(start, rival_steps, "reference")},
        work=systems * atoms * steps,
        unit="atom-steps",
        rival_scale=steps / rival_steps,
    )


def langevin_many(device: torch.device, tiny: bool) -> Case:
    return _langevin(device, *((4, 8, 20, 10) if tiny else (4096, 32, 1000, 10)))


def langevin_one(device: torch.device, tiny: bool) -> Case:
    return _langevin(device, *((1, 27, 20, 10) if tiny else (1, 512, 1000, 10)))


def _forces(device: torch.device, systems: int, atoms: int) -> Case:
    start = _cloud(systems, atoms, device)
    field = dynamics.LennardJones(cutoff=2.5)

    def check() -> None:
        ours = dynamics.energy_and_forces(field, start[:4]).forces.cpu()
        truth = dynamics.energy_and_forces(field, start[:4].cpu().double(), backend="reference").forces
        # each of a few dozen pairs within the cutoff rounds a few times, the largest pull being a few forces' size
        close = 400 * torch.finfo(torch.float32).eps * float(truth.abs().max())
        torch.testing.assert_close(ours.double(), truth, rtol=0, atol=close)

    return Case(
        f"{systems} x {atoms} LJ cutoff 2.5",
        lambda: dynamics.energy_and_forces(field, start),
        check,
        {"eager PyTorch": lambda: dynamics.energy_and_forces(field, start, backend="reference")},
        work=float(systems) * atoms * (atoms - 1),
        unit="ordered pairs",
    )


def forces_many(device: torch.device, tiny: bool) -> Case:
    return _forces(device, *((4, 8) if tiny else (4096, 32)))


def forces_one(device: torch.device, tiny: bool) -> Case:
    return _forces(device, *((1, 27) if tiny else (1, 4096)))


def path_log_probabilities(device: torch.device, tiny: bool) -> Case:
    """A sampler's rollout with both log-probabilities."""
    systems, atoms, steps, rival_steps = (4, 8, 20, 10) if tiny else (4096, 13, 500, 10)
    start = _cloud(systems, atoms, device)
    field = dynamics.LennardJones(cutoff=2.5) + dynamics.Harmonic(0.5)
    law = dynamics.EulerMaruyama(dt=1e-4, noise=1.0)

    def run(positions: Tensor, count: int, backend: str | None = None) -> dynamics.Trajectory:
        return dynamics.simulate(
            field, positions, integrator=law, steps=count, seed=7, log_prob=True, backward="bridge", backend=backend
        )

    def check() -> None:
        ours, truth = run(start[:4].double(), 10), run(start[:4].cpu().double(), 10, "reference")
        torch.testing.assert_close(ours.log_prob_forward.cpu(), truth.log_prob_forward, rtol=1e-8, atol=1e-8)
        torch.testing.assert_close(ours.log_prob_backward.cpu(), truth.log_prob_backward, rtol=1e-8, atol=1e-8)

    return Case(
        f"{systems} x {atoms} LJ Euler-Maruyama with log-probabilities, {steps} steps",
        lambda: run(start, steps),
        check,
        {"eager PyTorch": lambda: run(start, rival_steps, "reference")},
        work=systems * atoms * steps,
        unit="atom-steps",
        rival_scale=steps / rival_steps,
    )


CASES = {
    "dynamics.simulate": langevin_many,
    "dynamics.simulate one system": langevin_one,
    "dynamics.simulate log_prob": path_log_probabilities,
    "dynamics.energy_and_forces": forces_many,
    "dynamics.energy_and_forces one system": forces_one,
}
