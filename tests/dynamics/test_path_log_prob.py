"""Reversed steps, stored paths scored again, schedules, and gradients with the path fixed or moving."""

from __future__ import annotations

import math

import pytest
import torch
from torch.distributions import Normal

from gmkern.dynamics import (
    BAOAB,
    EulerMaruyama,
    Harmonic,
    LennardJones,
    VectorField,
    energy_and_forces,
    path_log_prob,
    simulate,
)
from gmkern.dynamics.trajectory import ops, slices
from tests.dynamics.truth import cloud

pytestmark = pytest.mark.sanitize

FIELD = LennardJones(cutoff=2.5) + Harmonic(0.3)
BACKWARD = ["same_drift", "reversed", "brownian", "bridge"]
STEPS = 7


def truth(frames, forces, dt, noise, backward, other=None):
    """[S] forward and backward by torch.distributions; dt and noise [STEPS, S or 1], forces those of every frame."""
    start, forward, back, since = frames[0], 0.0, 0.0, torch.zeros(frames.shape[1], dtype=torch.float64)
    for n in range(len(frames) - 1):
        h, s = (c[n].double().reshape(-1, 1, 1) for c in (dt, noise))
        x, y, scale = frames[n], frames[n + 1], s * h.sqrt()
        forward = forward + Normal(x + forces[n] * h, scale).log_prob(y).sum((1, 2))
        until = since + (scale**2).reshape(-1)
        mean = {"same_drift": y + forces[n + 1] * h, "reversed": y - forces[n + 1] * h, "brownian": y}.get(backward)
        if backward == "bridge":
            if n == 0:
                since = until
                continue
            ratio = (since / until).reshape(-1, 1, 1)
            mean, scale = start + ratio * (y - start), scale * ratio.sqrt()
        if other is not None:
            mean = y + other[n + 1] * h
        back = back + Normal(mean, scale).log_prob(x).sum((1, 2))
        since = until
    return forward, back


@pytest.mark.parametrize("scheduled", [False, True], ids=["constant", "schedule"])
@pytest.mark.parametrize("backward", BACKWARD)
def test_against_distributions_and_the_stored_path_to_the_bit(backward, scheduled):
    x = cloud(3, 17)
    dt, noise = torch.tensor([1e-3, 2e-3, 3e-3]), torch.tensor([0.7, 0.9, 1.1])
    if scheduled:
        dt, noise = 1e-3 * (1 + torch.rand(STEPS + 2, 3)), 0.5 + torch.rand(STEPS, 1)
    law = {"integrator": EulerMaruyama(dt, noise), "backward": backward}
    path = simulate(FIELD, x, steps=STEPS, seed=4, record_every=1, log_prob=True, **law)
    forces = torch.stack([energy_and_forces(FIELD, frame).forces for frame in path.frames])
    rows = [c.expand(STEPS, 3) if c.ndim == 1 else c for c in (dt, noise)]
    forward, back = truth(path.frames, forces, *rows, backward)
    # residuals z below 6 of 3 * 17 * 7 elements, whose rounding is that of a difference of positions over the scale
    bound = 8 * 6 * math.sqrt(357) * 2.0**-52 * float(path.frames.abs().max()) / 0.01 + 1e-12 * float(back.abs().max())
    assert float((path.log_prob_forward - forward).abs().max()) < bound
    assert float((path.log_prob_backward - back).abs().max()) < bound
    again = path_log_prob(FIELD, path.frames, **law)
    assert torch.equal(again.forward, path.log_prob_forward)
    assert torch.equal(again.backward, path.log_prob_backward)
    assert not torch.equal(path_log_prob(Harmonic(0.3), path.frames, **law).forward, again.forward)
    reference = simulate(FIELD, x, steps=STEPS, seed=4, record_every=1, log_prob=True, backend="reference", **law)
    assert torch.allclose(reference.log_prob_forward, forward, rtol=1e-10)
    assert torch.allclose(reference.log_prob_backward, back, rtol=1e-10)
    again = path_log_prob(FIELD, reference.frames, backend="reference", **law)
    assert torch.equal(again.backward, reference.log_prob_backward)


