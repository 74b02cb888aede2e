"""simulate() along potentials: kernels against the reference, stationary laws, order, reversal, invariance."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
import torch

import gmkern
from gmkern.dynamics import (
    BAOAB,
    RK4,
    EulerMaruyama,
    Harmonic,
    Heun,
    LennardJones,
    VelocityVerlet,
    energy_and_forces,
    path_log_prob,
    simulate,
)
from gmkern.dynamics.systems import box_of, masses_of, systems_of
from gmkern.dynamics.trajectory import ops, slices
from gmkern.testing import run_isa
from tests.dynamics.truth import cloud, lattice, stationary_baoab, stationary_euler_maruyama

pytestmark = pytest.mark.sanitize

INTEGRATORS = [VelocityVerlet(0.003), BAOAB(0.003, 0.5, 2.0), EulerMaruyama(3e-4, 1.0), Heun(3e-4), RK4(3e-4)]
named = pytest.mark.parametrize("integrator", INTEGRATORS, ids=lambda i: type(i).__name__)


@named
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("n", "dim"), [(1, 3), (7, 2), (13, 3), (32, 3), (37, 3)])
def test_kernel_against_reference(integrator, dtype, n, dim):
    """Thirty steps: each adds a few roundings of the state, which LJ's curvature (below 100 here) hardly grows."""
    x = cloud(3, n, dim).to(dtype)
    masses = 1.0 + torch.rand(3, n)
    field = LennardJones(cutoff=2.5) + Harmonic(0.2, 0.3)
    kw = {"integrator": integrator, "steps": 30, "seed": 5, "masses": masses, "record_every": 8}
    got = simulate(field, x, backend="cpu", **kw)
    want = simulate(field, x, backend="reference", **kw)
    bound = 30 * 30 * torch.finfo(dtype).eps * float(want.positions.abs().max() + 1)
    assert float((got.positions - want.positions).abs().max()) < bound
    assert float((got.frames - want.frames).abs().max()) < bound
    # an energy moves by at most the largest force times the shift of each of n * dim coordinates
    force = float(energy_and_forces(field, want.positions.double()).forces.abs().max()) + 10
    assert float((got.energies - want.energies).abs().max()) < bound * force * n * dim
    assert got.frames.shape == (4, 3, n, dim)
    assert torch.equal(got.frames[0], x)
    if integrator.has_velocities:
        assert float((got.velocities - want.velocities).abs().max()) < bound * force


@named
def test_periodic_boxes(integrator):
    x = cloud(2, 27)
    cells = torch.eye(3, dtype=torch.float64) * torch.tensor([3.5, 4.0]).reshape(2, 1, 1) + 0.1 * torch.rand(2, 3, 3)
    kw = {"integrator": integrator, "steps": 40, "seed": 1, "cell": cells, "pbc": True}
    got = simulate(LennardJones(cutoff=1.6), x, **kw)
    want = simulate(LennardJones(cutoff=1.6), x, backend="reference", **kw)
    assert float((got.positions - want.positions).abs().max()) < 1e-11
    kw["pbc"] = [True, True, False]
    other = simulate(LennardJones(cutoff=1.6), x, **kw)
    assert float((got.positions - other.positions).abs().max()) > 1e-6


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_kicks_are_the_contract_noise(backend):
    x = torch.zeros(2, 9, 3)
    path = simulate(Harmonic(0.0), x, integrator=EulerMaruyama(1.0, 1.0), steps=1, seed=11, start_step=6,
                    sample_ids=[8, 2], backend=backend)  # fmt: skip
    want = gmkern.random.normal(11, [8, 2], 6, 27, stream=gmkern.random.KICK)
    assert torch.equal(path.positions.reshape(2, 27), want)
    ragged = simulate(Harmonic(0.0), x[0], integrator=EulerMaruyama(1.0, 1.0), steps=1, seed=11, start_step=6,
                      sample_ids=[8, 2], system_ptr=[0, 4, 9], backend=backend)  # fmt: skip
    assert torch.equal(ragged.positions[:4].reshape(-1), want[0, :12])
    assert torch.equal(ragged.positions[4:].reshape(-1), want[1, :15])


