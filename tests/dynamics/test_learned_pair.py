"""A learnt pair energy: the network's, by a spline, on every path that the other fields take."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from gmkern.dynamics import BAOAB, EulerMaruyama, Harmonic, LearnedPair, LennardJones, energy_and_forces, simulate
from gmkern.testing import run_isa, supported_isas, tolerance

pytestmark = pytest.mark.sanitize

R_MAX = 2.2


def network(outputs: int = 1, seed: int = 0) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(1, 12), nn.SiLU(), nn.Linear(12, 8), nn.Tanh(), nn.Linear(8, outputs)).double()


def cloud(seed: int, systems: int, atoms: int, dim: int = 3, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    side = 0.9 * atoms ** (1 / dim)
    return side * torch.rand(systems, atoms, dim, generator=generator, dtype=torch.float64).to(dtype)


def truth(module, x, types=None, count=1):
    """Energies [S] of x [S, N, D] by the network at every distance."""
    i, j = torch.triu_indices(x.shape[1], x.shape[1], 1)
    r = (x[:, i] - x[:, j]).norm(dim=-1)
    out = module(r[..., None]) * ((1 - (r / R_MAX) ** 2) ** 3)[..., None]
    if types is None:
        column = torch.zeros_like(i)
    else:
        low, high = torch.minimum(types[i], types[j]), torch.maximum(types[i], types[j])
        column = low * count - low * (low - 1) // 2 + high - low
    out = out.gather(-1, column.expand(r.shape)[..., None])[..., 0]
    return torch.where(r < R_MAX, out, 0.0).sum(1)


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize("dim", [2, 3])
def test_energies_and_forces_are_the_networks(backend, dim):
    """Within the error that the field measures, for each of up to n^2 / 2 pairs."""
    module = network()
    field = LearnedPair(module, R_MAX)
    errors = field.error()
    assert max(errors) < 1e-8
    for dtype, n in ((torch.float64, 19), (torch.float32, 33), (torch.float32, 2)):
        x = cloud(1, 3, n, dim, dtype)
        wide = x.double().requires_grad_()
        want = truth(module, wide)
        forces = -torch.autograd.grad(want.sum(), wide)[0]
        got = energy_and_forces(field, x, backend=backend)
        slack = 8 * tolerance(dtype, n) * n
        assert (got.energy.double() - want).abs().max() < errors[0] * n * n + slack * (1 + want.abs().max())
        assert (got.forces.double() - forces).abs().max() < errors[1] * n + slack * (1 + forces.abs().max())
        assert n == 2 or forces.abs().max() > 1e-2


def test_the_error_falls_as_the_sixth_power():
    """Of the energy; that of the force as the fifth, until rounding."""
    coarse, fine = (LearnedPair(network(), R_MAX, intervals=n).error() for n in (8, 16))
    assert 30 < coarse[0] / fine[0] < 130
    assert 15 < coarse[1] / fine[1] < 65


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_types_and_sums(backend):
    module, types = network(outputs=6, seed=1), torch.tensor([0, 1, 2, 2, 1, 0, 0, 2, 1])
    field = LearnedPair(module, R_MAX, types=3, intervals=400) + Harmonic(0.3) + LearnedPair(network(), R_MAX)
    x = cloud(2, 2, 9)
    want = truth(module, x, types, 3) + truth(network(), x) + 0.15 * (x * x).sum((1, 2))
    got = energy_and_forces(field, x, types=types, backend=backend).energy
    assert (got - want).abs().max() < 1e-8


def test_periodic_pairs_take_their_nearest_image():
    x, cell = 2 * cloud(3, 1, 12), 4.5 * torch.eye(3, dtype=torch.float64)
    field = LearnedPair(network(), R_MAX)
    moved = x + 4.5 * torch.randint(-2, 3, x.shape)
    one, other = (energy_and_forces(field, y, cell=cell, pbc=True) for y in (x, moved))
    assert (one.energy - other.energy).abs().max() < 1e-11
    assert (one.forces - other.forces).abs().max() < 1e-11
    assert (energy_and_forces(field, x).energy - one.energy).abs().max() > 1e-3  # the box matters


def test_derivatives_of_every_kind():
    """Positions and the network's parameters, first and second: force matching differentiates forces in parameters."""
    field = LearnedPair(network(), R_MAX, intervals=6)
    x = cloud(4, 2, 5).requires_grad_()
    weights = list(field.module.parameters())[:2]

    def values(x, *_):
        return energy_and_forces(field, x)

    assert torch.autograd.gradcheck(values, (x, *weights))
    assert torch.autograd.gradgradcheck(values, (x, *weights))
    losses = [(energy_and_forces(field, x, backend=b).forces ** 2).sum() for b in ("cpu", "reference")]
    one, other = (torch.autograd.grad(loss, weights) for loss in losses)
    assert all((a - b).abs().max() < 1e-10 * b.abs().max() for a, b in zip(one, other, strict=True))


def test_the_spline_follows_the_parameters():
    module, x = network(), cloud(5, 1, 6)
    field = LearnedPair(module, R_MAX)
    before = energy_and_forces(field, x).energy
    with torch.no_grad():
        module[0].weight.mul_(1.5)
    after = energy_and_forces(field, x).energy
    assert (after - before).abs().max() > 1e-4
    assert (after - truth(module, x)).abs().max() < 1e-8


