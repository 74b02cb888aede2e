"""Force fields: what pulls on the atoms.

A potential is a sum of terms, each a kind (a small number that csrc/dynamics/field.h and energy/reference.py share) and
its parameters. A new pair or trap term is a class here, a case there, and nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from gmkern import _validate

Scalar = float | Tensor

# The kinds of term: csrc/dynamics/field.h and energy/reference.py read the parameters in the order given here.
LENNARD_JONES = 0  # epsilon, sigma, cutoff (inf without), energy at the cutoff that is taken away
HARMONIC = 1  # k, center (D numbers)


class Potential:
    """A field with an energy: a sum of pair and trap terms. Potentials add: ``LennardJones() + Harmonic(0.1)``."""

    @property
    def terms(self) -> tuple[Term, ...]:
        raise TypeError(f"{type(self).__name__} has no terms")  # a subclass says which

    def __add__(self, other: Potential) -> Sum:
        if not isinstance(other, Potential):
            raise TypeError(
                f"field: got {type(self).__name__} + {type(other).__name__}; potentials add with potentials alone"
            )
        return Sum(self.terms + other.terms)


class Term(Potential):
    """One term of a potential."""

    kind: ClassVar[int]
    is_pair: ClassVar[bool]
    cutoff: float | None = None

    @property
    def terms(self) -> tuple[Term, ...]:
        return (self,)

    def parameters_in(self, dim: int, device: torch.device) -> Tensor:
        """The term's parameters for positions of dimension ``dim``: a float64 vector, differentiable."""
        raise TypeError(f"{type(self).__name__} has no parameters")  # a subclass says which


@dataclass(frozen=True, eq=False)
class Sum(Potential):
    """The sum of terms; made by ``+``."""

    parts: tuple[Term, ...]

    @property
    def terms(self) -> tuple[Term, ...]:
        return self.parts


@dataclass(frozen=True, eq=False)
class LennardJones(Term):
    """4 epsilon ((sigma/r)^12 - (sigma/r)^6) between all pairs of a system's atoms.

    Parameters
    ----------
    epsilon : depth of the well, in the user's energy unit; a number or a 0-d tensor (>= 0).
    sigma : where the energy crosses zero, in the user's length unit; a number or a 0-d tensor (> 0).
    cutoff : pairs at this distance or beyond it do not interact; None for no cutoff.
    shift : whether the energy at the cutoff is taken from each pair inside it, so that the energy is continuous there
        (the force jumps by its own value at the cutoff, small for a cutoff of 2.5 sigma). Without a cutoff it has no
        effect.

    Notes
    -----
    ``LennardJones(epsilon, sigma, cutoff=2 ** (1 / 6) * sigma)`` is the Weeks-Chandler-Andersen potential less epsilon
    inside. Source: J. E. Jones, Proc. R. Soc. A 106 (1924) 463.
    """

    epsilon: Scalar = 1.0
    sigma: Scalar = 1.0
    cutoff: float | None = None
    shift: bool = True

    kind: ClassVar[int] = LENNARD_JONES
    is_pair: ClassVar[bool] = True

    def __post_init__(self) -> None:
        _scalar("epsilon", self.epsilon, low=0.0)
        _scalar("sigma", self.sigma, above=0.0)
        if self.cutoff is not None:
            _validate.number("cutoff", self.cutoff, above=0.0)
        if not isinstance(self.shift, bool):
            raise _validate.bad("shift", self.shift, "True or False", error=TypeError)

    def parameters_in(self, dim: int, device: torch.device) -> Tensor:
        epsilon, sigma = _as_tensor(self.epsilon, device), _as_tensor(self.sigma, device)
        cutoff = _as_tensor(math.inf if self.cutoff is None else self.cutoff, device)
        taken = torch.zeros_like(cutoff)
        if self.cutoff is not None and self.shift:
            s6 = (sigma / cutoff) ** 6
            taken = 4.0 * epsilon * s6 * (s6 - 1.0)
        return torch.stack([epsilon, sigma, cutoff, taken])


@dataclass(frozen=True, eq=False)
class Harmonic(Term):
    """A trap: k/2 |x - center|^2 for each atom.

    Parameters
    ----------
    k : stiffness, energy per length squared; a number or a 0-d tensor.
    center : the trap's middle: a number (the same along each axis), or D numbers.

    Notes
    -----
    In a periodic box the trap acts on coordinates as they are, not wrapped into the box.
    """

    k: Scalar = 1.0
    center: float | Sequence[float] | np.ndarray | Tensor = 0.0

    kind: ClassVar[int] = HARMONIC
    is_pair: ClassVar[bool] = False

    def __post_init__(self) -> None:
        _scalar("k", self.k)
        try:
            center = torch.as_tensor(self.center)
        except (TypeError, ValueError, RuntimeError) as error:
            raise _validate.bad("center", self.center, "a finite number, or D of them", error=TypeError) from error
        if center.ndim > 1 or center.is_complex() or not bool(torch.isfinite(center).all()):
            raise _validate.bad("center", self.center, "a finite number, or D of them")

    def parameters_in(self, dim: int, device: torch.device) -> Tensor:
        center = torch.as_tensor(self.center, dtype=torch.float64, device=device)
        if center.ndim == 1 and center.shape[0] != dim:
            raise _validate.bad("center", center, f"a number or {dim} numbers, for positions of dimension {dim}")
        return torch.cat([_as_tensor(self.k, device).reshape(1), center.expand(dim)])


@dataclass(frozen=True, eq=False)
class VectorField:
    """A force or velocity field learnt by a network.

    Parameters
    ----------
    module : called as ``module(x, t)`` with x of shape [S, ...] and t of shape [S], in x's dtype and on its device;
        gives a floating tensor of x's shape, taken to x's dtype. Any callable that leaves x as it is will do.
    start_time : the time at step 0; step n runs from ``start_time + n dt``.
    """

    module: nn.Module
    start_time: float = 0.0

    def __post_init__(self) -> None:
        if not callable(self.module):
            raise _validate.bad("module", self.module, "a module or a function f(x, t)", error=TypeError)
        _validate.number("start_time", self.start_time)

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        version = 0 if x.is_inference() else x._version
        out = self.module(x, t)
        if not isinstance(out, Tensor) or out.shape != x.shape or not out.is_floating_point():
            raise _validate.bad("field", out, f"a module that gives a floating tensor of x's shape {list(x.shape)}")
        if version != (0 if x.is_inference() else x._version):
            raise _validate.bad("field", "a module that changes x in place", "one that leaves x as it is")
        return out.to(x.dtype)


Field = Potential | VectorField


def packed(field: Potential, dim: int, device: torch.device) -> tuple[list[int], Tensor]:
    """The kinds of a potential's terms, and all their parameters one after another (float64, differentiable)."""
    return [term.kind for term in field.terms], torch.cat([term.parameters_in(dim, device) for term in field.terms])


def _scalar(name: str, value: Scalar, *, low: float | None = None, above: float | None = None) -> None:
    if isinstance(value, Tensor):
        if value.ndim != 0 or value.is_complex():
            raise _validate.bad(name, value, "a number or a 0-d tensor")
        value = float(value.detach())
    _validate.number(name, value, low=low, above=above)


def _as_tensor(value: Scalar, device: torch.device) -> Tensor:
    return torch.as_tensor(value, dtype=torch.float64, device=device)
