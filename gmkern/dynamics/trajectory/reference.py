"""Steps of every integrator in plain PyTorch, for any force. Differentiable; the truth that the kernels are compared
with."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

VELOCITY_VERLET, BAOAB, EULER_MARUYAMA, HEUN, RK4 = range(5)  # gmkern/dynamics/integrators.py

_HALF_LOG_2PI = 0.5 * math.log(2.0 * math.pi)

Force = Callable[[Tensor, Tensor], Tensor]  # x [S, ...], t [S] -> [S, ...]
Noise = Callable[[int], Tensor]  # step -> standard normals of x's shape


class State(NamedTuple):
    """Where the systems are after some steps; ``force`` is that at x, kept for integrators that begin with it.

    ``forward`` and ``backward`` [S] float64 are the log-probabilities of the step that led here, or None.
    """

    x: Tensor
    v: Tensor
    force: Tensor | None = None
    forward: Tensor | None = None
    backward: Tensor | None = None


def advance(
    kind: int,
    state: State,
    force: Force,
    noise: Noise,
    inverse_masses: Tensor,
    coefficients: dict[str, Tensor],
    start_time: float,
    step: int,
    log_prob_over: Tensor | None = None,
) -> State:
    """The state one step on, ``step`` being the number of the step taken.

    With ``log_prob_over``, a mask that broadcasts to x of the elements that count, its log-probabilities come too
    (BAOAB and Euler-Maruyama). ``coefficients`` holds dt, and temperature, friction or noise where the integrator has
    them: float64 [1] or [S]. Constants of a step are computed in float64 and rounded once to x's dtype.
    """
    x, v, f = state[:3]
    dt64 = coefficients["dt"]
    per_system = (-1, *[1] * (x.ndim - 1))

    def constant(value: Tensor) -> Tensor:
        return value.to(x.dtype).reshape(per_system)

    def time(fraction: float) -> Tensor:
        return (start_time + (step + fraction) * dt64).to(x.dtype).expand(x.shape[0])

    dt, half = constant(dt64), constant(0.5 * dt64)
    if kind == VELOCITY_VERLET:
        f = force(x, time(0)) if f is None else f
        v = v + half * (f * inverse_masses)
        x = x + dt * v
        f = force(x, time(1))
        return State(x, v + half * (f * inverse_masses), f)
    if kind == BAOAB:
        f = force(x, time(0)) if f is None else f
        friction, temperature = coefficients["friction"], coefficients["temperature"]
        keep = constant(torch.exp(-friction * dt64))
        kick = constant(torch.sqrt(-torch.expm1(-2.0 * friction * dt64) * temperature))
        v = v + half * (f * inverse_masses)
        x = x + half * v
        scale, before = kick * torch.sqrt(inverse_masses), v
        v = keep * v + scale * noise(step)
        x = x + half * v
        f = force(x, time(1))
        after = State(x, v + half * (f * inverse_masses), f)
        if log_prob_over is None:
            return after
        # against the momenta the kick runs from -v' to -v: N(v; keep v', scale^2)
        return after._replace(
            forward=_gaussians(v, before, keep, None, dt, scale, log_prob_over),
            backward=_gaussians(before, v, keep, None, dt, scale, log_prob_over),
        )
    if kind == EULER_MARUYAMA:
        f = force(x, time(0)) if f is None else f
        before, scale = x, constant(coefficients["noise"] * torch.sqrt(dt64))
        x = x + dt * f
        if bool((coefficients["noise"] != 0).any()):
            x = x + scale * noise(step)
        if log_prob_over is None:
            return State(x, v)
        one, there = torch.ones_like(scale), force(x, time(1))
        return State(
            x, v, there,
            forward=_gaussians(x, before, one, f, dt, scale, log_prob_over),
            backward=_gaussians(before, x, one, there, dt, scale, log_prob_over),
        )  # fmt: skip
    if kind == HEUN:
        k1 = force(x, time(0))
        k2 = force(x + dt * k1, time(1))
        return State(x + half * (k1 + k2), v)
    if kind == RK4:
        k1 = force(x, time(0))
        k2 = force(x + half * k1, time(0.5))
        k3 = force(x + half * k2, time(0.5))
        k4 = force(x + dt * k3, time(1))
        return State(x + constant(dt64 / 6.0) * (k1 + 2.0 * (k2 + k3) + k4), v)
    raise ValueError(f"kind: got {kind}; takes 0 to 4")


def _gaussians(
    to: Tensor, start: Tensor, keep: Tensor, drift: Tensor | None, dt: Tensor, scale: Tensor, over: Tensor
) -> Tensor:
    """[S] float64: log N(to; keep start + dt drift, scale^2), summed over the elements in ``over``."""
    z = to.double() - keep.double() * start.double()
    if drift is not None:
        z = z - dt.double() * drift.double()
    wide = scale.double().expand(to.shape)
    z = z / wide
    terms = torch.where(over, -0.5 * z * z - torch.log(wide) - _HALF_LOG_2PI, torch.zeros_like(z))
    return terms.reshape(to.shape[0], -1).sum(1)
