"""Steps of every integrator in plain PyTorch, for any force. Differentiable; the truth that the kernels are compared
with."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

VELOCITY_VERLET, BAOAB, EULER_MARUYAMA, HEUN, RK4 = range(5)  # gmkern/dynamics/integrators.py

Force = Callable[[Tensor, Tensor], Tensor]  # x [S, ...], t [S] -> [S, ...]
Noise = Callable[[int], Tensor]  # step -> standard normals of x's shape


class State(NamedTuple):
    """Where the systems are after some steps; ``force`` is that at x, kept for integrators that begin with it."""

    x: Tensor
    v: Tensor
    force: Tensor | None


def advance(
    kind: int,
    state: State,
    force: Force,
    noise: Noise,
    inverse_masses: Tensor,
    coefficients: dict[str, Tensor],
    start_time: float,
    step: int,
) -> State:
    """The state one step on, ``step`` being the number of the step taken.

    ``coefficients`` holds dt, and temperature, friction or noise where the integrator has them: float64 [1] or [S].
    Constants of a step are computed in float64 and rounded once to x's dtype.
    """
    x, v, f = state
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
        v = keep * v + (kick * torch.sqrt(inverse_masses)) * noise(step)
        x = x + half * v
        f = force(x, time(1))
        return State(x, v + half * (f * inverse_masses), f)
    if kind == EULER_MARUYAMA:
        x = x + dt * force(x, time(0))
        if bool((coefficients["noise"] != 0).any()):
            x = x + constant(coefficients["noise"] * torch.sqrt(dt64)) * noise(step)
        return State(x, v, None)
    if kind == HEUN:
        k1 = force(x, time(0))
        k2 = force(x + dt * k1, time(1))
        return State(x + half * (k1 + k2), v, None)
    if kind == RK4:
        k1 = force(x, time(0))
        k2 = force(x + half * k1, time(0.5))
        k3 = force(x + half * k2, time(0.5))
        k4 = force(x + dt * k3, time(1))
        return State(x + constant(dt64 / 6.0) * (k1 + 2.0 * (k2 + k3) + k4), v, None)
    raise ValueError(f"kind: got {kind}; takes 0 to 4")
