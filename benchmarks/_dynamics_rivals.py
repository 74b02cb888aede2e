"""Langevin dynamics of Lennard-Jones systems by others: each a tool of :class:`Systems`, its energies checked first."""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from _case import Run
from torch import Tensor

from gmkern.dynamics import BAOAB, LennardJones, energy_and_forces, simulate

os.environ.setdefault("XLA_FLAGS", f"--xla_force_host_platform_device_count={os.cpu_count()}")  # jax's way to threads

DT, TEMPERATURE, FRICTION = 0.004, 0.3, 1.0
HOT, DENSITY, CUTOFF = 1.0, 0.8, 2.5  # of the liquids
PAIR_FLOP = 23  # difference 3, square 5, reciprocal 4, powers and slope 5, sums of three forces 6: of each ordered pair


class Systems(NamedTuple):
    """Systems that have been run to equilibrium, and how long they shall run."""

    x: Tensor  # [S, N, 3] float32
    field: LennardJones
    temperature: float
    side: float | None  # of a periodic cube
    steps: int

    @property
    def box(self) -> dict[str, Any]:
        return {} if self.side is None else {"cell": self.side * torch.eye(3), "pbc": True}

    def integrator(self) -> BAOAB:
        return BAOAB(DT, self.temperature, FRICTION)


def near(atoms: int, periodic: bool) -> float:
    """Atoms that act on an atom: all others, or in a liquid those within the cutoff."""
    return DENSITY * 4 / 3 * math.pi * CUTOFF**3 if periodic else atoms - 1


def clusters(systems: int, atoms: int, steps: int) -> Systems:
    """The first points of a cubic lattice, spacing 1.12, after a short run."""
    axis = 1.12 * torch.arange(math.ceil(atoms ** (1 / 3)), dtype=torch.float32)
    start = torch.cartesian_prod(axis, axis, axis)[:atoms].repeat(systems, 1, 1)
    return settled(Systems(start, LennardJones(), TEMPERATURE, None, steps))


def liquid(atoms: int, steps: int) -> Systems:
    """A cubic lattice that has melted in a periodic cube."""
    side, cuts = (atoms / DENSITY) ** (1 / 3), math.ceil(atoms ** (1 / 3))
    axis = side / cuts * torch.arange(cuts, dtype=torch.float32)
    places = torch.cartesian_prod(axis, axis, axis)
    keep = torch.randperm(len(places), generator=torch.Generator().manual_seed(0))[:atoms].sort().values
    return settled(Systems(places[keep][None], LennardJones(cutoff=CUTOFF, shift=False), HOT, side, steps))


def settled(case: Systems) -> Systems:
    bath = BAOAB(DT, case.temperature, 10 * FRICTION)
    return case._replace(x=simulate(case.field, case.x, integrator=bath, steps=400, seed=1, **case.box).positions)


def looked(tool: str, case: Systems, energy: np.ndarray, forces: np.ndarray) -> None:
    """Energies [S] and forces [S, N, 3] are those of the reference in double.

    Half an ulp of a coordinate of size c moves a pair's vector by c eps, and its force, whose slope is at most some
    1000 here, by 1000 c eps; errors of the pairs add as their root. A rival's fp32 arithmetic has as much again.
    """
    wanted = energy_and_forces(case.field, case.x.double(), backend="reference", **case.box)
    size, atoms = float(case.x.abs().max()) * np.finfo(np.float32).eps, case.x.shape[1]
    pairs = near(atoms, case.side is not None)
    assert np.abs(forces - wanted.forces.numpy()).max() < 4 * 1000 * size * math.sqrt(pairs), tool
    bound = 4 * size * float(wanted.forces.abs().max()) * atoms + 1e-4 * float(wanted.energy.abs().max())
    assert np.abs(energy - wanted.energy.numpy()).max() < bound, tool


# --- the tools: a run gives velocities [S, N, 3] ----------------------------------------------------------------------


def ours(case: Systems) -> Run:
    energy, forces = energy_and_forces(case.field, case.x, **case.box)
    looked("gmkern", case, energy.numpy(), forces.numpy())
    law = {"integrator": case.integrator(), "steps": case.steps, "seed": 0}
    return lambda _: simulate(case.field, case.x, **law, **case.box).velocities


