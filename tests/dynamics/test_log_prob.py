"""Path log-probabilities against torch.distributions, step by step."""

from __future__ import annotations

import math

import pytest
import torch
from torch.distributions import Normal

from gmkern.dynamics import (
    BAOAB,
    EulerMaruyama,
    Harmonic,
    Heun,
    LennardJones,
    VectorField,
    VelocityVerlet,
    energy_and_forces,
    simulate,
)
from gmkern.dynamics.trajectory import slices
from tests.dynamics.truth import cloud

FIELD = LennardJones(cutoff=2.5) + Harmonic(0.3)


def bound(dtype: torch.dtype, terms: int, magnitude: float) -> float:
    """A residual is a difference of positions over the kick's scale, so a rounding of x is magnified by x / scale."""
    return 8 * math.sqrt(terms) * torch.finfo(dtype).eps * magnitude


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_euler_maruyama(backend, dtype):
    x = cloud(3, 19).to(dtype)
    dt, noise = 2e-3, [0.7, 0.9, 1.1]
    path = simulate(FIELD, x, integrator=EulerMaruyama(dt, noise), steps=12, seed=4, record_every=1, log_prob=True,
                    backend=backend)  # fmt: skip
    forces = torch.stack([energy_and_forces(FIELD, frame.double()).forces for frame in path.frames])
    frames = path.frames.double()
    scale = (torch.tensor(noise, dtype=torch.float64) * math.sqrt(dt)).reshape(3, 1, 1)
    forward = Normal(frames[:-1] + forces[:-1] * dt, scale).log_prob(frames[1:]).sum((0, 2, 3))
    backward = Normal(frames[1:] + forces[1:] * dt, scale).log_prob(frames[:-1]).sum((0, 2, 3))
    # z up to 5, and its error x / scale roundings of x and of f dt / scale roundings of the force
    size = 5 * float(frames.abs().max() + (forces * dt).abs().max() * 30) / float(scale.min())
    for got, want in ((path.log_prob_forward, forward), (path.log_prob_backward, backward)):
        assert got.dtype == torch.float64
        assert float((got - want).abs().max()) < bound(dtype, 12 * 57, size) + 1e-6 * float(want.abs().max())
    assert float((forward - backward).abs().min()) > 1e-2  # the two are not one


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_baoab(backend):
    x, masses = cloud(2, 9), 1.0 + torch.rand(9, dtype=torch.float64)
    dt, temperature, friction = 0.01, 0.8, 1.5
    integrator = BAOAB(dt, temperature, friction)
    kw = {"integrator": integrator, "seed": 4, "masses": masses, "backend": backend, "log_prob": True}
    v = torch.randn_like(x)
    whole = simulate(FIELD, x, velocities=v, steps=5, **kw)
    keep = math.exp(-friction * dt)
    scale = torch.sqrt((1 - keep**2) * temperature / masses)[:, None]
    forward = backward = 0.0
    for step in range(5):
        before = v + 0.5 * dt * energy_and_forces(FIELD, x).forces / masses[:, None]
        path = simulate(FIELD, x, velocities=v, steps=1, start_step=step, **kw)
        after = path.velocities - 0.5 * dt * energy_and_forces(FIELD, path.positions).forces / masses[:, None]
        forward = forward + Normal(keep * before, scale).log_prob(after).sum((1, 2))
        backward = backward + Normal(keep * after, scale).log_prob(before).sum((1, 2))
        x, v = path.positions, path.velocities
    assert torch.allclose(whole.log_prob_forward, forward, rtol=1e-10)
    assert torch.allclose(whole.log_prob_backward, backward, rtol=1e-10)


def test_learnt_drift_and_its_gradient():
    """The path moves with the weights here, so the gradient is that of the whole expression."""
    x = torch.randn(3, 2, dtype=torch.float64)

    def log_probs(weight: torch.Tensor) -> tuple[torch.Tensor, ...]:
        field = VectorField(lambda x, t: torch.tanh(x @ weight) * (1 + t[:, None]))
        path = simulate(field, x, integrator=EulerMaruyama(0.1, 0.6), steps=4, seed=0, record_every=1, log_prob=True)
        drift = [field(path.frames[i], torch.full((3,), 0.1 * i, dtype=torch.float64)) for i in range(5)]
        scale = 0.6 * math.sqrt(0.1)
        forward = sum(
            Normal(path.frames[i] + 0.1 * drift[i], scale).log_prob(path.frames[i + 1]).sum(1) for i in range(4)
        )
        backward = sum(
            Normal(path.frames[i + 1] + 0.1 * drift[i + 1], scale).log_prob(path.frames[i]).sum(1) for i in range(4)
        )
        assert torch.allclose(path.log_prob_forward, forward)
        assert torch.allclose(path.log_prob_backward, backward)
        return path.log_prob_forward, path.log_prob_backward

    weight = torch.randn(2, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(log_probs, (weight,))


@pytest.mark.parametrize("integrator", [EulerMaruyama(1e-3, 1.0), BAOAB(0.003, 0.5, 2.0)], ids=["em", "baoab"])
def test_same_bits_alone_in_any_batch_and_slice_and_asking_changes_nothing(integrator, monkeypatch):
    ptr = [0, 5, 5, 38]
    x = torch.cat([cloud(1, 5)[0], cloud(1, 33)[0]]).float()
    kw = {"integrator": integrator, "steps": 20, "seed": 1}
    whole = simulate(FIELD, x, system_ptr=ptr, log_prob=True, **kw)
    assert whole.log_prob_forward[1] == 0  # no atoms
    plain = simulate(FIELD, x, system_ptr=ptr, **kw)
    assert torch.equal(plain.positions, whole.positions)
    assert plain.log_prob_forward is None
    alone = simulate(FIELD, x[5:], sample_ids=[2], log_prob=True, **kw)
    assert torch.equal(alone.log_prob_forward[0], whole.log_prob_forward[2])
    assert torch.equal(alone.log_prob_backward[0], whole.log_prob_backward[2])
    monkeypatch.setattr(slices, "_FIRST_PAIRS", 1)
    monkeypatch.setattr(slices, "_SLICE_SECONDS", 0.0)
    cut = simulate(FIELD, x, system_ptr=ptr, log_prob=True, **kw)
    assert torch.equal(cut.log_prob_forward, whole.log_prob_forward)
    assert torch.equal(cut.log_prob_backward, whole.log_prob_backward)
    reference = simulate(FIELD, x.double(), system_ptr=ptr, log_prob=True, backend="reference", **kw)
    kernel = simulate(FIELD, x.double(), system_ptr=ptr, log_prob=True, backend="cpu", **kw)
    assert torch.allclose(reference.log_prob_forward, kernel.log_prob_forward, rtol=1e-9)
    assert torch.allclose(reference.log_prob_backward, kernel.log_prob_backward, rtol=1e-9)


def test_a_step_without_a_density_is_refused():
    x = torch.zeros(2, 3, 3)
    for name, integrator in [
        ("log_prob", VelocityVerlet(0.1)),
        ("log_prob", Heun(0.1)),
        ("noise", EulerMaruyama(0.1, [1.0, 0.0])),
        ("temperature", BAOAB(0.1, 0.0, 1.0)),
        ("friction", BAOAB(0.1, 1.0, 0.0)),
    ]:
        with pytest.raises(ValueError, match=name):
            simulate(Harmonic(), x, integrator=integrator, steps=1, seed=0, log_prob=True)
    with pytest.raises(ValueError, match="backward"):
        simulate(Harmonic(), x, integrator=BAOAB(0.1, 1.0, 1.0), steps=1, seed=0, log_prob=True, backward="brownian")