@pytest.mark.parametrize("integrator", [BAOAB(0.01, 0.5, 1.0), EulerMaruyama(0.01, 0.5)])
def test_trajectories(integrator):
    """Compiled as the reference; alone the bits of any batch; gradients of the path against the reference's."""
    field = LearnedPair(network(), R_MAX) + Harmonic(0.2)
    x = cloud(6, 9, 7)
    options = {"integrator": integrator, "steps": 12, "seed": 5, "log_prob": True}
    path = simulate(field, x, **options)
    plain = simulate(field, x, **options, backend="reference")
    assert (path.positions - plain.positions).abs().max() < 1e-12
    assert (path.log_prob_forward - plain.log_prob_forward).abs().max() < 1e-10
    alone = simulate(field, x[4:5], **options, sample_ids=[4])
    assert torch.equal(alone.positions[0], path.positions[4])
    assert not torch.equal(simulate(field, x[4:5], **options).positions[0], path.positions[4])  # another id
    grads = []
    for backend in ("cpu", "reference"):
        module = network()
        moved = simulate(LearnedPair(module, R_MAX) + Harmonic(0.2), x, **options, backend=backend)
        (moved.positions**2).sum().backward()
        grads.append(module[0].weight.grad)
    assert (grads[0] - grads[1]).abs().max() < 1e-9 * grads[1].abs().max()
    assert grads[1].abs().max() > 0


def test_gradients_of_a_fixed_path():
    x, grads = cloud(7, 4, 6), []
    for backend in ("cpu", "reference"):
        module = network()
        out = simulate(
            LearnedPair(module, R_MAX), x, integrator=EulerMaruyama(0.01, 0.4), steps=6, seed=1, log_prob=True,
            detach_path=True, backend=backend,
        )  # fmt: skip
        (out.log_prob_forward - out.log_prob_backward).pow(2).sum().backward()
        grads.append(module[2].weight.grad)
    assert (grads[0] - grads[1]).abs().max() < 1e-8 * grads[1].abs().max()


RUN = """
from gmkern.dynamics import BAOAB, LearnedPair, simulate
net = torch.nn.Sequential(torch.nn.Linear(1, 12), torch.nn.SiLU(), torch.nn.Linear(12, 1)).double()
net.load_state_dict(state)
field, step = LearnedPair(net, 2.2), BAOAB(0.01, 0.5, 1.0)
out = [simulate(field, y, integrator=step, steps=5, seed=3).positions.detach() for y in (x, x.float())]
"""


@pytest.mark.isas
def test_every_instruction_set_agrees():
    net, x = nn.Sequential(nn.Linear(1, 12), nn.SiLU(), nn.Linear(12, 1)).double(), cloud(8, 3, 18)
    first, *rest = (run_isa(isa, RUN, x=x, state=net.state_dict()) for isa in supported_isas())
    for other in rest:
        assert all((a - b).abs().max() < most for a, b, most in zip(first, other, (1e-12, 1e-5), strict=True))
    assert (first[0] - x).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"module": lambda r: r}, "module"),
        ({"module": nn.Linear(1, 2)}, "module"),
        ({"module": nn.Flatten(0)}, "module"),
        ({"r_max": 0.0}, "r_max"),
        ({"types": 0}, "types"),
        ({"intervals": 0}, "intervals"),
        ({"intervals": 1 << 22}, "intervals"),
    ],
)
def test_what_does_not_fit_is_named(change, word):
    with pytest.raises((TypeError, ValueError), match=word):
        energy_and_forces(LearnedPair(**({"module": network(), "r_max": R_MAX} | change)), torch.rand(1, 3, 3))


def test_a_wrong_spline_is_refused_by_the_op():
    """Nothing outside the coefficients is read."""
    from gmkern._library import ops

    x, ptr, none = torch.rand(3, 3), torch.tensor([0, 3]), torch.empty(0, 3, 3, dtype=torch.float64)
    own = torch.tensor([0.0, 2.0, 0.0, 1.0, 2.0, 0.0], dtype=torch.float64)
    for change in ({0: 1.0}, {0: -6.0}, {0: 0.5}, {1: 3.0}, {1: 0.0}, {1: float("nan")}):
        wrong = own.clone()
        for at, value in change.items():
            wrong[at] = value
        for good in (True, False):
            parameters = torch.cat([own if good else wrong, torch.zeros(12, dtype=torch.float64)])
            call = (x, ptr, torch.empty(0, dtype=torch.int64), [7, 8], [6, 12], parameters, none, none)
            if good:
                ops.energy_and_forces.default(*call)
                continue
            with pytest.raises(RuntimeError, match="spline"):
                ops.energy_and_forces.default(*call)
    for kinds, sizes in (([7], [6]), ([8], [12]), ([7, 0, 8], [6, 6, 12])):
        with pytest.raises(RuntimeError, match="nodes"):
            ops.energy_and_forces.default(
                x, ptr, torch.empty(0, dtype=torch.int64), kinds, sizes,
                torch.zeros(sum(sizes), dtype=torch.float64), none, none,
            )  # fmt: skip


def test_fields_of_other_kinds_are_untouched():
    """A sum with a learnt term gives Lennard-Jones' own forces beside the learnt ones."""
    x = 1.5 * cloud(9, 1, 10)
    learned, plain = LearnedPair(network(), R_MAX), LennardJones(cutoff=2.0)
    both, one, other = (energy_and_forces(f, x).forces for f in (learned + plain, learned, plain))
    assert (both - one - other).abs().max() < 1e-11 * other.abs().max()


def test_inference_mode():
    field, x = LearnedPair(network(), R_MAX), cloud(9, 2, 6)
    want = energy_and_forces(field, x)
    with torch.inference_mode():
        got = energy_and_forces(field, x + 0.0)
    assert torch.equal(got.energy, want.energy)
    assert torch.equal(got.forces, want.forces)
