"""The CUDA launchers and kernels on a host, against the CPU's: their logic needs no GPU."""

from __future__ import annotations

import math

import pytest
import torch

from gmkern.dynamics import BAOAB, RK4, EulerMaruyama, Harmonic, Heun, LennardJones, VelocityVerlet, simulate
from gmkern.dynamics.trajectory.schedule import schedule_of
from tests.dynamics.cuda_cases import RING, SIZES, fields, learned, state, types_of
from tests.dynamics.kernels_on_host import model, ops_on_host, steps_of

FIELDS = fields()
CPU = torch.ops.gmkern


@pytest.fixture(scope="module")
def host():
    return ops_on_host()


def close(got, want, bound):
    assert got.shape == want.shape
    got, want = got.detach(), want.detach()
    assert float((got - want).abs().max()) < bound if got.numel() else True


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("dim", [2, 3])
@pytest.mark.parametrize("integrator", [VelocityVerlet(0.003), BAOAB(0.003, 0.5, 2.0), EulerMaruyama(3e-4, 1.0),
                                        Heun(3e-4), RK4(3e-4)], ids=lambda i: type(i).__name__)  # fmt: skip
def test_steps_are_the_cpus(host, dtype, dim, integrator):
    x, v = state(SIZES, dim, dtype)
    made = model(FIELDS["pairs"][0], x, SIZES)
    got, want = (steps_of(ops, made, x, v, integrator, steps=3, record_every=2, phase=1) for ops in (host, CPU))
    compare_runs(got, want, x, v, integrator)


@pytest.mark.parametrize("integrator", [VelocityVerlet(0.003), BAOAB(0.003, 0.5, 2.0), EulerMaruyama(3e-4, 1.0),
                                        Heun(3e-4), RK4(3e-4)], ids=lambda i: type(i).__name__)  # fmt: skip
def test_steps_of_a_system_too_large_for_a_block(host, integrator):
    """One on each side of the limit of 256 atoms, and the small one with the bits that it has alone."""
    sizes = (257, 30)
    x, v = state(sizes, 2, torch.float32)
    made = model(FIELDS["pairs"][0], x, sizes)
    got, want = (steps_of(ops, made, x, v, integrator, steps=3, record_every=2, phase=1) for ops in (host, CPU))
    compare_runs(got, want, x, v, integrator)
    if not integrator.is_random:  # whose noise is that of another sample id there
        small = model(FIELDS["pairs"][0], x[257:], sizes[1:])
        alone = steps_of(host, small, x[257:], v[257:], integrator, steps=3, record_every=2, phase=1)
        assert torch.equal(alone[0], got[0][257:])


def compare_runs(got, want, x, v, integrator):
    dtype = x.dtype
    # as kernel against reference in test_simulate.py: a few roundings a step
    bound = 30 * 3 * torch.finfo(dtype).eps * float(x.abs().max() + 1)
    for at, factor in ((0, 1), (1, 100), (2, 1), (3, 1e3)):
        close(got[at], want[at], bound * factor)
    assert got[2].shape[0] == 2
    if not integrator.has_velocities:
        assert torch.equal(got[1], v)


@pytest.mark.parametrize("name", ["terms", "types", "bonds", "learnt", "learnt types"])
def test_every_kind_of_term(host, name):
    """In double precision, where the bound of the test above leaves no room for a wrong term."""
    field, count = FIELDS[name]
    sizes = (13, 5, 40)
    x, v = state(sizes, 3, torch.float64)
    made = model(field, x, sizes, types_of(len(x), count))
    got, want = (steps_of(ops, made, x, v, BAOAB(0.003, 0.5, 2.0), steps=3, record_every=1) for ops in (host, CPU))
    for at, bound in ((0, 1e-12), (1, 1e-10), (2, 1e-12), (3, 1e-9)):
        close(got[at], want[at], bound)


