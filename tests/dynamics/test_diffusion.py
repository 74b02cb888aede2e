"""Diffusion models on a Gaussian target: the score is known, so samples have a mean and a variance to be held to.

Data N(m, s^2) noised by dx = -b(t)/2 x dt + sqrt(b(t)) dw have at time t the law N(a(t) m, v(t)) with
a = exp(-B/2), v = a^2 s^2 + 1 - a^2, B the integral of b. Sampling runs from t = T down to 0, along the probability
flow dx/dt = -b/2 (x + score) or the reverse SDE, whose drift has the whole score; in the time that `simulate` counts,
tau = T - t, both signs turn.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from gmkern.dynamics import RK4, EulerMaruyama, Heun, VectorField, simulate

MEAN, SPREAD, HORIZON, LOW, HIGH = 1.5, 0.5, 1.0, 0.1, 12.0


def rate(t):
    return LOW + (HIGH - LOW) * t


def law(t):
    """The mean and the variance of the noised data at t; t a float or a tensor."""
    integral = LOW * t + 0.5 * (HIGH - LOW) * t * t
    a = torch.exp(-0.5 * torch.as_tensor(integral, dtype=torch.float64))
    return a * MEAN, a * a * SPREAD**2 + (1 - a * a)


def drift(weight: float):
    """b/2 x + weight b score, at tau: 1/2 is the probability flow's, 1 the reverse SDE's."""

    def f(x, tau):
        t = HORIZON - tau.double()
        mean, variance = law(t)
        score = -(x - mean[:, None]) / variance[:, None]
        return rate(t)[:, None] * (0.5 * x + weight * score)

    return f


def graded(steps: int):
    """Steps [n, 1] that shorten as the data are neared: tau = T (1 - (1 - i/n)^2)."""
    tau = HORIZON * (1 - (1 - np.arange(steps + 1) / steps) ** 2)
    return torch.from_numpy(np.diff(tau))[:, None]


def step_rates(dt):
    """b at the steps' starts [n, 1]."""
    return rate(HORIZON - torch.cat([torch.zeros(1, 1), dt.cumsum(0)[:-1]]).double())


@pytest.mark.parametrize(("integrator", "order"), [(Heun, 2), (RK4, 4)])
def test_probability_flow_carries_quantiles_to_quantiles(integrator, order):
    """The flow of one dimension keeps quantiles: mean(T) + z sd(T) must end at m + z s.

    Halving all steps divides the error by 2^order, up to the next term: an eighth at these steps.
    """
    z = torch.linspace(-3, 3, 7, dtype=torch.float64)[:, None]
    mean, variance = law(HORIZON)
    truth = MEAN + SPREAD * z
    errors = []
    for steps in (40, 80):
        path = simulate(VectorField(drift(0.5)), mean + variance.sqrt() * z, integrator=integrator(graded(steps)),
                        steps=steps)  # fmt: skip
        errors.append(float((path.positions - truth).abs().max()))
    assert errors[1] < 0.01
    assert math.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.3)


def reverse_sde_moments(dt, noise):
    """The exact mean and variance of Euler-Maruyama's own Gaussian chain, from N(mean(T), v(T))."""
    mean, variance = (float(part) for part in law(HORIZON))
    tau, f = 0.0, drift(1.0)
    for h, g in zip(dt[:, 0].tolist(), noise[:, 0].tolist(), strict=True):
        ends = f(torch.tensor([[0.0], [1.0]], dtype=torch.float64), torch.full((2,), tau, dtype=torch.float64))
        constant, slope = float(ends[0]), float(ends[1] - ends[0])  # the drift is linear in x
        mean, variance = mean + h * (constant + slope * mean), (1 + h * slope) ** 2 * variance + g * g * h
        tau += h
    return mean, variance


def test_reverse_sde_has_the_law_of_its_own_steps_and_comes_to_the_datas():
    """The chain is linear and Gaussian, so n samples have its mean to sd/sqrt(n) and its variance to v sqrt(2/n)."""
    n, steps = 20_000, 60
    dt = graded(steps)
    noise = step_rates(dt).sqrt()
    mean, variance = law(HORIZON)
    start = mean + variance.sqrt() * torch.randn(n, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    path = simulate(VectorField(drift(1.0)), start, integrator=EulerMaruyama(dt, noise), steps=steps, seed=3)
    want_mean, want_variance = reverse_sde_moments(dt, noise)
    got_mean, got_variance = float(path.positions.mean()), float(path.positions.var())
    mean_error, variance_error = math.sqrt(want_variance / n), want_variance * math.sqrt(2 / n)
    assert abs(got_mean - want_mean) < 5 * mean_error
    assert abs(got_variance - want_variance) < 5 * variance_error
    # negative control: noise of the last step's rate at every step has another law
    flat = reverse_sde_moments(dt, noise[-1:].expand_as(noise))
    assert abs(got_variance - flat[1]) > 20 * variance_error
    # and the chain's law is first order away from the data's
    errors = []
    for count in (240, 480):
        h = graded(count)
        found = reverse_sde_moments(h, step_rates(h).sqrt())
        errors.append(abs(found[0] - MEAN) + abs(found[1] - SPREAD**2))
    assert errors[0] < 0.05
    assert math.log2(errors[0] / errors[1]) == pytest.approx(1, abs=0.15)
