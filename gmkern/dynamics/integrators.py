"""Integrators: how a state moves by one step. Plain descriptions; the arithmetic is in trajectory/.

Each number is one for all systems, or a tensor or array: [S], one a system, or a schedule [n, 1] or [n, S], whose row
i is step i's (a run from ``start_step`` over ``steps`` takes at least ``start_step + steps`` rows). k_B = 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from gmkern import _validate
from gmkern.dynamics.parameters import as_tensor, upright

PerSystem = float | Sequence[float] | np.ndarray | Tensor

# The kinds of integrator, as csrc/dynamics/trajectory.h numbers them.
VELOCITY_VERLET, BAOAB_KIND, EULER_MARUYAMA, HEUN, RK4_KIND = range(5)


class Integrator:
    """One step of a trajectory."""

    kind: ClassVar[int]
    has_velocities: ClassVar[bool] = False

    @property
    def is_random(self) -> bool:
        return False


@dataclass(frozen=True, eq=False)
class VelocityVerlet(Integrator):
    """v += dt/2 f/m; x += dt v; v += dt/2 f/m. Second order, time-reversible, symplectic; one force a step.

    Parameters
    ----------
    dt : time step, not 0; a negative one runs backwards.

    Examples
    --------
    >>> import torch
    >>> from gmkern.dynamics import Harmonic, VelocityVerlet, simulate
    >>> swing = simulate(Harmonic(), torch.ones(1, 1, 2), integrator=VelocityVerlet(0.01), steps=314)
    >>> bool((swing.positions + 1).abs().max() < 0.01)  # half a period later
    True
    """

    dt: PerSystem
    kind: ClassVar[int] = VELOCITY_VERLET
    has_velocities: ClassVar[bool] = True

    def __post_init__(self) -> None:
        _numbers("dt", self.dt, nonzero=True)


@dataclass(frozen=True, eq=False)
class BAOAB(Integrator):
    """Langevin dynamics at a temperature: half kick, half drift, Ornstein-Uhlenbeck, half drift, half kick.

    The step ends on its closing half kick, so positions and velocities belong to one time; one force a step.

    Parameters
    ----------
    dt : time step (> 0).
    temperature : in energy units, k_B = 1 (>= 0).
    friction : rate, one over time (>= 0); 0 is velocity Verlet.

    Notes
    -----
    Source: B. Leimkuhler and C. Matthews, Appl. Math. Res. Express 2013, 34; exact in positions for a harmonic trap.

    Examples
    --------
    >>> import torch
    >>> from gmkern.dynamics import BAOAB, Harmonic, simulate
    >>> bath = BAOAB(dt=0.1, temperature=2.0, friction=1.0)
    >>> ends = simulate(Harmonic(), torch.zeros(4000, 1, 2), integrator=bath, steps=100, seed=0).positions
    >>> abs(float(ends.var()) - 2.0) < 0.2  # the temperature over the stiffness
    True
    """

    dt: PerSystem
    temperature: PerSystem
    friction: PerSystem
    kind: ClassVar[int] = BAOAB_KIND
    has_velocities: ClassVar[bool] = True

    def __post_init__(self) -> None:
        _numbers("dt", self.dt, above=0.0)
        _numbers("temperature", self.temperature, low=0.0)
        _numbers("friction", self.friction, low=0.0)

    @property
    def is_random(self) -> bool:
        return True


@dataclass(frozen=True, eq=False)
class EulerMaruyama(Integrator):
    """Overdamped: x' = x + f dt + noise sqrt(dt) xi, with xi standard normal.

    Parameters
    ----------
    dt : time step (> 0).
    noise : the diffusion's size (>= 0): sqrt(2 T) samples exp(-energy/T); 0 is Euler's method, and needs no seed.

    Examples
    --------
    >>> import torch
    >>> from gmkern.dynamics import EulerMaruyama, VectorField, simulate
    >>> still = VectorField(lambda x, t: torch.zeros_like(x))
    >>> ends = simulate(still, torch.zeros(4000, 2), integrator=EulerMaruyama(0.1, 1.0), steps=10, seed=0).positions
    >>> abs(float(ends.var()) - 1.0) < 0.1  # Brownian motion at time 1
    True
    """

    dt: PerSystem
    noise: PerSystem
    kind: ClassVar[int] = EULER_MARUYAMA

    def __post_init__(self) -> None:
        _numbers("dt", self.dt, above=0.0)
        _numbers("noise", self.noise, low=0.0)

    @property
    def is_random(self) -> bool:
        return bool((as_tensor(self.noise) != 0).any())


@dataclass(frozen=True, eq=False)
class Heun(Integrator):
    """The flow dx/dt = f(x, t) by Heun's method: second order, two forces a step.

    Parameters
    ----------
    dt : time step, not 0; a negative one runs backwards.

    Examples
    --------
    >>> import torch
    >>> from gmkern.dynamics import Heun, VectorField, simulate
    >>> end = simulate(VectorField(lambda x, t: x), torch.ones(1, 1), integrator=Heun(0.01), steps=100).positions
    >>> round(float(end), 3)  # e
    2.718
    """

    dt: PerSystem
    kind: ClassVar[int] = HEUN

    def __post_init__(self) -> None:
        _numbers("dt", self.dt, nonzero=True)


@dataclass(frozen=True, eq=False)
class RK4(Integrator):
    """The flow dx/dt = f(x, t) by the classical Runge-Kutta method: fourth order, four forces a step.

    Parameters
    ----------
    dt : time step, not 0; a negative one runs backwards.

    Examples
    --------
    >>> import torch
    >>> from gmkern.dynamics import RK4, VectorField, simulate
    >>> end = simulate(VectorField(lambda x, t: x), torch.ones(1, 1), integrator=RK4(0.1), steps=10).positions
    >>> round(float(end), 4)  # e
    2.7183
    """

    dt: PerSystem
    kind: ClassVar[int] = RK4_KIND

    def __post_init__(self) -> None:
        _numbers("dt", self.dt, nonzero=True)


def numbers_of(integrator: Integrator, systems: int, last_step: int, device: torch.device) -> dict[str, Tensor]:
    """The integrator's numbers by name: float64 [1, 1 | S], or [n, 1 | S] with n >= last_step."""
    names = [f.name for f in fields(integrator)]  # type: ignore[arg-type]
    return {name: _table(name, getattr(integrator, name), systems, last_step, device) for name in names}