def test_large_systems_boxes_and_schedules(host):
    sizes = (130, 300)
    x, v = state(sizes, 3, torch.float64)
    cell = 9.0 * torch.eye(3, dtype=torch.float64) + 0.3 * torch.rand(2, 3, 3, dtype=torch.float64)
    made = model(LennardJones(cutoff=2.5), x, sizes, cell=cell)
    dt = 0.003 * torch.rand(5, 2, dtype=torch.float64)
    integrator = BAOAB(dt, torch.rand(5, 1, dtype=torch.float64), 1.0)
    got, want = (steps_of(ops, made, x, v, integrator, steps=2, record_every=1) for ops in (host, CPU))
    for at, bound in ((0, 1e-12), (1, 1e-9), (2, 1e-12), (3, 1e-8)):
        close(got[at], want[at], bound)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("backward", [None, 0, 1, 2, 3])
def test_log_probabilities(host, dtype, backward):
    """On the path that was taken, which is compared beside it."""
    integrator = BAOAB(0.003, 0.5, 2.0)
    if backward is not None:
        dt = 1e-4 * torch.tensor([[3.0], [1.0], [2.0], [1.0], [3.0], [2.0]], dtype=torch.float64)
        integrator = EulerMaruyama(dt, torch.tensor([0.5, 1.0, 2.0]))
    backward = backward or 0
    sizes = (13, 0, 270 if dtype == torch.float64 else 70)
    x, v = state(sizes, 3, dtype)
    made = model(FIELDS["pairs"][0], x, sizes)
    before = torch.randn(2, 3, dtype=torch.float64)
    got, want = (steps_of(ops, made, x, v, integrator, steps=3, backward=backward, log_probs=before)
                 for ops in (host, CPU))  # fmt: skip
    # n elements of -z^2/2, z being a few rounding units of positions over the scale of a kick away from each other
    scale = 1e-2
    slack = 3 * 3 * max(sizes) * 5 * 30 * torch.finfo(dtype).eps * float(x.abs().max() + 1) / scale
    assert torch.equal(got[4][:, 1], before[:, 1])  # no atoms
    close(got[4], want[4], slack)
    assert float((want[4] - before).abs().max()) > 50
    plain = steps_of(host, made, x, v, integrator, steps=3)
    assert torch.equal(plain[0], got[0])  # asking changes nothing


@pytest.mark.parametrize("name", ["pairs", "learnt types", "bonds"])
@pytest.mark.parametrize("backward", range(4))
def test_a_paths_log_probabilities_are_the_runs_to_the_bit(host, name, backward):
    field, count = FIELDS[name]
    sizes = (13, 260 if name == "pairs" and backward == 3 else 40)
    x, v = state(sizes, 3, torch.float32)
    made = model(field, x, sizes, types_of(len(x), count))
    integrator, none = EulerMaruyama(3e-4, 1.0), torch.zeros(2, 2, dtype=torch.float64)
    run = steps_of(host, made, x, v, integrator, steps=4, record_every=1, first=0, backward=backward, log_probs=none)
    table = schedule_of(integrator, 2, 0, 4, 0.0, x.device).table(backward == 3)
    frames = torch.cat([x[None], run[2]])
    pin = x if backward == 3 else x[:0]

    def score(table, frames, before):
        return host.path_log_prob(frames, *made.arguments, table, made.systems.largest, before, backward, pin)

    assert torch.equal(score(table, frames, none), run[4])
    rows = table if table.shape[0] == 1 else table[:2]
    half = score(rows, frames[:3].contiguous(), none)
    assert torch.equal(score(table if table.shape[0] == 1 else table[2:], frames[2:].contiguous(), half), run[4])
    assert not torch.equal(score(table, frames + 0.01 * torch.randn_like(frames), none), run[4])


