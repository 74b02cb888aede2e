"""simulate() along a VectorField: noise contract, order of convergence, gradients, continuation."""

from __future__ import annotations

import math

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
    VectorField,
    VelocityVerlet,
    simulate,
)


def test_one_euler_maruyama_step_without_a_force_is_the_contract_noise():
    x = torch.randn(5, 3, 4, 4)
    still = VectorField(lambda x, t: torch.zeros_like(x))
    path = simulate(still, torch.zeros_like(x), integrator=EulerMaruyama(1.0, 1.0), steps=1, seed=9, start_step=17,
                    sample_ids=[3, 1, 4, 1, 5])  # fmt: skip
    want = gmkern.random.normal(9, [3, 1, 4, 1, 5], 17, 48, stream=gmkern.random.KICK)
    assert torch.equal(path.positions.reshape(5, 48), want)


def test_time_given_to_the_module_is_that_of_the_stage():
    seen = []

    def field(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        assert t.shape == x.shape[:1]
        assert t.dtype == x.dtype
        seen.append(float(t[1]))
        return torch.zeros_like(x)

    x = torch.zeros(2, 3, dtype=torch.float64)
    simulate(VectorField(field, start_time=1.0), x, integrator=Heun([-0.25, -0.125]), steps=2, start_step=2)
    assert seen == [0.75, 0.625, 0.625, 0.5]


@pytest.mark.parametrize(("integrator", "order"), [(EulerMaruyama, 1), (Heun, 2), (RK4, 4)])
def test_order_of_convergence_of_flows(integrator, order):
    """dx/dt = x cos t from t = 0 to 2 ends at x exp(sin 2); halving dt divides the error by 2^order."""
    field = VectorField(lambda x, t: x * torch.cos(t)[:, None])
    x = torch.tensor([[1.0, -2.0]], dtype=torch.float64)
    truth = x * math.exp(math.sin(2.0))
    errors = []
    for steps in (40, 80):
        made = integrator(2 / steps, 0.0) if integrator is EulerMaruyama else integrator(2 / steps)
        errors.append((simulate(field, x, integrator=made, steps=steps).positions - truth).abs().max())
    # the next term of the error expansion is O(dt) of the first: 10% at dt = 1/20 and 1/40
    assert math.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.15)


