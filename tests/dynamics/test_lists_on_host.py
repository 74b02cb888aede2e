"""Lists of neighbours in the CUDA kernels, on a host: the bits of all pairs, whatever the lists were.

``kernels_on_host`` lists from 400 atoms on. So a system of 300 goes by all pairs alone, and by lists in a batch with
one of 420: its bits have to be the same. Lists have room for 30 there, and some of these atoms have more neighbours.
"""

from __future__ import annotations

import pytest
import torch

from gmkern.dynamics import BAOAB, RK4, EulerMaruyama, Harmonic, LennardJones, Morse, VelocityVerlet
from gmkern.dynamics.trajectory.schedule import schedule_of
from tests.dynamics.cuda_cases import learned
from tests.dynamics.kernels_on_host import model, ops_on_host, steps_of

SIZES = (300, 420)
PBC = {"free": False, "cube": True, "wire": True, "triclinic": True, "slab": [True, True, False]}
LJ = LennardJones(cutoff=1.8)


@pytest.fixture(scope="module")
def host():
    return ops_on_host()


def liquid(name: str, dtype: torch.dtype, dim: int = 3):
    """Two systems of density 0.8 in an order of no meaning, some atoms outside their box: positions, speeds, boxes."""
    parts, cells = [], []
    for n in SIZES:
        narrow = (n / 0.8) ** (1 / dim) if name == "cube" else 4.2
        sides = torch.tensor([narrow] * (dim - 1) + [n / 0.8 / narrow ** (dim - 1)], dtype=torch.float64)
        points = [round(float(s) * 0.8 ** (1 / dim) + 0.4) + 1 for s in sides]
        axes = [(torch.arange(p) + 0.5) / p for p in points]
        grid = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).reshape(-1, dim).double()
        grid = grid[torch.randperm(len(grid))[:n]]
        cell = torch.diag(sides)
        if name in ("triclinic", "slab"):
            cell[-1, 0], cell[1, 0] = 3.0, 0.3
        if PBC[name] is True:
            grid = grid + torch.randint(-2, 3, grid.shape)
        parts.append(grid @ cell + 0.03 * torch.randn(n, dim, dtype=torch.float64))
        cells.append(cell)
    x = torch.cat(parts).to(dtype)
    return x, torch.randn(x.shape).to(dtype), None if name == "free" else torch.stack(cells)


def both(host, field, x, v, cell, pbc, integrator, types=None, **kw):
    """The run of both systems, and the first one's alone."""
    first = SIZES[0]
    made = model(field, x, SIZES, types, cell, pbc)
    log_probs = kw.pop("log_probs", None)
    together = steps_of(host, made, x, v, integrator, log_probs=log_probs, **kw)
    alone = model(field, x[:first], SIZES[:1], None if types is None else types[:first],
                  None if cell is None else cell[:1], pbc)  # fmt: skip
    log_probs = None if log_probs is None else log_probs[:, :1].contiguous()
    return together, steps_of(host, alone, x[:first], v[:first], integrator, log_probs=log_probs, **kw)


def the_same(together, alone):
    first = SIZES[0]
    assert torch.equal(together[0][:first], alone[0])
    assert torch.equal(together[1][:first], alone[1])
    assert torch.equal(together[2][:, :first], alone[2])
    assert torch.equal(together[3][:, :1], alone[3])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", PBC)
def test_a_run_by_lists_has_the_bits_of_all_pairs(host, name, dtype):
    """Atoms go further than the skin, so that lists are made anew; and the CPU agrees to rounding."""
    x, v, cell = liquid(name, dtype)
    together, alone = both(host, LJ, x, v, cell, PBC[name], BAOAB(0.004, 2.0, 1.0), steps=24, record_every=8)
    the_same(together, alone)
    assert torch.isfinite(together[0]).all()
    assert float((alone[0] - x[: SIZES[0]]).abs().max()) > 0.15 * 1.8
    if dtype == torch.float64:
        made = model(LJ, x, SIZES, None, cell, PBC[name])
        want = steps_of(torch.ops.gmkern, made, x, v, BAOAB(0.004, 2.0, 1.0), steps=24, record_every=8)
        assert float((together[0] - want[0]).abs().max()) < 1e-9


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", PBC)
def test_a_look_by_lists_has_the_bits_of_all_pairs(host, name, dtype):
    """Energies, forces and their adjoint, of terms with cutoffs of their own; 300 atoms alone are too few for lists."""
    x, u, cell = liquid(name, dtype)
    types, by_energy, first = torch.arange(720) % 2, torch.randn(2).to(dtype), SIZES[0]
    field = LennardJones([1.0, 0.7], [1.0, 0.9], cutoff=1.8) + Morse(0.5, 3.0, 1.1, cutoff=1.4) + Harmonic(0.1)
    both = model(field, x, SIZES, types, cell, PBC[name])
    one = model(field, x[:first], SIZES[:1], types[:first], None if cell is None else cell[:1], PBC[name])
    energy, forces = host.energy_and_forces(x, *both.arguments)
    alone = host.energy_and_forces(x[:first], *one.arguments)
    assert torch.equal(energy[:1], alone[0])
    assert torch.equal(forces[:first], alone[1])
    adjoint = host.energy_and_forces_backward(x, by_energy, u, *both.arguments, False)[0]
    assert torch.equal(
        adjoint[:first], host.energy_and_forces_backward(x[:first], by_energy[:1], u[:first], *one.arguments, False)[0]
    )
    want = torch.ops.gmkern.energy_and_forces(x, *both.arguments)[1]
    assert float((forces - want).abs().max()) < 200 * torch.finfo(dtype).eps * float(want.abs().max())


