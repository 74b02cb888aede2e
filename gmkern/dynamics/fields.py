"""Force fields: what pulls on the atoms.

A potential is a sum of terms, each a kind (a small number that csrc/dynamics/field.h and energy/reference.py share) and
its parameters. A new pair term is a class here, a case in those two, and nothing else.
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
from gmkern.dynamics.parameters import Given, as_tensor, between_types, check, energies, lengths, scalar

# The kinds of term: csrc/dynamics/field.h and energy/reference.py read the parameters in the order given here. A pair
# term has six for each pair of types: four of its own, the cutoff (inf without), and the energy at the cutoff that is
# taken away.
LENNARD_JONES = 0  # epsilon, sigma
HARMONIC = 1  # for each type: k, center (D numbers)
MORSE = 2  # depth, rate, distance
COULOMB = 3  # strength, reaction field
SOFT_SPHERE = 4  # epsilon, sigma, exponent
DOUBLE_WELL = 5  # linear, quadratic, quartic, distance
BONDS = 6  # for each bond: two atoms, k, length
LEARNED = 7  # the first of its coefficients, intervals, where they begin, intervals a unit of distance; NODES follows
NODES = 8  # six coefficients an interval, of a spline for each pair of types

_MOST_TYPES = 64  # csrc/dynamics/field.h


class Potential:
    """A field with an energy: a sum of pair, trap and bond terms. They add: ``LennardJones() + Harmonic(0.1)``.

    Examples
    --------
    >>> import torch
    >>> from gmkern.dynamics import Harmonic, LennardJones, energy_and_forces
    >>> field = LennardJones() + Harmonic(0.1)
    >>> energy_and_forces(field, torch.randn(3, 4, 2)).forces.shape
    torch.Size([3, 4, 2])
    """

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

    @property
    def terms(self) -> tuple[Term, ...]:
        return (self,)

    @property
    def is_pair(self) -> bool:
        return self.kind not in (HARMONIC, BONDS, NODES)

    @property
    def reach(self) -> float | None:
        """The distance from which a pair term does nothing; None where there is none."""
        return None

    def parameters_in(self, dim: int, device: torch.device) -> Tensor:
        """The term's parameters for positions of dimension ``dim``, float64 and differentiable.

        [T, T, 6] of a pair term, [T, 1 + dim] of a trap, [B, 4] of bonds; T = 1 where types do not matter.
        """
        raise TypeError(f"{type(self).__name__} has no parameters")  # a subclass says which

    def nodes(self, device: torch.device) -> Tensor | None:
        """What a learnt term has beside its parameters; None otherwise."""
        return None


@dataclass(frozen=True, eq=False)
class Sum(Potential):
    """The sum of terms; made by ``+``."""

    parts: tuple[Term, ...]

    @property
    def terms(self) -> tuple[Term, ...]:
        return self.parts


class _CutPair(Term):
    """A pair term that ends at ``cutoff``, by default with its energy shifted so as to end at 0."""

    cutoff: float | None
    shift: bool

    @property
    def reach(self) -> float | None:
        return self.cutoff

    def _check_cutoff(self) -> None:
        if self.cutoff is not None:
            _validate.number("cutoff", self.cutoff, above=0.0)
        if not isinstance(self.shift, bool):
            raise _validate.bad("shift", self.shift, "True or False", error=TypeError)

    def _energy(self, own: list[Tensor], r: float) -> Tensor:
        """The pair's energy at r, of tables [T, T] of its own parameters."""
        raise TypeError(f"{type(self).__name__} has no energy")  # a subclass says which

    def _table(self, own: list[Tensor]) -> Tensor:
        own = list(torch.broadcast_tensors(*own))
        cutoff = torch.full_like(own[0], math.inf if self.cutoff is None else self.cutoff)
        taken = torch.zeros_like(own[0])
        if self.cutoff is not None and self.shift:
            taken = self._energy(own, self.cutoff)
        return _pair_table(own, cutoff, taken)