def eager(case: Systems) -> Run:
    """BAOAB in eager batched PyTorch as its users write it: all pairs [S, N, N, 3], torch.randn."""
    eye = torch.eye(case.x.shape[1], dtype=torch.bool)
    keep = math.exp(-FRICTION * DT)
    kick = math.sqrt((1 - keep**2) * TEMPERATURE)

    def forces(x: Tensor) -> Tensor:
        d = x[:, :, None] - x[:, None]
        r2 = (d * d).sum(-1).masked_fill_(eye, 1.0)
        s6 = r2.reciprocal() ** 3
        pull = (24.0 * s6 * (2.0 * s6 - 1.0) / r2).masked_fill_(eye, 0.0)
        return (pull[..., None] * d).sum(2)

    def run(_: int) -> Tensor:
        p, v = case.x.clone(), torch.randn_like(case.x) * TEMPERATURE**0.5
        f = forces(p)
        for _ in range(case.steps):
            v += 0.5 * DT * f
            p += 0.5 * DT * v
            v = keep * v + kick * torch.randn_like(v)
            p += 0.5 * DT * v
            f = forces(p)
            v += 0.5 * DT * f
        return v

    r = torch.cdist(case.x, case.x, compute_mode="donot_use_mm_for_euclid_dist").masked_fill(eye, torch.inf)
    looked("eager PyTorch", case, (2.0 * (r**-12 - r**-6)).sum((1, 2)).numpy(), forces(case.x).numpy())
    return run


def jax_md(case: Systems) -> Run:
    """One compiled loop of all steps, over a batch on each of as many of jax's devices as there are threads."""
    import jax
    from jax_md import energy, space
    from jax_md import simulate as jax_simulate

    displacement, shift = space.free()
    potential = energy.lennard_jones_pair(displacement, r_onset=1e3, r_cutoff=2e3)
    init, step = jax_simulate.nvt_langevin(potential, shift, dt=DT, kT=TEMPERATURE, gamma=FRICTION)
    value, slope = jax.vmap(jax.value_and_grad(potential))(case.x.numpy())
    looked("jax-md", case, np.asarray(value), -np.asarray(slope))

    def one(steps: Any, key: Any, p: Any) -> Any:
        return jax.lax.fori_loop(0, steps, lambda _, state: step(state), init(key, p)).momentum

    @functools.cache
    def compiled(threads: int) -> Callable[[], np.ndarray]:
        devices = jax.local_devices()[: math.gcd(threads, len(case.x), jax.local_device_count())]
        x = case.x.numpy().reshape(len(devices), -1, *case.x.shape[1:])
        keys = jax.random.split(jax.random.PRNGKey(0), len(case.x)).reshape(len(devices), -1, 2)
        all_steps = jax.pmap(jax.vmap(one, (None, 0, 0)), in_axes=(None, 0, 0), devices=devices)
        return lambda: np.asarray(all_steps(case.steps, keys, x)).reshape(case.x.shape)

    return lambda threads: compiled(threads)()


def openmm(case: Systems) -> Run:
    """One system, for OpenMM has no batches. Its units are nm, ps, amu and kJ/mol."""
    import openmm as mm

    boltzmann = 0.00831446261815324
    system, force = mm.System(), mm.NonbondedForce()
    for _ in range(case.x.shape[1]):
        system.addParticle(1.0)
        force.addParticle(0.0, 1.0, 1.0)
    force.setUseDispersionCorrection(False)
    force.setNonbondedMethod(mm.NonbondedForce.NoCutoff)
    if case.side is not None:
        force.setNonbondedMethod(mm.NonbondedForce.CutoffPeriodic)
        force.setCutoffDistance(CUTOFF)
        system.setDefaultPeriodicBoxVectors(*(case.side * np.eye(3)))
    system.addForce(force)
    x = case.x[0].double().numpy()

    @functools.cache
    def made(threads: int) -> Any:
        integrator = mm.LangevinMiddleIntegrator(case.temperature / boltzmann, FRICTION, DT)
        return mm.Context(system, integrator, mm.Platform.getPlatformByName("CPU"), {"Threads": str(threads)})

    def run(threads: int) -> np.ndarray:
        context = made(threads)
        context.setPositions(x)
        context.setVelocitiesToTemperature(case.temperature / boltzmann, 0)
        context.getIntegrator().step(case.steps)
        return context.getState(getVelocities=True).getVelocities(asNumpy=True)._value[None]

    made(1).setPositions(x)
    state = made(1).getState(getEnergy=True, getForces=True)
    looked("OpenMM", case, np.array([state.getPotentialEnergy()._value]), state.getForces(asNumpy=True)._value[None])
    return run
