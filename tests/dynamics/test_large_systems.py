"""Systems that take neighbour lists and threads: the bits of all pairs, whatever the lists and threads were."""

from __future__ import annotations

import pytest
import torch

from gmkern.dynamics import (
    BAOAB,
    RK4,
    Coulomb,
    EulerMaruyama,
    Harmonic,
    LennardJones,
    Morse,
    energy_and_forces,
    path_log_prob,
    simulate,
)

pytestmark = pytest.mark.sanitize

CUTOFF = 2.0
BOXES = {  # in units of the liquid's side
    "free": None,
    "cube": (torch.eye(3), True),
    "slab": (torch.eye(3), [True, True, False]),
    "triclinic": (torch.tensor([[1.0, 0.0, 0.0], [0.2, 1.0, 0.0], [0.1, -0.3, 1.0]]), True),
    "tilted wire": (torch.tensor([[0.6, 0.8, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]), [True, False, False]),
}


def liquid(atoms: int, dtype: torch.dtype, dim: int = 3) -> tuple[torch.Tensor, float]:
    """Positions in an order of no meaning, and the side of their box: density 0.8, a jittered lattice."""
    generator = torch.Generator().manual_seed(atoms)
    side = (atoms / 0.8) ** (1 / dim)
    points = round(atoms ** (1 / dim) + 0.5)
    axis = (torch.arange(points) + 0.5) * side / points
    grid = torch.stack(torch.meshgrid(*[axis] * dim, indexing="ij"), -1).reshape(-1, dim)
    grid = grid[torch.randperm(len(grid), generator=generator)[:atoms]]
    return (grid + 0.03 * torch.randn(grid.shape, generator=generator)).to(dtype), side


def boxed(name: str, side: float) -> dict:
    if BOXES[name] is None:
        return {}
    cell, pbc = BOXES[name]
    return {"cell": side * cell, "pbc": pbc}


# energy_and_forces looks at all pairs of up to 999 atoms, and lists those of more; simulate lists from 300 on.
LARGE, SMALL = 1003, 999


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("box", BOXES)
def test_lists_give_the_bits_of_all_pairs(box, dtype):
    x, side = liquid(SMALL, dtype)
    given = boxed(box, side)
    types = torch.arange(SMALL) % 2
    by_type = LennardJones([1.0, 0.7], [1.0, 0.9], cutoff=CUTOFF) + Morse(0.5, 3.0, 1.1, cutoff=1.6)
    for field, more in [(LennardJones(cutoff=CUTOFF), given), (by_type, {"types": types, **given})]:
        looked = energy_and_forces(field, x, **more)
        step = simulate(field, x, integrator=EulerMaruyama(1.0, 0.0), steps=1, record_every=1, **more)
        assert torch.equal(step.positions, x + looked.forces)  # x + 1 * f, rounded once
        path = simulate(field, x, integrator=BAOAB(0.004, 2.0, 1.0), steps=12, seed=3, record_every=4, **more)
        for frame, energy in zip(path.frames, path.energies, strict=True):
            assert torch.equal(energy_and_forces(field, frame, **more).energy, energy)


@pytest.mark.parametrize("box", BOXES)
def test_a_run_does_not_depend_on_when_lists_were_made(box):
    x, side = liquid(LARGE, torch.float32)
    law = {"integrator": BAOAB(0.004, 2.0, 1.0), "seed": 3, **boxed(box, side)}
    lj = LennardJones(cutoff=CUTOFF)
    path = simulate(lj, x, steps=30, **law)
    assert (path.positions - x).abs().max() > 0.3  # half the skin is 0.15
    end, speeds = x, None
    for step in range(30):  # lists made anew at each step
        end, speeds, *_ = simulate(lj, end, velocities=speeds, steps=1, start_step=step, **law)
    assert torch.equal(end, path.positions)
    assert torch.equal(speeds, path.velocities)


def test_threads_and_batches_leave_the_bits():
    x, side = liquid(LARGE, torch.float32)
    y, _ = liquid(410, torch.float32)
    lj, cell = LennardJones(cutoff=CUTOFF), side * torch.eye(3)
    law = {"integrator": BAOAB(0.004, 2.0, 1.0), "seed": 3, "cell": cell, "pbc": True, "steps": 12}
    threads = torch.get_num_threads()
    runs = []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            runs.append(simulate(lj, x, sample_ids=[5], **law).positions)
            ragged = torch.cat([x, y, x])
            ptr = [0, LARGE, LARGE + 410, 2 * LARGE + 410]
            runs.append(simulate(lj, ragged, system_ptr=ptr, sample_ids=[5, 1, 5], **law).positions[-LARGE:])
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(run, runs[0]) for run in runs)
    assert not torch.equal(simulate(lj, x, sample_ids=[6], **law).positions, runs[0])