def moments(x: torch.Tensor, v: torch.Tensor | None = None) -> tuple[np.ndarray, int]:
    """The covariance about 0 of all elements (with their velocities), and how many there are."""
    rows = torch.stack([x.flatten(), x.flatten() if v is None else v.flatten()]).double()
    return (rows @ rows.T / rows.shape[1]).numpy(), rows.shape[1]


@pytest.mark.endless
@pytest.mark.parametrize(("dt", "friction"), [(0.5, 1.0), (1.0, 0.3)])
def test_baoab_has_the_stationary_law_of_its_own_step(dt, friction):
    """Large steps, so that every other order of the five parts (OBABO, ABOBA, ...) has a law 5% or more away.

    A second moment of n normals with variances a, b and covariance c has the standard error sqrt((a b + c^2) / n); the
    elements are independent, one chain each, and 200 steps forget the start by keep^200 or faster.
    """
    k, mass, temperature = 1.3, 0.8, 0.7
    want = stationary_baoab(k, mass, dt, temperature, friction)
    path = simulate(Harmonic(k), torch.zeros(20_000, 4, 3), masses=mass, steps=200, seed=3,
                    integrator=BAOAB(dt, temperature, friction))  # fmt: skip
    got, n = moments(path.positions, path.velocities)
    error = np.sqrt((np.outer(np.diag(want), np.diag(want)) + want**2) / n)
    assert (np.abs(got - want) < 5 * error).all(), (got, want)
    assert want[0, 0] == pytest.approx(temperature / k, rel=1e-12)  # BAOAB's own virtue: exact in positions
    # negative control: the temperature it was asked for is not the velocities' own at this step
    assert abs(got[1, 1] - temperature / mass) > 20 * error[1, 1]


def test_euler_maruyama_has_the_stationary_law_of_its_own_step():
    k, dt, noise = 1.3, 0.4, 0.9
    want = stationary_euler_maruyama(k, dt, noise)
    path = simulate(Harmonic(k), torch.zeros(20_000, 4, 3), steps=100, seed=3, integrator=EulerMaruyama(dt, noise))
    got, n = moments(path.positions)
    assert abs(got[0, 0] - want) < 5 * math.sqrt(2 / n) * want
    assert abs(got[0, 0] - noise**2 / (2 * k)) > 20 * math.sqrt(2 / n) * want  # the law of the exact diffusion


@pytest.mark.parametrize(("integrator", "order"), [(VelocityVerlet, 2), (Heun, 2), (RK4, 4)])
def test_order_of_convergence(integrator, order):
    field = LennardJones() + Harmonic(0.5)
    x = cloud(1, 6)
    horizon = 0.2 if integrator is VelocityVerlet else 0.01
    fine = simulate(field, x, integrator=integrator(horizon / 3200), steps=3200).positions
    errors = [
        float((simulate(field, x, integrator=integrator(horizon / n), steps=n).positions - fine).abs().max())
        for n in (20, 40)
    ]
    assert math.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.3)


def test_velocity_verlet_runs_backwards_to_where_it_began():
    x = cloud(4, 13)
    there = simulate(LennardJones(), x, integrator=VelocityVerlet(0.005), steps=200)
    back = simulate(LennardJones(), there.positions, velocities=-there.velocities, integrator=VelocityVerlet(0.005),
                    steps=200)  # fmt: skip
    # roundings of 400 steps, grown by the flow's own divergence (a few hundred at most over this time)
    assert float((back.positions - x).abs().max()) < 400 * 500 * torch.finfo(torch.float64).eps
    assert float((there.positions - x).abs().max()) > 0.01


def test_velocity_verlet_keeps_the_energy():
    """Its error stays of order dt^2 of the energy's scale for good; first-order Euler would gain more in ten steps."""
    x = cloud(4, 13, noise=0.02)
    path = simulate(LennardJones(), x, integrator=VelocityVerlet(0.002), steps=5000)
    start = energy_and_forces(LennardJones(), x).energy
    end = energy_and_forces(LennardJones(), path.positions).energy + 0.5 * (path.velocities**2).sum((1, 2))
    assert float((end - start).abs().max()) < 1e-3 * float(start.abs().max())
    assert float(path.velocities.sum(1).abs().max()) < 1e-10  # momentum


