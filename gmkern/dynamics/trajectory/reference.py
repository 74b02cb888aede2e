"""Steps of every integrator in plain PyTorch, for any force. Differentiable; the truth that the kernels are compared
with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from gmkern.dynamics.trajectory.densities import Backward, Force, Gaussians, gaussians

VELOCITY_VERLET, BAOAB, EULER_MARUYAMA, HEUN, RK4 = range(5)  # gmkern/dynamics/integrators.py

Noise = Callable[[int], Tensor]  # step -> standard normals of x's shape


class State(NamedTuple):
    """Where the systems are after some steps; ``force`` is that at x, kept for integrators that begin with it.

    ``forward`` and ``backward`` [S] float64 are the log-probabilities of the step that led here, or None (the loop
    keeps their sums there).
    """

    x: Tensor
    v: Tensor
    force: Tensor | None = None
    forward: Tensor | None = None
    backward: Tensor | None = None


@dataclass(frozen=True)
class Step:
    """The numbers of one step. Constants are computed in float64 and rounded once to x's dtype."""

    number: int
    coefficients: dict[str, Tensor]  # dt, and temperature, friction or noise: float64 [1] or [S]
    time: Callable[[float], Tensor]  # fraction of the step -> float64 [1] or [S]
    bridge: Tensor | None = None  # with a bridge: Schedule.bridge of the step, [1] or [S]


@dataclass(frozen=True)
class PathDensity:
    """What log-probabilities need besides the path."""

    over: Tensor  # a mask that broadcasts to x: the elements that count
    backward: Backward
    detach: bool  # whether the path is held fixed, each step's state being a constant


class Kernels(NamedTuple):
    """What may stand in for the arithmetic of Euler-Maruyama around a force."""

    move: Callable[[Tensor, Tensor, Tensor, Tensor, int], Tensor] | None = None  # x, drift, dt, scale, step -> x'
    log: Gaussians = gaussians


IN_PYTORCH = Kernels()


def advance(
    kind: int,
    state: State,
    force: Force,
    noise: Noise,
    inverse_masses: Tensor,
    step: Step,
    density: PathDensity | None = None,
    to: Tensor | None = None,
    kernels: Kernels = IN_PYTORCH,
) -> State:
    """The state one step on.

    With ``density`` the step's log-probabilities come too (BAOAB and Euler-Maruyama); with ``to``, Euler-Maruyama goes
    there and not where its noise leads.
    """
    x, v, f = state[:3]
    coefficients, dt64 = step.coefficients, step.coefficients["dt"]
    per_system = (-1, *[1] * (x.ndim - 1))

    def constant(value: Tensor) -> Tensor:
        return value.to(x.dtype).reshape(per_system)

    def time(fraction: float) -> Tensor:
        return step.time(fraction).to(x.dtype).expand(x.shape[0])

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
        v = keep * v + scale * noise(step.number)
        x = x + half * v
        f = force(x, time(1))
        after = State(x, v + half * (f * inverse_masses), f)
        if density is None:
            return after
        # against the momenta the kick runs from -v' to -v: N(v; keep v', scale^2)
        return after._replace(
            forward=gaussians(v, before, keep, None, dt, scale, density.over),
            backward=gaussians(before, v, keep, None, dt, scale, density.over),
        )
    if kind == EULER_MARUYAMA:
        f = force(x, time(0)) if f is None else f
        before, scale = x, constant(coefficients["noise"] * torch.sqrt(dt64))
        fixed = density is not None and density.detach
        if to is None:
            drift = f.detach() if fixed else f
            if not bool((coefficients["noise"] != 0).any()):
                x = x + dt * drift
            elif kernels.move is not None:
                x = kernels.move(x, drift, dt, scale, step.number)
            else:
                x = x + dt * drift + scale * noise(step.number)
            x = x.detach() if fixed else x
        else:
            x = to
        if density is None:
            return State(x, v)
        backward = density.backward
        bridge = None if step.bridge is None else step.bridge.reshape(per_system)
        opposite = there = force(x, time(1)) if backward.needs_own_drift else None
        if backward.force is not None:
            opposite = backward.force(x, time(1))
        return State(
            x, v, there,
            forward=kernels.log(x, before, None, f, dt, scale, density.over),
            backward=backward.of_step(before, x, opposite, dt, scale, bridge, density.over, kernels.log),
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