@pytest.mark.parametrize("threads", [1, 2])
def test_two_dimensions_with_every_integrator(threads):
    x, side = liquid(410, torch.float64, dim=2)
    given = {"cell": side * torch.eye(2), "pbc": [True, False]}
    lj, before = LennardJones(cutoff=CUTOFF), torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        for integrator in (RK4(0.002), EulerMaruyama(1e-4, 0.3)):
            got = simulate(lj, x, integrator=integrator, steps=3, seed=0, **given).positions
            want = simulate(lj, x, integrator=integrator, steps=3, seed=0, backend="reference", **given).positions
            # forces up to 1e3, differences of 1e-12 in them, over a time of at most 6e-3, which grow little
            assert (got - want).abs().max() < 1e-10
    finally:
        torch.set_num_threads(before)


def test_gradients_by_lists_are_those_of_all_pairs():
    x, _side = liquid(LARGE, torch.float64)
    generator = torch.Generator().manual_seed(0)
    u = torch.randn(x.shape, generator=generator, dtype=torch.float64)
    found = []
    for extra in (None, Coulomb(0.0)):  # which adds 0 to each pair, and has no cutoff: no lists
        at = x.clone().requires_grad_()
        depth = torch.tensor([[1.0, 0.8], [0.8, 0.6]], dtype=torch.float64, requires_grad=True)
        field = LennardJones(depth, 1.0, cutoff=CUTOFF)
        field = field if extra is None else field + extra
        energy, forces = energy_and_forces(field, at, types=torch.arange(LARGE) % 2)
        found.append(torch.autograd.grad((forces * u).sum() + 0.3 * energy.sum(), (at, depth)))
    assert torch.equal(found[0][0], found[1][0])
    assert torch.equal(found[0][1], found[1][1])


def test_path_log_prob_of_a_large_system_is_simulates():
    x, side = liquid(410, torch.float32)
    law = {"integrator": EulerMaruyama(1e-4, 0.5), "cell": side * torch.eye(3), "pbc": True}
    lj = LennardJones(cutoff=CUTOFF)
    path = simulate(lj, x, steps=8, seed=1, record_every=1, log_prob=True, **law)
    again = path_log_prob(lj, path.frames, **law)
    assert torch.equal(again.forward, path.log_prob_forward)
    assert torch.equal(again.backward, path.log_prob_backward)


@pytest.mark.filterwarnings("ignore:simulate. systems ended:RuntimeWarning")
def test_a_lost_atom_is_seen_by_all():
    x, side = liquid(LARGE, torch.float32)
    x[7] = x[500]  # the two meet
    lj = LennardJones(cutoff=CUTOFF)
    path = simulate(lj, x, integrator=BAOAB(0.004, 1.0, 1.0), seed=0, steps=3, cell=side * torch.eye(3), pbc=True)
    assert not torch.isfinite(path.positions).any()
    far = x.clone()
    far[7], far[8] = far[7] + 1e7, far[8] - 3e18  # where fp32 tells no distances: all pairs
    assert torch.isfinite(energy_and_forces(lj + Harmonic(1e-30), far).forces).all()