def _table(name: str, value: PerSystem, systems: int, last_step: int, device: torch.device) -> Tensor:
    tensor = as_tensor(value, device)
    if tensor.ndim == 1 and tensor.shape[0] not in (1, systems):
        raise _validate.bad(
            name, tensor, f"one number, {systems}: one a system, or a schedule [{last_step}, 1] of one a step"
        )
    if tensor.ndim < 2:
        return tensor.reshape(1, -1)
    if tensor.shape[1] not in (1, systems) or (tensor.shape[0] < last_step and tensor.shape[0] != 1):
        raise _validate.bad(name, tensor, f"a schedule [n, 1] or [n, {systems}] of n >= {last_step} steps")
    return tensor


def _numbers(
    name: str, value: PerSystem, *, low: float | None = None, above: float | None = None, nonzero: bool = False
) -> None:
    if isinstance(value, (int, float)):
        _validate.number(name, value, low=low, above=above)
        tensor = torch.tensor(float(value), dtype=torch.float64)
    else:
        if isinstance(value, (str, bytes)) or not isinstance(value, (Sequence, np.ndarray, np.number, Tensor)):
            raise _validate.bad(name, value, "a number, or a tensor or array of them", error=TypeError)
        if isinstance(value, Tensor):
            _validate.tensor(name, value)
        try:
            tensor = torch.as_tensor(upright(value))
        except (TypeError, ValueError, RuntimeError) as error:
            raise _validate.bad(name, value, "numbers", error=TypeError) from error
        if tensor.requires_grad:
            raise ValueError(f"{name}: got a tensor that requires grad; takes numbers, which are not differentiated")
        if tensor.ndim > 2 or tensor.numel() == 0 or tensor.is_complex():
            raise _validate.bad(
                name, value, "a number, a tensor or array [S] of one a system, or a schedule [steps, 1 | S]"
            )
        tensor = tensor.to(torch.float64)
    limits = [text for bound, text in ((low, f">= {low}"), (above, f"> {above}")) if bound is not None]
    good = torch.isfinite(tensor)
    if low is not None:
        good &= tensor >= low
    if above is not None:
        good &= tensor > above
    if nonzero:
        good &= tensor != 0
        limits.append("!= 0")
    if not bool(good.all()):
        raise _validate.bad(name, repr(value), "finite numbers " + " and ".join(limits))