def test_ragged_float32_slices_and_continued_paths(monkeypatch):
    ptr, x = [0, 5, 5, 23], torch.cat([cloud(1, 5)[0], cloud(1, 18)[0]]).float()
    noise = 0.5 + torch.rand(9, 3)
    law = {"integrator": EulerMaruyama(1e-3, noise), "system_ptr": ptr, "backward": "reversed"}
    whole = simulate(FIELD, x, steps=9, seed=1, record_every=1, log_prob=True, **law)
    first = simulate(FIELD, x, steps=4, seed=1, log_prob=True, **law)
    rest = simulate(FIELD, first.positions, steps=5, start_step=4, seed=1, log_prob=True, **law)
    assert torch.equal(rest.positions, whole.positions)
    for name in ("log_prob_forward", "log_prob_backward"):  # sums of sums: rounded once more
        assert torch.allclose(getattr(first, name) + getattr(rest, name), getattr(whole, name), rtol=1e-14)
    tail = path_log_prob(FIELD, whole.frames[4:], start_step=4, **law)
    assert torch.equal(tail.forward, rest.log_prob_forward)
    assert torch.equal(tail.backward, rest.log_prob_backward)
    monkeypatch.setattr(slices, "_FIRST_PAIRS", 1)
    monkeypatch.setattr(slices, "_SLICE_SECONDS", 0.0)
    for backward in ("reversed", "bridge"):
        law["backward"] = backward
        cut = simulate(FIELD, x, steps=9, seed=1, record_every=2, log_prob=True, **law)
        got = path_log_prob(FIELD, whole.frames, **law)
        assert torch.equal(got.forward, whole.log_prob_forward)
        assert torch.equal(got.backward, cut.log_prob_backward)
        assert torch.equal(cut.energies[-1], energy_and_forces(FIELD, whole.frames[8], system_ptr=ptr).energy)
    assert whole.log_prob_forward[1] == 0  # no atoms


def test_a_field_for_backward():
    x = cloud(2, 6)
    other = VectorField(lambda x, t: torch.sin(x) * (1 + t[:, None, None]), start_time=0.5)
    integrator = EulerMaruyama(0.01, 0.8)
    frames = simulate(FIELD, x, integrator=integrator, steps=STEPS, seed=2, record_every=1).frames
    forces = torch.stack([energy_and_forces(FIELD, frame).forces for frame in frames])
    rows = [torch.full((STEPS, 1), value, dtype=torch.float64) for value in (0.01, 0.8)]
    drift = torch.stack([torch.sin(frame) * (1 + 0.01 * n) for n, frame in enumerate(frames)])
    got = path_log_prob(FIELD, frames, integrator=integrator, backward=VectorField(other.module))
    forward, back = truth(frames, forces, *rows, None, drift)
    assert torch.allclose(got.backward, back, rtol=1e-10)
    assert torch.allclose(got.forward, forward, rtol=1e-10)
    # the other way round: a potential behind a module, with gradient to its stiffness
    got = path_log_prob(VectorField(other.module), frames, integrator=integrator, backward=FIELD)
    forward, back = truth(frames, drift, *rows, None, forces)
    assert torch.allclose(got.forward, forward, rtol=1e-10)
    assert torch.allclose(got.backward, back, rtol=1e-10)
    stiff = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    path_log_prob(other, frames, integrator=integrator, backward=Harmonic(stiff)).backward.sum().backward()
    assert stiff.grad != 0


def drift_of(weight):
    return VectorField(lambda x, t: torch.tanh(x @ weight) * (1 + t[:, None]))


@pytest.mark.parametrize("backward", [*BACKWARD, "field"])
def test_gradients_with_the_path_fixed_are_those_of_the_stored_path(backward):
    x = torch.randn(4, 3)
    weight, other = (torch.randn(3, 3, requires_grad=True) for _ in range(2))
    law = {"integrator": EulerMaruyama(0.1, 0.7), "backward": drift_of(other) if backward == "field" else backward}
    path = simulate(drift_of(weight), x, steps=9, seed=3, record_every=1, log_prob=True, detach_path=True, **law)
    again = path_log_prob(drift_of(weight), path.frames, **law)
    assert torch.equal(again.forward, path.log_prob_forward)
    assert torch.equal(again.backward, path.log_prob_backward)
    assert not path.frames.requires_grad
    balance = [((p[-2] - p[-1] + 0.3) ** 2).mean() for p in (path, again)]
    grads = [torch.autograd.grad(loss, (weight, other), allow_unused=True) for loss in balance]
    for a, b in zip(*grads, strict=True):
        assert (a is None and b is None) or torch.equal(a, b)
    # negative control: a moving path has another gradient
    moving = simulate(drift_of(weight), x, steps=9, seed=3, log_prob=True, **law)
    assert torch.equal(moving.log_prob_forward, path.log_prob_forward)
    loss = ((moving.log_prob_forward - moving.log_prob_backward + 0.3) ** 2).mean()
    assert not torch.allclose(torch.autograd.grad(loss, weight)[0], grads[0][0], rtol=1e-3)


