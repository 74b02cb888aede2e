"""The path dynamics: one large system, by cells and lists of neighbours."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from gmkern import dynamics
from gpu_cases.case import Case, absent

_CUTOFF, _DENSITY, _DT, _TEMPERATURE, _FRICTION = 2.5, 0.8, 0.004, 1.0, 1.0


def _liquid(per_side: int, device: torch.device) -> tuple[Tensor, float]:
    """per_side^3 atoms on a jittered grid in an order of no meaning, [N, 3], and the side of their periodic box."""
    generator = torch.Generator().manual_seed(3)
    spacing = _DENSITY ** (-1 / 3)
    axis = (torch.arange(per_side, dtype=torch.float32) + 0.5) * spacing
    grid = torch.cartesian_prod(axis, axis, axis)
    grid = grid[torch.randperm(len(grid), generator=generator)]
    return (grid + 0.03 * torch.randn(grid.shape, generator=generator)).to(device), per_side * spacing


def lists(device: torch.device, tiny: bool) -> Case:
    x, side = _liquid(8 if tiny else 46, device)  # 97,336 atoms
    cell = side * torch.eye(3, dtype=torch.float64)
    here = cell.to(device)

    def run() -> dynamics.NeighborList:
        return dynamics.neighbor_list(x, _CUTOFF, cell=here, pbc=True)

    def check() -> None:
        for ours, truth in zip(run(), dynamics.neighbor_list(x.cpu(), _CUTOFF, cell=cell, pbc=True), strict=True):
            assert torch.equal(ours.cpu(), truth), "the list differs from the CPU's"

    return Case(
        f"{len(x)} atoms, periodic, cutoff {_CUTOFF}",
        run,
        check,
        {"vesin": absent("vesin.torch", "vesin-torch", device) or _vesin(x, here.to(x.dtype))},
        work=float(len(x)),
        unit="atoms",
        captures=False,  # as many pairs as there are: the count is read back
    )


def _vesin(x: Tensor, cell: Tensor) -> Callable[[], object]:
    from vesin.torch import NeighborList

    search = NeighborList(cutoff=_CUTOFF, full_list=True)
    return lambda: search.compute(points=x, box=cell, periodic=True, quantities="ijSdD")


def langevin(device: torch.device, tiny: bool) -> Case:
    x, side = _liquid(6 if tiny else 32, device)  # 32,768 atoms
    steps = 10 if tiny else 1000
    law = {
        "integrator": dynamics.BAOAB(dt=_DT, temperature=_TEMPERATURE, friction=_FRICTION),
        "cell": side * torch.eye(3),
        "pbc": True,
        "seed": 7,
    }
    field = dynamics.LennardJones(cutoff=_CUTOFF)

    def check() -> None:
        ours, truth = (dynamics.simulate(field, y, steps=10, **law).positions for y in (x.double(), x.double().cpu()))
        # ten steps in double precision: roundings of sums in another order, far below what chaos makes of them later
        torch.testing.assert_close(ours.cpu(), truth, rtol=0, atol=1e-9)

    return Case(
        f"{len(x)} atoms, LJ liquid BAOAB, {steps} steps",
        lambda: dynamics.simulate(field, x, steps=steps, **law),
        check,
        {"OpenMM": absent("openmm", "openmm", device) or _openmm(x, side, steps)},
        work=float(len(x) * steps),
        unit="atom-steps",
        captures=False,  # driven from the host in slices
    )


def _openmm(x: Tensor, side: float, steps: int) -> Callable[[], object] | str:
    """OpenMM on this GPU, whose units are nm, ps, amu and kJ/mol: sigma, epsilon and mass are 1 of each."""
    import openmm as mm

    if "CUDA" not in {mm.Platform.getPlatform(n).getName() for n in range(mm.Platform.getNumPlatforms())}:
        return "has no CUDA platform here (pip install openmm[cuda12])"
    system, force = mm.System(), mm.NonbondedForce()
    for _ in range(len(x)):
        system.addParticle(1.0)
        force.addParticle(0.0, 1.0, 1.0)
    force.setUseDispersionCorrection(False)
    force.setNonbondedMethod(mm.NonbondedForce.CutoffPeriodic)
    force.setCutoffDistance(_CUTOFF)
    system.setDefaultPeriodicBoxVectors((side, 0, 0), (0, side, 0), (0, 0, side))
    system.addForce(force)
    kelvin = _TEMPERATURE / 0.00831446261815324
    integrator = mm.LangevinMiddleIntegrator(kelvin, _FRICTION, _DT)
    context = mm.Context(system, integrator, mm.Platform.getPlatformByName("CUDA"), {"Precision": "single"})
    context.setPositions(x.double().cpu().numpy())
    context.setVelocitiesToTemperature(kelvin, 0)

    def run() -> object:
        integrator.step(steps)
        return context.getState(getVelocities=True)  # waits for the device

    return run


CASES = {"dynamics.neighbor_list": lists, "dynamics.simulate large system": langevin}