def test_noise_is_the_contract_and_a_system_is_the_same_in_any_batch(host):
    sizes = (7, 40)
    x, v = state(sizes, 3, torch.float32)
    kicks = EulerMaruyama(1.0, 1.0)
    still, made = torch.zeros_like(x), model(Harmonic(0.0), x, sizes)
    assert torch.equal(
        steps_of(host, made, still, v, kicks, steps=1)[0], steps_of(CPU, made, still, v, kicks, steps=1)[0]
    )
    integrator, before = BAOAB(0.003, 0.5, 2.0), torch.zeros(2, 2, dtype=torch.float64)
    both = steps_of(host, model(LennardJones(), x, sizes), x, v, integrator, steps=3, record_every=2, log_probs=before)
    one = model(LennardJones(), x[:7], sizes[:1])
    kw = {"record_every": 2, "log_probs": before[:, :1].contiguous()}
    alone = steps_of(host, one, x[:7], v[:7], integrator, steps=3, **kw)
    for at, rows in ((0, both[0][:7]), (1, both[1][:7]), (3, both[3][:, :1]), (4, both[4][:, :1])):
        assert torch.equal(alone[at], rows)
    first = steps_of(host, one, x[:7], v[:7], integrator, steps=1, **kw)
    kw["log_probs"] = first[4]
    rest = steps_of(host, one, first[0], first[1], integrator, steps=2, phase=1, first=4, **kw)
    for at in (0, 1, 2, 4):
        assert torch.equal(rest[at], alone[at])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", FIELDS)
def test_energies_forces_and_their_adjoint(host, name, dtype):
    field, count = FIELDS[name]
    sizes = (13, 0, 1, 65) if name in ("pairs", "terms") else (13, 5, 33)
    x, u = state(sizes, 3, dtype)
    cell = 9.0 * torch.eye(3, dtype=torch.float64) if name in ("pairs", "learnt", "types") else None
    types = types_of(len(x), count)
    made = model(field, x, sizes, types, cell)
    (energy, forces), (e, f) = (ops.energy_and_forces(x, *made.arguments) for ops in (host, CPU))
    scale = max(float(f.detach().abs().max()), 1.0)
    bound = 8 * 65 * torch.finfo(dtype).eps  # a rounding and a half for each pair, and as many for its own terms
    close(forces, f, bound * scale)
    close(energy, e, bound * 65 * scale)
    by_energy = torch.randn(len(sizes), dtype=dtype)
    got, want = (ops.energy_and_forces_backward(x, by_energy, u, *made.arguments, True) for ops in (host, CPU))
    for ours, theirs in zip(got, want, strict=True):
        assert torch.isfinite(ours).all()
        close(ours, theirs, 4 * bound * 65 * float(theirs.abs().max()))
    assert torch.equal(host.energy_and_forces_backward(x, by_energy, u, *made.arguments, False)[0], got[0])
    # a system alone: the same bits
    alone = model(field, x[:13], sizes[:1], None if types is None else types[:13], cell)
    assert torch.equal(host.energy_and_forces(x[:13], *alone.arguments)[1], forces[:13])


def test_splines_of_more_intervals_than_threads(host):
    sizes = (9, 12)
    x, u = state(sizes, 2, torch.float64)
    made = model(learned(2, 100), x, sizes, types_of(len(x), 2))
    by_energy = torch.randn(2, dtype=torch.float64)
    got, want = (ops.energy_and_forces_backward(x, by_energy, u, *made.arguments, True)[1] for ops in (host, CPU))
    assert int((want != 0).sum()) > 100
    close(got, want, 1e-10 * float(want.abs().max()))