@pytest.mark.parametrize(
    "integrator", [EulerMaruyama(0.1, 0.5), Heun(0.1), RK4(0.1), VelocityVerlet(0.1), BAOAB(0.1, 0.7, 1.3)]
)
def test_gradients_through_the_trajectory(integrator):
    weight = torch.randn(3, 3, dtype=torch.float64, requires_grad=True)
    x = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)

    def end(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        field = VectorField(lambda x, t: torch.tanh(x @ weight) + t[:, None])
        path = simulate(field, x, integrator=integrator, steps=3, seed=0, record_every=2, masses=2.0)
        return torch.stack([path.positions, path.frames[-1]])

    assert torch.autograd.gradcheck(end, (x, weight))


def test_two_runs_are_one():
    module = torch.nn.Linear(4, 4)
    field = VectorField(lambda x, t: module(x) - t[:, None])
    x = torch.randn(3, 4)
    integrator = BAOAB(0.05, [0.5, 1.0, 2.0], 1.0)
    with torch.no_grad():
        whole = simulate(field, x, integrator=integrator, steps=7, seed=4)
        first = simulate(field, x, integrator=integrator, steps=3, seed=4)
        rest = simulate(field, first.positions, velocities=first.velocities, integrator=integrator, steps=4, seed=4,
                        start_step=3)  # fmt: skip
        other = simulate(field, first.positions, velocities=first.velocities, integrator=integrator, steps=4, seed=4,
                         start_step=4)  # fmt: skip
    assert torch.equal(whole.positions, rest.positions)
    assert torch.equal(whole.velocities, rest.velocities)
    assert not torch.equal(whole.positions, other.positions)


def test_baoab_starts_from_the_maxwell_boltzmann_law():
    """Velocity variances over n = 40,000 numbers: their standard error is sqrt(2/n) T/m."""
    n, temperature, mass = 40_000, 0.6, 3.0
    still = VectorField(lambda x, t: torch.zeros_like(x))
    integrator = BAOAB(0.1, temperature, 1.0)
    path = simulate(still, torch.zeros(n // 4, 4), integrator=integrator, steps=0, seed=2, masses=mass)
    want = temperature / mass
    assert float(path.velocities.var()) == pytest.approx(want, abs=5 * math.sqrt(2 / n) * want)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_a_module_of_another_dtype_leaves_the_trajectory_its_own(dtype):
    x = torch.randn(2, 3)
    path = simulate(VectorField(lambda x, t: x.to(dtype)), x, integrator=Heun(0.1), steps=2, record_every=1)
    assert path.positions.dtype == path.frames.dtype == torch.float32
    want = simulate(VectorField(lambda x, t: x.to(dtype).float()), x, integrator=Heun(0.1), steps=2)
    assert torch.equal(path.positions, want.positions)


def test_a_module_that_writes_into_x_is_refused():
    relu = VectorField(lambda x, t: torch.relu_(x))
    with pytest.raises(ValueError, match="field: got a module that changes x in place"):
        simulate(relu, torch.randn(2, 3), integrator=Heun(0.1), steps=2)


@pytest.mark.parametrize("field", [VectorField(lambda x, t: x), Harmonic()])
def test_no_steps_give_copies(field):
    x, v = torch.randn(2, 3, 2), torch.randn(2, 3, 2)
    path = simulate(field, x, velocities=v, integrator=VelocityVerlet(0.1), steps=0)
    for given, got in ((x, path.positions), (v, path.velocities)):
        assert torch.equal(given, got)
        assert given.data_ptr() != got.data_ptr()


def test_bad_arguments_are_named():
    x, field = torch.zeros(2, 3), VectorField(lambda x, t: x)
    heun = Heun(0.1)
    for name, error, call in [
        ("field", TypeError, lambda: simulate(torch.nn.Linear(3, 3), x, integrator=heun, steps=1)),
        ("module", TypeError, lambda: VectorField(3)),
        ("field", ValueError, lambda: simulate(VectorField(lambda x, t: x[:1]), x, integrator=heun, steps=1)),
        ("field", ValueError, lambda: simulate(VectorField(lambda x, t: x.long()), x, integrator=heun, steps=1)),
        ("field", TypeError, lambda: LennardJones() + field),
        ("center", TypeError, lambda: Harmonic(center="ab")),
        ("center", TypeError, lambda: Harmonic(center=None)),
        ("positions", ValueError, lambda: simulate(field, x[0, 0], integrator=heun, steps=1)),
        ("integrator", TypeError, lambda: simulate(field, x, integrator=0.1, steps=1)),
        ("positions", TypeError, lambda: simulate(field, x.long(), integrator=heun, steps=1)),
        ("positions", ValueError, lambda: simulate(field, x * math.nan, integrator=heun, steps=1)),
        ("steps", ValueError, lambda: simulate(field, x, integrator=heun, steps=-1)),
        ("steps", TypeError, lambda: simulate(field, x, integrator=heun, steps=1.5)),
        ("start_step", ValueError, lambda: simulate(field, x, integrator=heun, steps=1, start_step=1 << 32)),
        ("seed", ValueError, lambda: simulate(field, x, integrator=EulerMaruyama(0.1, 1.0), steps=1)),
        ("sample_ids", ValueError, lambda: simulate(field, x, integrator=heun, steps=1, sample_ids=[1])),
        ("velocities", ValueError, lambda: simulate(field, x, integrator=heun, steps=1, velocities=x)),
        ("velocities", ValueError, lambda: simulate(field, x, integrator=VelocityVerlet(0.1), steps=1, start_step=1)),
        ("velocities", ValueError,
         lambda: simulate(field, x, integrator=VelocityVerlet(0.1), steps=1, velocities=x.double())),
        ("masses", ValueError, lambda: simulate(field, x, integrator=heun, steps=1, masses=-1.0)),
        ("masses", ValueError, lambda: simulate(field, x, integrator=heun, steps=1, masses=torch.ones(4))),
        ("system_ptr", ValueError, lambda: simulate(field, x, integrator=heun, steps=1, system_ptr=[0, 2])),
        ("record_every", ValueError, lambda: simulate(field, x, integrator=heun, steps=1, record_every=0)),
        ("backend", ValueError, lambda: simulate(field, x, integrator=heun, steps=1, backend="cuda")),
        ("dt", ValueError, lambda: simulate(field, x, integrator=Heun([0.1, 0.1, 0.1]), steps=1)),
        ("dt", ValueError, lambda: Heun(0.0)),
        ("dt", ValueError, lambda: EulerMaruyama(-0.1, 1.0)),
        ("dt", TypeError, lambda: Heun("0.1")),
        ("noise", ValueError, lambda: EulerMaruyama(0.1, math.nan)),
        ("temperature", ValueError, lambda: BAOAB(0.1, -1.0, 1.0)),
        ("friction", ValueError, lambda: BAOAB(0.1, 1.0, [1.0, -1.0])),
    ]:  # fmt: skip
        with pytest.raises(error, match=name):
            call()