@dataclass(frozen=True, eq=False)
class LennardJones(_CutPair):
    """4 epsilon ((sigma/r)^12 - (sigma/r)^6) between all pairs of a system's atoms.

    Parameters
    ----------
    epsilon : depth of the well, in the user's energy unit (>= 0): a number or a 0-d tensor; [T], one a type, mixed as
        sqrt(epsilon_a epsilon_b); or a symmetric [T, T].
    sigma : where the energy crosses zero, in the user's length unit (> 0): likewise, mixed as (sigma_a + sigma_b) / 2.
    cutoff : pairs at this distance or beyond it do not interact; None for no cutoff.
    shift : whether the energy at the cutoff is taken from each pair inside it, so that the energy is continuous there
        (the force jumps by its own value at the cutoff, small for a cutoff of 2.5 sigma). Without a cutoff it has no
        effect.

    Notes
    -----
    Source: J. E. Jones, Proc. R. Soc. A 106 (1924) 463; the mixing is that of Lorentz and Berthelot.

    Examples
    --------
    >>> import torch
    >>> from gmkern.dynamics import LennardJones, energy_and_forces
    >>> pair = torch.tensor([[[0.0, 0.0], [2 ** (1 / 6), 0.0]]])
    >>> round(float(energy_and_forces(LennardJones(), pair).energy), 4)  # the bottom of the well
    -1.0
    """

    epsilon: Given = 1.0
    sigma: Given = 1.0
    cutoff: float | None = None
    shift: bool = True

    kind: ClassVar[int] = LENNARD_JONES

    def __post_init__(self) -> None:
        check("epsilon", self.epsilon, low=0.0)
        check("sigma", self.sigma, above=0.0)
        self._check_cutoff()

    def _energy(self, own: list[Tensor], r: float) -> Tensor:
        s6 = (own[1] / r) ** 6
        return 4.0 * own[0] * s6 * (s6 - 1.0)

    def parameters_in(self, dim: int, device: torch.device) -> Tensor:
        return self._table([energies(self.epsilon, device), lengths(self.sigma, device)])


@dataclass(frozen=True, eq=False)
class WCA(Term):
    """The repulsive part of Lennard-Jones: 4 epsilon ((sigma/r)^12 - (sigma/r)^6) + epsilon below 2^(1/6) sigma.

    Parameters
    ----------
    epsilon, sigma : as of ``LennardJones``; each pair of types ends at its own minimum, where energy and force are 0.

    Notes
    -----
    Source: J. D. Weeks, D. Chandler and H. C. Andersen, J. Chem. Phys. 54 (1971) 5237.

    Examples
    --------
    >>> import torch
    >>> from gmkern.dynamics import WCA, energy_and_forces
    >>> pair = torch.tensor([[[0.0, 0.0], [1.0, 0.0]]])
    >>> round(float(energy_and_forces(WCA(), pair).energy), 4)
    1.0
    """

    epsilon: Given = 1.0
    sigma: Given = 1.0

    kind: ClassVar[int] = LENNARD_JONES

    def __post_init__(self) -> None:
        check("epsilon", self.epsilon, low=0.0)
        check("sigma", self.sigma, above=0.0)

    @property
    def reach(self) -> float | None:
        return 2.0 ** (1 / 6) * float(as_tensor(self.sigma).detach().max())

    def parameters_in(self, dim: int, device: torch.device) -> Tensor:
        epsilon, sigma = torch.broadcast_tensors(energies(self.epsilon, device), lengths(self.sigma, device))
        return _pair_table([epsilon, sigma], 2.0 ** (1 / 6) * sigma.detach(), -epsilon)


@dataclass(frozen=True, eq=False)
class Morse(_CutPair):
    """depth (E^2 - 2 E) with E = exp(-rate (r - distance)): a well of that depth at that distance.

    Parameters
    ----------
    depth (>= 0), rate (> 0, one over length), distance (> 0) : numbers, 0-d tensors, or symmetric [T, T].
    cutoff, shift : as of ``LennardJones``.

    Notes
    -----
    Source: P. M. Morse, Phys. Rev. 34 (1929) 57.

    Examples
    --------
    >>> import torch
    >>> from gmkern.dynamics import Morse, energy_and_forces
    >>> pair = torch.tensor([[[0.0, 0.0], [1.0, 0.0]]])
    >>> round(float(energy_and_forces(Morse(depth=2.0), pair).energy), 4)
    -2.0
    """

    depth: Given = 1.0
    rate: Given = 1.0
    distance: Given = 1.0
    cutoff: float | None = None
    shift: bool = True

    kind: ClassVar[int] = MORSE

    def __post_init__(self) -> None:
        check("depth", self.depth, low=0.0, mixes=False)
        check("rate", self.rate, above=0.0, mixes=False)
        check("distance", self.distance, above=0.0, mixes=False)
        self._check_cutoff()

    def _energy(self, own: list[Tensor], r: float) -> Tensor:
        e = torch.exp(-own[1] * (r - own[2]))
        return own[0] * e * (e - 2.0)

    def parameters_in(self, dim: int, device: torch.device) -> Tensor:
        return self._table([between_types(v, device) for v in (self.depth, self.rate, self.distance)])