def test_what_the_host_cannot_read_is_never_silent(host):
    """Offsets, types, bonds and splines are the device's to check: what they spoil is NaN, and nothing else is."""
    x, v = state((5, 5), 3, torch.float32)
    two = model(LennardJones(), x, (5, 5))
    _, types, kinds, sizes, parameters, *box = two.arguments
    for ptr in ([0, 5, 4], [0, 5, 11], [0, -1, 10], [-5, 5, 10]):
        energy, forces = host.energy_and_forces(x, torch.tensor(ptr), types, kinds, sizes, parameters, *box)
        assert energy.isnan().any() or forces.isnan().any(), ptr
    mixed = model(LennardJones([1.0, 2.0]), x, (5, 5), torch.tensor([0, 1] * 5))
    ptr, types, kinds, sizes, parameters, *box = mixed.arguments
    for bad in (2, -1):
        other = types.clone()
        other[7] = bad
        energy, forces = host.energy_and_forces(x, ptr, other, kinds, sizes, parameters, *box)
        assert energy.isnan().tolist() == [False, True]
        assert torch.isfinite(forces[:5]).all()
        assert forces[7].isnan().all()
    bonds = model(RING, x, (5, 5))
    ptr, types, kinds, sizes, parameters, *box = bonds.arguments
    for bad in (5.0, math.nan, -1.0):
        other = parameters.clone()
        other[0] = bad
        assert host.energy_and_forces(x, ptr, types, kinds, sizes, other, *box)[1].isnan().all()
        out = host.energy_and_forces_backward(x, torch.ones(2), v, ptr, types, kinds, sizes, other, *box, True)
        assert out[1][2:4].isnan().all()
        run = host.simulate(x, v, torch.ones(10), ptr, types, kinds, sizes, other, *box, 0,
                            torch.tensor([[[0.1, 0, 0, 0, 0]]]).double(), torch.tensor(1), torch.arange(2),
                            torch.tensor(0), 1, 0, 0, 5, torch.zeros(2, 0).double(), 0, x[:0])  # fmt: skip
        assert run[0].isnan().all()
    spline = model(FIELDS["learnt"][0].terms[0], x, (5, 5))
    ptr, types, kinds, sizes, parameters, *box = spline.arguments
    for bad in (1e9, -6.0, math.nan):
        other = parameters.clone()
        other[0] = bad
        assert host.energy_and_forces(x, ptr, types, kinds, sizes, other, *box)[0].isnan().all()


def test_bad_shapes_are_refused(host):
    x, v = state((5,), 3, torch.float32)
    made = model(LennardJones(), x, (5,))
    flat = x[:, :1].contiguous()
    for name, call in [
        ("positions", lambda: host.energy_and_forces(flat, *model(Harmonic(), flat, (5,)).arguments)),
        ("largest", lambda: steps_of_largest(host, made, x, v, 6)),
        ("system_ptr", lambda: host.energy_and_forces(x, torch.tensor([0]), *made.arguments[1:])),
        ("backward", lambda: steps_of(host, made, x, v, BAOAB(0.1, 1.0, 1.0), steps=1, backward=1,
                                      log_probs=torch.zeros(2, 1).double())),
    ]:  # fmt: skip
        with pytest.raises(RuntimeError, match=f"gmkern: {name}"):
            call()


def steps_of_largest(ops, made, x, v, largest):
    return ops.simulate(x, v, torch.ones(5), *made.arguments, 0, torch.tensor([[[0.1, 0, 0, 0, 0]]]).double(),
                        torch.tensor(1), torch.arange(1), torch.tensor(0), 1, 0, 0, largest,
                        torch.zeros(2, 0).double(), 0, x[:0])  # fmt: skip


def test_the_public_run_on_the_cpu_is_what_the_ops_are_compared_with(host):
    """One run by the public function, so that the arguments of this page are those of a call."""
    x, v = state((13, 32), 3, torch.float64)
    field = FIELDS["pairs"][0]
    got = steps_of(host, model(field, x, (13, 32)), x, v, VelocityVerlet(0.003), steps=3)
    want = simulate(field, x, velocities=v, masses=1.5, integrator=VelocityVerlet(0.003), steps=3, start_step=3,
                    system_ptr=[0, 13, 45])  # fmt: skip
    close(got[0], want.positions, 1e-12)