@named
def test_same_bits_alone_in_any_batch_order_and_thread_count(integrator, threads):
    sizes = [5, 33, 0, 16, 1, 48]
    ptr = [0, *np.cumsum(sizes).tolist()]
    x = torch.cat([lattice(n) + 0.05 * torch.randn(n, 3, dtype=torch.float64) for n in sizes]).float()
    ids = torch.tensor([3, 9, 4, 1, 0, 7])
    temperatures = torch.rand(6)
    kw = {"steps": 25, "seed": 2, "masses": 1.5, "integrator": integrator, "record_every": 10}
    threads(2)
    whole = simulate(LennardJones(), x, system_ptr=ptr, sample_ids=ids, **kw)
    threads(1)
    for s in (5, 1, 0, 3):
        alone = simulate(LennardJones(), x[ptr[s] : ptr[s + 1]], sample_ids=ids[s : s + 1], **kw)
        assert torch.equal(alone.positions, whole.positions[ptr[s] : ptr[s + 1]])
        assert torch.equal(alone.frames, whole.frames[:, ptr[s] : ptr[s + 1]])
        assert torch.equal(alone.energies[:, 0], whole.energies[:, s])
    if not integrator.is_random:
        return
    other = simulate(LennardJones(), x[: ptr[1]], sample_ids=ids[1:2], **kw)  # negative control: another's noise
    assert not torch.equal(other.positions, whole.positions[: ptr[1]])
    if isinstance(integrator, BAOAB):
        each = BAOAB(0.003, temperatures, 2.0)
        mixed = simulate(LennardJones(), x, system_ptr=ptr, sample_ids=ids, **{**kw, "integrator": each})
        one = BAOAB(0.003, float(temperatures[1].double()), 2.0)
        alone = simulate(LennardJones(), x[ptr[1] : ptr[2]], sample_ids=ids[1:2], **{**kw, "integrator": one})
        assert torch.equal(alone.positions, mixed.positions[ptr[1] : ptr[2]])


@named
def test_slices_and_continuation_leave_no_trace(integrator, monkeypatch):
    x = cloud(3, 19).float()
    kw = {"integrator": integrator, "seed": 8}
    whole = simulate(LennardJones(), x, steps=60, record_every=7, **kw)
    monkeypatch.setattr(slices, "_FIRST_PAIRS", 1)
    monkeypatch.setattr(slices, "_SLICE_SECONDS", 0.0)  # every slice is one step
    cut = simulate(LennardJones(), x, steps=60, record_every=7, **kw)
    for a, b in zip(whole[:4], cut[:4], strict=True):
        assert a is b is None or torch.equal(a, b)
    first = simulate(LennardJones(), x, steps=21, record_every=7, **kw)
    rest = simulate(LennardJones(), first.positions, velocities=first.velocities, steps=39, start_step=21,
                    record_every=7, **kw)  # fmt: skip
    assert torch.equal(rest.positions, whole.positions)
    assert torch.equal(torch.cat([first.frames, rest.frames[1:]]), whole.frames)
    assert torch.equal(torch.cat([first.energies, rest.energies[1:]]), whole.energies)