@dataclass(frozen=True, eq=False)
class Coulomb(_CutPair):
    """constant q_a q_b / r between charges.

    Parameters
    ----------
    charges : of each type, [T]; or a number or a 0-d tensor, that of all atoms.
    constant : the energy of two unit charges at unit distance; a number or a 0-d tensor.
    cutoff : as of ``LennardJones``.
    shift : whether the energy at the cutoff is taken away.
    dielectric : with a cutoff, a reaction field of this dielectric constant (> 0, inf for a conductor) beyond it: the
        pair's energy becomes constant q_a q_b (1/r + k r^2 - 1/cutoff - k cutoff^2), k = (dielectric - 1) / ((2
        dielectric + 1) cutoff^3).

    Notes
    -----
    Source of the reaction field: I. G. Tironi et al., J. Chem. Phys. 102 (1995) 5451. Charges have no sum over images:
    a periodic box needs a cutoff.

    Examples
    --------
    >>> import torch
    >>> from gmkern.dynamics import Coulomb, energy_and_forces
    >>> pair = torch.tensor([[[0.0, 0.0], [2.0, 0.0]]])
    >>> round(float(energy_and_forces(Coulomb([1.0, -1.0]), pair, types=[0, 1]).energy), 4)
    -0.5
    """

    charges: Given = 1.0
    constant: Given = 1.0
    cutoff: float | None = None
    shift: bool = True
    dielectric: float | None = None

    kind: ClassVar[int] = COULOMB

    def __post_init__(self) -> None:
        check("charges", self.charges, tables=False)
        scalar("constant", self.constant)
        self._check_cutoff()
        if self.dielectric is not None:
            if self.cutoff is None:
                raise ValueError("dielectric: got one without a cutoff, beyond which it would begin; pass cutoff")
            if self.dielectric != math.inf:
                _validate.number("dielectric", self.dielectric, above=0.0)

    def _energy(self, own: list[Tensor], r: float) -> Tensor:
        return own[0] * (1.0 / r + own[1] * r * r)

    def parameters_in(self, dim: int, device: torch.device) -> Tensor:
        charges = as_tensor(self.charges, device).reshape(-1)
        strength = as_tensor(self.constant, device) * charges[:, None] * charges[None, :]
        field = 0.0
        if self.dielectric is not None and self.cutoff is not None:
            e = self.dielectric
            field = (0.5 if e == math.inf else (e - 1.0) / (2.0 * e + 1.0)) / self.cutoff**3
        return self._table([strength, torch.full_like(strength, field)])


@dataclass(frozen=True, eq=False)
class SoftSphere(Term):
    """epsilon / exponent (1 - r / sigma)^exponent for r < sigma: spheres that resist overlap, finite at r = 0.

    Parameters
    ----------
    epsilon (>= 0), sigma (> 0) : as of ``LennardJones``, and mixed as there.
    exponent : 2 (harmonic), 2.5 (Hertz), or any multiple of 1/2 from 2 to 16.

    Examples
    --------
    >>> import torch
    >>> from gmkern.dynamics import SoftSphere, energy_and_forces
    >>> pair = torch.tensor([[[0.0, 0.0], [0.5, 0.0]]])
    >>> round(float(energy_and_forces(SoftSphere(), pair).energy), 4)
    0.125
    """

    epsilon: Given = 1.0
    sigma: Given = 1.0
    exponent: float = 2.0

    kind: ClassVar[int] = SOFT_SPHERE

    def __post_init__(self) -> None:
        check("epsilon", self.epsilon, low=0.0)
        check("sigma", self.sigma, above=0.0)
        exponent = _validate.number("exponent", self.exponent, low=2.0)
        if exponent > 16.0 or (2.0 * exponent) % 1.0 != 0.0:
            raise _validate.bad("exponent", repr(self.exponent), "a multiple of 1/2 from 2 to 16")

    @property
    def reach(self) -> float | None:
        return float(as_tensor(self.sigma).detach().max())

    def parameters_in(self, dim: int, device: torch.device) -> Tensor:
        epsilon, sigma = torch.broadcast_tensors(energies(self.epsilon, device), lengths(self.sigma, device))
        own = [epsilon, sigma, torch.full_like(sigma, float(self.exponent))]
        return _pair_table(own, sigma.detach(), torch.zeros_like(sigma))


