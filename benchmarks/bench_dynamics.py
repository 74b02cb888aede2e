"""simulate beside eager PyTorch, jax-md, OpenMM and torchsde.

Lennard-Jones with Langevin dynamics (BAOAB, or the rival's own like it) in float32, on the same systems with the same
dt and as many steps: clusters in free space, and periodic liquids with a cutoff. Energies and forces are compared
before, the temperature of each run after. Then the loop around a learnt drift.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from _case import OURS, Case, Point, Run, Tool, across
from _dynamics_rivals import PAIR_FLOP, Systems, clusters, eager, jax_md, liquid, near, openmm, ours
from torch import Tensor, nn

from gmkern.dynamics import EulerMaruyama, VectorField, simulate


def check(given: Systems, tool: str, ours: Any, theirs: Any) -> None:
    """The temperature after the run is that of gmkern: two means of n squares of normals, and 1% for O(dt^2).

    gmkern's own: that of the bath, in systems that are in equilibrium.
    """
    v, want = (torch.from_numpy(np.asarray(one).astype(np.float64)) for one in (theirs, ours))
    assert v.shape == given.x.shape, tool
    hot = float(v.square().mean())
    wanted = given.temperature if tool == OURS else float(want.square().mean())
    assert abs(hot / wanted - 1) < 5 * math.sqrt(2 * 2 / v.numel()) + 0.01, (tool, hot, wanted)


def case(systems: int, atoms: int, steps: int, point: Point | None = None) -> Case:
    """One system is a periodic liquid, several are clusters."""
    if systems == 1:
        name, inputs, tools = f"a liquid of {atoms}", partial(liquid, atoms, steps), {OURS: ours, "OpenMM": openmm}
    else:
        name, inputs = f"{systems} clusters of {atoms}", partial(clusters, systems, atoms, steps)
        tools: dict[str, Tool] = {OURS: ours, "eager PyTorch": eager, "jax-md": jax_md}
    flop = PAIR_FLOP * near(atoms, systems == 1) * systems * atoms * steps
    moved = 4.0 * 3 * 4 * systems * atoms  # positions and velocities in and out, once a run
    return Case(f"simulate, {name}, {steps} steps", inputs, tools, check, moved, flop, point=point)


# --- a learnt drift: the module and the noise -------------------------------------------------------------------------


class Drift(NamedTuple):
    network: nn.Module
    x: Tensor


STEPS, DT, NOISE = 20, 0.05, 0.3


def drift() -> Drift:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(64, 256), nn.SiLU(), nn.Linear(256, 64)).requires_grad_(False)
    return Drift(network, torch.randn(1024, 64))


def in_field(given: Drift) -> Run:
    field, law = VectorField(lambda x, t: given.network(x)), EulerMaruyama(DT, NOISE)
    return lambda _: simulate(field, given.x, integrator=law, steps=STEPS, seed=0).positions


def bare(given: Drift) -> Run:
    def run(_: int) -> Tensor:
        p = given.x
        for _ in range(STEPS):
            p = p + DT * given.network(p) + NOISE * DT**0.5 * torch.randn_like(p)
        return p

    return run


def torchsde(given: Drift) -> Run:
    import torchsde

    class Sde(nn.Module):
        noise_type, sde_type = "diagonal", "ito"

        def f(self, t: Tensor, y: Tensor) -> Tensor:
            return given.network(y)

        def g(self, t: Tensor, y: Tensor) -> Tensor:
            return torch.full_like(y, NOISE)

    ends = torch.tensor([0.0, STEPS * DT])
    return lambda _: torchsde.sdeint(Sde(), given.x, ends, dt=DT, method="euler")[-1]


def check_law(given: Drift, tool: str, ours: Tensor, theirs: Tensor) -> None:
    """One law: means and spreads of 65,536 numbers. Ours is held to the bare loop."""
    theirs = bare(given)(1) if tool == OURS else theirs
    assert abs(float(ours.mean() - theirs.mean())) < 5 * math.sqrt(2 / ours.numel()) * float(ours.std()), tool
    assert abs(float(ours.std() / theirs.std()) - 1) < 0.05, tool


LOOP = Case(
    "simulate, an MLP's drift, 1024 x 64, 20 steps",
    drift,
    {OURS: in_field, "bare loop": bare, "torchsde": torchsde},
    check_law,
    moved=4.0 * 2 * 1024 * 64,
    flop=2.0 * 2 * 64 * 256 * 1024 * STEPS,
)
CLUSTERS, LIQUIDS = [case(256, 13, 20), case(1024, 32, 10)], [case(1, 864, 50), case(1, 4000, 20)]
CURVES = [case(systems, 32, 10, Point("simulate, clusters of 32", "S", systems)) for systems in (16, 64, 256, 1024)]
CURVES += [case(1, atoms, 20, Point("simulate, a liquid", "N", atoms)) for atoms in (1000, 2000, 4000, 8000)]


@across(CLUSTERS)
def test_clusters(case, tool, raced):
    raced(case, tool)


@across(LIQUIDS)
def test_liquids(case, tool, raced):
    raced(case, tool)


@across([LOOP])
def test_loop(case, tool, raced):
    raced(case, tool)


@across(CURVES)
def test_simulate_grows(case, tool, raced):
    raced(case, tool)