def test_every_instruction_set(isa):
    x = cloud(3, 21).float()
    code = """
    from gmkern.dynamics import BAOAB, EulerMaruyama, LennardJones, path_log_prob, simulate
    field = LennardJones(cutoff=2.5)
    path = simulate(field, x, integrator=BAOAB(0.003, 0.5, 2.0), steps=30, seed=5, backend="cpu")
    law = {"integrator": EulerMaruyama(1e-3, 0.9), "backward": "bridge", "backend": "cpu"}
    walk = simulate(field, x, steps=6, seed=5, record_every=1, log_prob=True, **law)
    again = path_log_prob(field, walk.frames, **law)
    assert torch.equal(again.forward, walk.log_prob_forward) and torch.equal(again.backward, walk.log_prob_backward)
    out = path.positions, path.velocities, walk.frames, again.forward, again.backward
    """
    got = run_isa(isa, code, x=x)
    want = simulate(LennardJones(cutoff=2.5), x, integrator=BAOAB(0.003, 0.5, 2.0), steps=30, seed=5,
                    backend="reference")  # fmt: skip
    bound = 30 * 30 * torch.finfo(torch.float32).eps * float(want.positions.abs().max() + 1)
    assert float((got[0] - want.positions).abs().max()) < bound
    again = run_isa(isa, code, threads=2, x=x)
    assert all(torch.equal(a, b) for a, b in zip(again, got, strict=True))
    scored = path_log_prob(LennardJones(cutoff=2.5), got[2], integrator=EulerMaruyama(1e-3, 0.9), backward="bridge",
                           backend="reference")  # fmt: skip
    # z = (x' - x - f dt) / scale, below 6: forces of up to 100 differ by 8 roundings
    bound = 6 * 6 * 63 * 100 * 8 * 2.0**-23 * 1e-3 / (0.9 * math.sqrt(1e-3))
    assert float((got[3] - scored.forward).abs().max()) < bound
    assert torch.allclose(got[4], scored.backward, rtol=1e-12)  # no force in it


def test_the_op_is_well_behaved():
    for dtype in (torch.float32, torch.float64):
        x = cloud(2, 5).to(dtype)
        systems = systems_of(x, None)
        flat = systems.flat(x)
        box = box_of(None, False, systems, LennardJones(), x.device)
        parameters = torch.tensor([1.0, 1.0, 0.0, 0.0, math.inf, 0.0], dtype=torch.float64)
        coefficients = torch.tensor([[[0.003, 1.0, 1.0, 1.0, 0.0]]], dtype=torch.float64)
        arguments = (
            flat, torch.zeros_like(flat), masses_of(None, systems, x), systems.ptr,
            torch.empty(0, dtype=torch.int64), [0], [6], parameters, box.cell, box.inverse, 1, coefficients,
            torch.tensor(3), torch.arange(2), torch.tensor(0), 7, 3, 1, 5,
            torch.zeros(2, 2, dtype=torch.float64), 0, flat[:0],
        )  # fmt: skip
        torch.library.opcheck(torch.ops.gmkern.simulate.default, arguments)
        torch.library.opcheck(
            torch.ops.gmkern.simulate.default, (*arguments[:-3], arguments[-3][:, :0], *arguments[-2:])
        )
        with pytest.raises(RuntimeError, match="gmkern: largest"):
            ops.simulate(*arguments[:-4], 4, *arguments[-3:])
        with pytest.raises(RuntimeError, match="gmkern: log_probs"):
            ops.simulate(*arguments[:-3], arguments[-3][:, :1], *arguments[-2:])
        with pytest.raises(RuntimeError, match="gmkern: velocities"):
            ops.simulate(flat, flat[:1], *arguments[2:])


def test_a_compiled_caller_gets_fresh_noise_from_a_step_tensor():
    x = cloud(2, 5).float().reshape(10, 3)
    none, parameters = (
        torch.empty(0, 3, 3, dtype=torch.float64),
        torch.tensor([1.0, 1.0, 0.0, 0.0, math.inf, 0.0]).double(),
    )
    coefficients = torch.tensor([[[0.003, 1.0, 1.0, 1.0, 0.0]]], dtype=torch.float64)

    def run(step):
        return torch.ops.gmkern.simulate(
            x, x, torch.ones(10), torch.tensor([0, 5, 10]), torch.empty(0, dtype=torch.int64), [0], [6],
            parameters, none, none, 1, coefficients,
            torch.tensor(1), torch.arange(2), step, 2, 0, 0, 5, torch.empty(2, 0, dtype=torch.float64), 0, x[:0],
        )[0]  # fmt: skip

    compiled = torch.compile(run, fullgraph=True, backend="aot_eager")
    for step in (0, 1, 2):
        assert torch.equal(compiled(torch.tensor(step)), run(torch.tensor(step)))
    assert not torch.equal(run(torch.tensor(0)), run(torch.tensor(1)))