@dataclass(frozen=True, eq=False)
class DoubleWell(_CutPair):
    """linear y + quadratic y^2 + quartic y^4 with y = r - distance, between all pairs: two preferred distances.

    Parameters
    ----------
    linear, quadratic, quartic, distance : numbers, 0-d tensors, or symmetric [T, T]. With the values by default, four
        atoms in the plane are the DW-4 system of the sampling literature at temperature 1.
    cutoff, shift : as of ``LennardJones``.

    Notes
    -----
    Source: J. Koehler, L. Klein and F. Noe, Equivariant flows, ICML 2020 (whose factor 1/2 over all ordered pairs is
    one over each pair here).

    Examples
    --------
    >>> import torch
    >>> from gmkern.dynamics import DoubleWell, energy_and_forces
    >>> pair = torch.tensor([[[0.0, 0.0], [4.0, 0.0]]])
    >>> round(float(energy_and_forces(DoubleWell(), pair).energy), 4)  # the top between the wells
    0.0
    """

    linear: Given = 0.0
    quadratic: Given = -4.0
    quartic: Given = 0.9
    distance: Given = 4.0
    cutoff: float | None = None
    shift: bool = True

    kind: ClassVar[int] = DOUBLE_WELL

    def __post_init__(self) -> None:
        for name in ("linear", "quadratic", "quartic", "distance"):
            check(name, getattr(self, name), mixes=False)
        self._check_cutoff()

    def _energy(self, own: list[Tensor], r: float) -> Tensor:
        y = r - own[3]
        return own[0] * y + own[1] * y**2 + own[2] * y**4

    def parameters_in(self, dim: int, device: torch.device) -> Tensor:
        given = (self.linear, self.quadratic, self.quartic, self.distance)
        return self._table([between_types(v, device) for v in given])


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
            center = torch.as_tensor(self.center)
        except (TypeError, ValueError, RuntimeError) as error:
            raise _validate.bad("center", self.center, "a finite number, or D of them", error=TypeError) from error
        if center.ndim > 2 or center.is_complex() or not bool(torch.isfinite(center).all()):
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
            bonds = torch.as_tensor(self.bonds)
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
        return int(torch.as_tensor(self.bonds).max())

    def parameters_in(self, dim: int, device: torch.device) -> Tensor:
        bonds = as_tensor(self.bonds, device)
        own = [as_tensor(v, device).reshape(-1, 1).expand(bonds.shape[0], 1) for v in (self.k, self.length)]
        return torch.cat([bonds, *own], 1)


@dataclass(frozen=True, eq=False)
class VectorField:
    """A force or velocity field learnt by a network.

    Parameters
    ----------
    module : called as ``module(x, t)`` with x of shape [S, ...] and t of shape [S], in x's dtype and on its device;
        gives a floating tensor of x's shape, taken to x's dtype. Any callable that leaves x as it is will do.
    start_time : the time at step 0; step n runs from ``start_time + n dt``.

    Examples
    --------
    >>> import torch
    >>> from gmkern.dynamics import Heun, VectorField, simulate
    >>> layer = torch.nn.Linear(3, 2)
    >>> flow = VectorField(lambda x, t: layer(torch.cat([x, t[:, None]], 1)))
    >>> simulate(flow, torch.randn(5, 2), integrator=Heun(0.1), steps=10).positions.shape
    torch.Size([5, 2])
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


@dataclass(frozen=True)
class Packed:
    """A potential as the ops take it."""

    kinds: list[int]
    sizes: list[int]  # how many parameters each term has
    parameters: Tensor  # one term's after another's: float64, differentiable
    types: int  # 1: atoms are all alike


def packed(field: Potential, dim: int, device: torch.device) -> Packed:
    """The terms of ``field``, once they are known to speak of the same types."""
    kinds, tables, types = [], [], 1
    for term in field.terms:
        table = term.parameters_in(dim, device)
        own = 1 if term.kind == BONDS else table.shape[0]
        if own > 1 and types > 1 and own != types:
            raise ValueError(f"field: got terms of {types} and of {own} types; takes one number of types")
        types = max(types, own)
        kinds.append(term.kind)
        tables.append(table.reshape(-1))
        nodes = term.nodes(device)
        if nodes is not None:
            kinds.append(NODES)
            tables.append(nodes.reshape(-1))
    if types > _MOST_TYPES:
        raise ValueError(f"field: got {types} types; takes up to {_MOST_TYPES}")
    return Packed(kinds, [t.numel() for t in tables], torch.cat(tables), types)


def _pair_table(own: list[Tensor], cutoff: Tensor, taken: Tensor) -> Tensor:
    own = [*own, *[torch.zeros_like(cutoff)] * (4 - len(own))]
    return torch.stack([*own, cutoff, taken], -1)
