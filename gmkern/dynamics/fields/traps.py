"""Springs: of each atom to a place of its own, and of given pairs of atoms."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from gmkern import _validate
from gmkern.dynamics.fields.terms import BONDS, HARMONIC, Term
from gmkern.dynamics.parameters import Given, as_tensor, check, upright


@dataclass(frozen=True, eq=False)
class Harmonic(Term):
    """A trap: k/2 |x - center|^2 for each atom.

    Parameters
    ----------
    k : stiffness, energy per length squared; a number or a 0-d tensor, or [T], one a type.
    center : the trap's middle: a number (the same along each axis), D numbers, or [T, D].

    Notes
    -----
    In a periodic box the trap acts on coordinates as they are, not wrapped into the box.

    Examples
    --------
    >>> import torch
    >>> from gmkern.dynamics import Harmonic, energy_and_forces
    >>> pair = torch.tensor([[[0.0, 0.0], [2.0, 0.0]]])
    >>> round(float(energy_and_forces(Harmonic(k=3.0), pair).energy), 4)
    6.0
    """

    k: Given = 1.0
    center: float | Sequence[float] | np.ndarray | Tensor = 0.0

    kind: ClassVar[int] = HARMONIC

    def __post_init__(self) -> None:
        check("k", self.k, tables=False)
        try:
            center = _validate.tensor("center", torch.as_tensor(upright(self.center)), ndim=(0, 1, 2))
        except (TypeError, ValueError, RuntimeError) as error:
            if str(error).startswith("center: "):
                raise
            raise _validate.bad("center", self.center, "a finite number, or D of them", error=TypeError) from error
        if not bool(torch.isfinite(center).all()):
            raise _validate.bad("center", self.center, "a finite number, D of them, or [T, D]")

    def parameters_in(self, dim: int, device: torch.device) -> Tensor:
        center = as_tensor(self.center, device)
        if center.ndim >= 1 and center.shape[-1] != dim:
            raise _validate.bad("center", center, f"a number or {dim} numbers, for positions of dimension {dim}")
        k = as_tensor(self.k, device).reshape(-1, 1)
        rows = max(k.shape[0], center.shape[0] if center.ndim == 2 else 1)
        if k.shape[0] not in (1, rows) or (center.ndim == 2 and center.shape[0] not in (1, rows)):
            raise _validate.bad("center", center, f"[T, {dim}] with as many types T as k has, {k.shape[0]}")
        return torch.cat([k.expand(rows, 1), center.expand(rows, dim)], 1)


@dataclass(frozen=True, eq=False)
class HarmonicBonds(Term):
    """k/2 (r - length)^2 for given pairs of each system's atoms.

    Parameters
    ----------
    bonds : [B, 2] ints: two different atoms of a system, counted from 0; every system has the same bonds.
    k, length (>= 0) : numbers or 0-d tensors, or [B], one a bond. A bond of length 0 is a spring.

    Notes
    -----
    In a periodic box a bond takes its nearest image: bonds must stay shorter than half the box. Atoms that are bonded
    still interact by the pair terms.

    Examples
    --------
    >>> import torch
    >>> from gmkern.dynamics import HarmonicBonds, energy_and_forces
    >>> pair = torch.tensor([[[0.0, 0.0], [2.0, 0.0]]])
    >>> round(float(energy_and_forces(HarmonicBonds([[0, 1]], k=2.0, length=1.0), pair).energy), 4)
    1.0
    """

    bonds: Sequence[Sequence[int]] | np.ndarray | Tensor
    k: Given = 1.0
    length: Given = 1.0

    kind: ClassVar[int] = BONDS

    def __post_init__(self) -> None:
        try:
            bonds = torch.as_tensor(upright(self.bonds))
        except (TypeError, ValueError, RuntimeError) as error:
            raise _validate.bad("bonds", self.bonds, "pairs of atoms [B, 2]", error=TypeError) from error
        integral = not (bonds.is_floating_point() or bonds.is_complex() or bonds.dtype == torch.bool)
        if bonds.ndim != 2 or bonds.shape[1] != 2 or bonds.shape[0] == 0 or not integral:
            raise _validate.bad("bonds", bonds, "pairs of atoms: ints [B, 2], one bond or more")
        if bool((bonds < 0).any()) or bool((bonds[:, 0] == bonds[:, 1]).any()):
            raise _validate.bad("bonds", bonds.tolist(), "two different atoms a bond, counted from 0")
        count = bonds.shape[0]
        for name, low in (("k", None), ("length", 0.0)):
            check(name, getattr(self, name), low=low, tables=False)
            own = as_tensor(getattr(self, name))
            if own.ndim == 1 and own.shape[0] not in (1, count):
                raise _validate.bad(name, own, f"a number, or {count}: one a bond")

    @property
    def last_atom(self) -> int:
        return int(torch.as_tensor(upright(self.bonds)).max())

    def parameters_in(self, dim: int, device: torch.device) -> Tensor:
        bonds = as_tensor(self.bonds, device)
        own = [as_tensor(v, device).reshape(-1, 1).expand(bonds.shape[0], 1) for v in (self.k, self.length)]
        return torch.cat([bonds, *own], 1)