def test_atoms_that_meet_are_reported_and_stay_in_their_system():
    x = cloud(3, 5).float()
    x[1, 1] = x[1, 0]
    for backend in ("cpu", "reference"):
        with pytest.warns(RuntimeWarning, match="not finite"):
            path = simulate(LennardJones(), x, integrator=VelocityVerlet(0.001), steps=3, backend=backend)
        assert torch.isfinite(path.positions[[0, 2]]).all()
        assert not torch.isfinite(path.positions[1, :2]).any()


def test_progress_and_no_steps(capsys, monkeypatch):
    x = cloud(2, 5)
    path = simulate(Harmonic(), x, integrator=VelocityVerlet(0.1), steps=0, record_every=1)
    assert torch.equal(path.positions, x)
    assert torch.equal(path.velocities, torch.zeros_like(x))
    assert path.frames.shape == (1, 2, 5, 3)
    pytest.importorskip("rich")
    simulate(Harmonic(), x, integrator=VelocityVerlet(0.1), steps=20, progress=True)
    assert capsys.readouterr() == ("", "")  # not a terminal: nothing is drawn into it
    monkeypatch.setenv("FORCE_COLOR", "1")  # by which rich takes it for one
    shown = simulate(Harmonic(), x, integrator=VelocityVerlet(0.1), steps=20, progress=True)
    drawn = capsys.readouterr()
    assert drawn.out == ""
    assert "simulate" in drawn.err
    assert torch.equal(shown.positions, simulate(Harmonic(), x, integrator=VelocityVerlet(0.1), steps=20).positions)


def test_bad_arguments_are_named():
    x, lj = cloud(2, 4), LennardJones()
    verlet = VelocityVerlet(0.01)
    for name, error, call in [
        ("field", TypeError, lambda: simulate(None, x, integrator=verlet, steps=1)),
        ("positions", ValueError, lambda: simulate(lj, x[0, 0], integrator=verlet, steps=1)),
        ("positions", TypeError, lambda: simulate(lj, x.long(), integrator=verlet, steps=1)),
        ("masses", ValueError, lambda: simulate(lj, x, integrator=verlet, steps=1, masses=0.0)),
        ("masses", ValueError, lambda: simulate(lj, x, integrator=verlet, steps=1, masses=torch.ones(3))),
        ("masses", ValueError, lambda: simulate(lj, x, integrator=verlet, steps=1, masses=-torch.ones(4))),
        ("masses", TypeError, lambda: simulate(lj, x, integrator=verlet, steps=1, masses="1")),
        ("velocities", ValueError, lambda: simulate(lj, x, integrator=verlet, steps=1, velocities=x[:1])),
        ("seed", ValueError, lambda: simulate(lj, x, integrator=BAOAB(0.01, 1.0, 1.0), steps=1)),
        ("seed", TypeError, lambda: simulate(lj, x, integrator=BAOAB(0.01, 1.0, 1.0), steps=1, seed=0.5)),
        ("sample_ids", ValueError, lambda: simulate(lj, x, integrator=verlet, steps=1, sample_ids=[1, 2, 3])),
        ("system_ptr", ValueError, lambda: simulate(lj, x, integrator=verlet, steps=1, system_ptr=[0, 2])),
        ("cutoff", ValueError,
         lambda: simulate(LennardJones(cutoff=2.0), x, integrator=verlet, steps=1, cell=torch.eye(3), pbc=True)),
        ("temperature", ValueError,
         lambda: simulate(lj, x, integrator=BAOAB(0.01, [1.0, 1.0, 1.0], 1.0), steps=1, seed=0)),
        ("backend", ValueError, lambda: simulate(lj, x, integrator=verlet, steps=1, backend="cuda")),
    ]:  # fmt: skip
        with pytest.raises(error, match=name), warnings.catch_warnings():
            call()