@pytest.mark.parametrize("integrator", [VelocityVerlet(0.004), RK4(0.002)], ids=lambda i: type(i).__name__)
def test_terms_types_and_stages(host, integrator):
    """Two terms of different cutoffs by types, in the plane; a term without a cutoff, of which there are no lists."""
    x, v, cell = liquid("triclinic", torch.float32, dim=2)
    types = torch.arange(len(x)) % 2
    by_type = LennardJones([1.0, 0.7], [1.0, 0.9], cutoff=1.7) + Morse(0.5, 3.0, 1.1, cutoff=1.4) + Harmonic(0.1)
    the_same(*both(host, by_type, x, v, cell, True, integrator, types=types, steps=4, record_every=2))
    x, v, _ = liquid("free", torch.float32)
    the_same(*both(host, LJ + Morse(0.01), x, v, None, False, integrator, steps=2, record_every=1))


def test_a_path_of_leaps_is_scored_as_it_was_run(host):
    """Log-probabilities by lists, of a run, of its path in two parts, and of a path whose frames are far apart."""
    x, v, cell = liquid("wire", torch.float32)
    law, none = EulerMaruyama(1e-4, 1.0), torch.zeros(2, 2, dtype=torch.float64)
    together, alone = both(host, LJ, x, v, cell, True, law, steps=5, record_every=1, log_probs=none, first=0)
    the_same(together, alone)
    assert torch.equal(together[4][:, :1], alone[4])
    made = model(LJ, x, SIZES, None, cell, True)
    table = schedule_of(law, 2, 0, 5, 0.0, x.device).table(False)

    def score(frames, before):
        return host.path_log_prob(frames.contiguous(), *made.arguments, table, 420, before, 0, x[:0])

    frames = torch.cat([x[None], together[2]])
    assert torch.equal(score(frames[2:], score(frames[:3], none)), together[4])
    leaps = torch.cat([frames[::2], frames[1::2].flip(0), (frames[:1] + 0.4 * torch.randn(x.shape))])
    alone = model(LJ, x[:300], SIZES[:1], None, cell[:1], True)
    leaps_alone, before = leaps[:, :300].contiguous(), none[:, :1].contiguous()
    want = host.path_log_prob(leaps_alone, *alone.arguments, table, 300, before, 0, x[:0])
    assert torch.equal(score(leaps, none)[:, :1], want)


def test_types_and_splines_that_are_none_spoil_their_system_as_over_all_pairs(host):
    x, _, cell = liquid("cube", torch.float32)
    first, types = SIZES[0], torch.arange(720) % 2
    for field, own in ((LennardJones([1.0, 0.7], cutoff=1.8), types), (learned(), None)):
        both = list(model(field, x, SIZES, own, cell, True).arguments)
        one = list(model(field, x[:first], SIZES[:1], None if own is None else own[:first], cell[:1], True).arguments)
        for arguments in (both, one):
            if own is None:
                arguments[4] = arguments[4].detach().clone()
                arguments[4][0] = 1e9  # no place among the coefficients
            else:
                arguments[1] = arguments[1].clone()
                arguments[1][5] = 2
        forces, alone = host.energy_and_forces(x, *both)[1], host.energy_and_forces(x[:first], *one)[1]
        assert alone.isnan().all()
        assert forces[:first].isnan().all()
        assert bool(torch.isfinite(forces[first:]).all()) == (own is not None)


def test_what_is_lost_spoils_its_system_alone(host):
    """Two atoms that meet: all pairs serve their system then, with the values that it has alone."""
    x, v, _ = liquid("free", torch.float32)
    x[5] = x[6]
    together, alone = both(host, LJ, x, v, None, False, VelocityVerlet(0.004), steps=3, record_every=1)
    assert torch.equal(together[0][:300].isnan(), alone[0].isnan())
    assert alone[0].isnan().any()
    assert torch.isfinite(together[0][300:]).all()
    made = model(LJ, x[300:], SIZES[1:])
    rest = steps_of(host, made, x[300:], v[300:], VelocityVerlet(0.004), steps=3)
    assert torch.equal(together[0][300:], rest[0])
