"""Update, noise and log-probability around a module: the compiled passes beside PyTorch's and torch.distributions."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.distributions import Normal

import gmkern.random
from gmkern.dynamics import EulerMaruyama, VectorField, path_log_prob, simulate

pytestmark = pytest.mark.sanitize

SHAPE = (5, 3, 7)


def start(dtype: torch.dtype) -> Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(dtype)


def field(weight: Tensor) -> VectorField:
    return VectorField(lambda x, t: torch.tanh(x @ weight) * (1 + t[:, None, None]))


def law(**more):
    schedule = torch.linspace(0.3, 0.6, 4 * SHAPE[0], dtype=torch.float64).reshape(4, -1)  # a noise a step and system
    return {"integrator": EulerMaruyama(0.05, schedule), "steps": 4, "seed": 3, "log_prob": True, **more}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("backward", ["same_drift", "reversed", "brownian", "bridge"])
def test_compiled_steps_have_the_references_bits(dtype, backward):
    weight = 0.3 * torch.eye(7, dtype=dtype)
    runs = [
        simulate(field(weight), start(dtype), backend=backend, backward=backward, record_every=1, **law())
        for backend in ("cpu", "reference")
    ]
    assert torch.equal(runs[0].frames, runs[1].frames)
    for got, want in ((run.log_prob_forward, run.log_prob_backward) for run in runs):
        assert got.dtype == want.dtype == torch.float64
    for name in ("log_prob_forward", "log_prob_backward"):
        got, want = (getattr(run, name) for run in runs)
        assert (got - want).abs().max() < 1e-11 * want.abs().max()  # 84 terms of float64, in another order
    again = path_log_prob(
        field(weight), runs[0].frames, integrator=law()["integrator"], backward=backward, backend="cpu"
    )
    assert torch.equal(again.forward, runs[0].log_prob_forward)
    assert torch.equal(again.backward, runs[0].log_prob_backward)


def test_a_step_by_distributions_and_the_noise_contract():
    x, drift = start(torch.float64).reshape(5, 21), torch.linspace(-1, 1, 105, dtype=torch.float64).reshape(5, 21)
    coefficients = torch.tensor([[0.1, 0.2], [0.1, 0.3], [0.2, 0.2], [0.1, 0.4], [0.3, 0.1]], dtype=torch.float64)
    ids, seed = torch.tensor([4, 0, 9, 2**40, 7]), torch.tensor(11)
    ops = torch.ops.gmkern
    to = ops.euler_maruyama_step(x, drift, coefficients, seed, ids, torch.tensor(6))
    noise = gmkern.random.normal(11, ids, 6, 21, stream=gmkern.random.KICK, dtype=torch.float64)
    mean, scale = x + coefficients[:, :1] * drift, coefficients[:, 1:]
    assert torch.equal(to, mean + scale * noise)
    got = ops.gaussian_log_prob(to, x, drift, coefficients)
    assert (got - Normal(mean, scale).log_prob(to).sum(1)).abs().max() < 1e-12 * 100
    bare = ops.gaussian_log_prob(to, x, x.new_empty(0, 21), coefficients)
    assert (bare - Normal(x, scale.expand_as(x)).log_prob(to).sum(1)).abs().max() < 1e-12 * 100


@pytest.mark.parametrize("detach", [False, True])
def test_gradients_are_the_references(detach):
    grads = []
    for backend in ("cpu", "reference"):
        x = start(torch.float64).requires_grad_()
        weight = (0.3 * torch.eye(7, dtype=torch.float64)).requires_grad_()
        run = simulate(field(weight), x, backend=backend, backward="reversed", detach_path=detach, **law())
        loss = (run.log_prob_forward - run.log_prob_backward).square().sum() + run.positions.square().sum()
        grads.append(torch.autograd.grad(loss, (weight,) if detach else (weight, x)))
    for got, want in zip(*grads, strict=True):
        assert (got - want).abs().max() < 1e-10 * want.abs().max()


def test_opchecks_and_second_derivatives():
    x, drift = (torch.randn(3, 4, dtype=torch.float64).requires_grad_() for _ in range(2))
    coefficients, seed, ids = torch.tensor([[0.1, 0.5]], dtype=torch.float64), torch.tensor(1), torch.arange(3)
    ops = torch.ops.gmkern
    torch.library.opcheck(ops.euler_maruyama_step.default, (x, drift, coefficients, seed, ids, torch.tensor(2)))
    torch.library.opcheck(ops.gaussian_log_prob.default, (x, drift, drift, coefficients))
    assert torch.autograd.gradgradcheck(lambda a, b: ops.gaussian_log_prob(a, b, b, coefficients), (x, drift))


def test_what_does_not_fit_is_named():
    x, row = torch.zeros(3, 4), torch.ones(1, 2, dtype=torch.float64)
    ops, seed, ids, step = torch.ops.gmkern, torch.tensor(0), torch.arange(3), torch.tensor(0)
    for name, call in [
        ("drift", lambda: ops.euler_maruyama_step(x, x[:2], row, seed, ids, step)),
        ("drift", lambda: ops.euler_maruyama_step(x, x.double(), row, seed, ids, step)),
        ("coefficients", lambda: ops.euler_maruyama_step(x, x, row.expand(2, 2).contiguous(), seed, ids, step)),
        ("sample_ids", lambda: ops.euler_maruyama_step(x, x, row, seed, ids[:2], step)),
        ("start", lambda: ops.gaussian_log_prob(x, x[:, :3].contiguous(), x, row)),
        ("x", lambda: ops.gaussian_log_prob(x.half(), x.half(), x.half(), row)),
    ]:
        with pytest.raises(RuntimeError, match=rf"\b{name}\b"):
            call()