@pytest.mark.parametrize("backward", BACKWARD)
def test_gradcheck(backward):
    x = torch.randn(2, 2, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(2, 2, dtype=torch.float64, requires_grad=True)
    law = {"integrator": EulerMaruyama([[0.1], [0.2], [0.05]], 0.6), "backward": backward}

    def moving(x, weight):
        path = simulate(drift_of(weight), x, steps=3, seed=0, log_prob=True, **law)
        return path.positions, path.log_prob_forward, path.log_prob_backward

    assert torch.autograd.gradcheck(moving, (x, weight))
    frames = torch.randn(4, 2, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda f, w: tuple(path_log_prob(drift_of(w), f, **law)), (frames, weight))


def test_checkpoints_change_no_bit_and_run_a_step_twice():
    x, weight, calls = torch.randn(4, 3), torch.randn(3, 3, requires_grad=True), []
    law = {"integrator": EulerMaruyama(0.1, 0.7), "steps": 10, "seed": 3, "log_prob": True, "record_every": 4}

    def module(x, t):
        calls.append(1)
        return torch.tanh(x @ weight) * (1 + t[:, None])

    results = []
    for every, expected in ((None, 22), (10, 11), (3, 22), (1, 22)):  # one call a step, and one at the end
        calls.clear()
        path = simulate(VectorField(module), x, checkpoint_every=every, **law)
        loss = path.log_prob_backward.sum() + path.frames.square().sum()
        results.append((path.frames, path.log_prob_backward, torch.autograd.grad(loss, weight)[0]))
        assert len(calls) == expected, every
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_the_op_is_well_behaved():
    frames = cloud(3, 4).reshape(3, 4, 3).float()
    none = torch.empty(0, 3, 3, dtype=torch.float64)
    arguments = (
        frames, torch.tensor([0, 1, 4]), torch.empty(0, dtype=torch.int64), [0], [6],
        torch.tensor([1.0, 1.0, 0.0, 0.0, math.inf, 0.0]).double().requires_grad_(), none, none,
        torch.tensor([[[0.1, 0, 0, 1.0, 0.5]]], dtype=torch.float64), 3, torch.zeros(2, 2, dtype=torch.float64), 3,
        frames[0],
    )  # fmt: skip
    torch.library.opcheck(torch.ops.gmkern.path_log_prob.default, arguments)
    for at, bad, name in [
        (0, frames[:0], "frames"), (8, arguments[8][..., :4].contiguous(), "coefficients"),
        (8, arguments[8].expand(3, 1, 5).contiguous(), "coefficients"), (9, 2, "largest"),
        (10, arguments[10][:, :1], "log_probs"), (11, 4, "backward"), (12, frames[0, :2], "pin"),
        (12, frames[0].double(), "pin"),
    ]:  # fmt: skip
        with pytest.raises(RuntimeError, match=f"gmkern: {name}"):
            ops.path_log_prob(*arguments[:at], bad, *arguments[at + 1 :])


def test_bad_arguments_are_named():
    x, noisy = cloud(2, 4), EulerMaruyama(0.1, 1.0)
    frames, module = x.expand(3, 2, 4, 3), VectorField(lambda x, t: x)
    kw = {"integrator": noisy, "steps": 2, "seed": 0, "log_prob": True}
    table = EulerMaruyama(0.1, torch.ones(2, 1))
    for name, error, call in [
        ("backward", ValueError, lambda: simulate(FIELD, x, **{**kw, "backward": "forward"})),
        ("backward", TypeError, lambda: simulate(FIELD, x, **{**kw, "backward": 3})),
        ("backward", ValueError, lambda: simulate(FIELD, x, **{**kw, "backward": "bridge", "start_step": 1})),
        ("backward", ValueError,
         lambda: simulate(FIELD, x, **{**kw, "integrator": BAOAB(1, 1, 1), "backward": "bridge"})),
        ("backward", ValueError, lambda: simulate(FIELD, x[0], **{**kw, "backward": module, "system_ptr": [0, 1, 4]})),
        ("backward", ValueError, lambda: simulate(module, x[0], **{**kw, "backward": FIELD})),
        ("backend", ValueError, lambda: simulate(FIELD, x, **{**kw, "backward": module, "backend": "cpu"})),
        ("detach_path", ValueError, lambda: simulate(FIELD, x, **{**kw, "log_prob": False, "detach_path": True})),
        ("detach_path", ValueError,
         lambda: simulate(FIELD, x, **{**kw, "integrator": BAOAB(1, 1, 1), "detach_path": True})),
        ("noise", ValueError, lambda: simulate(FIELD, x, **{**kw, "integrator": table, "steps": 3})),
        ("noise", ValueError, lambda: simulate(FIELD, x, **{**kw, "integrator": table, "start_step": 1})),
        ("noise", ValueError, lambda: EulerMaruyama(0.1, torch.ones(2, 1, 1))),
        ("frames", ValueError, lambda: path_log_prob(FIELD, x[0], integrator=noisy)),
        ("frames", ValueError, lambda: path_log_prob(FIELD, frames[:0], integrator=noisy)),
        ("integrator", TypeError, lambda: path_log_prob(FIELD, frames, integrator=BAOAB(1.0, 1.0, 1.0))),
        ("noise", ValueError, lambda: path_log_prob(FIELD, frames, integrator=EulerMaruyama(0.1, 0.0))),
        ("masses", ValueError, lambda: simulate(FIELD, x, masses=torch.ones(4, requires_grad=True), **kw)),
        ("masses", ValueError, lambda: simulate(module, x, masses=torch.ones(4, 1, requires_grad=True), **kw)),
        ("cell", ValueError,
         lambda: simulate(FIELD, x, cell=9 * torch.eye(3).requires_grad_(), pbc=True, **kw)),
    ]:  # fmt: skip
        with pytest.raises(error, match=name):
            call()
