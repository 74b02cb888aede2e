"""What a potential is: a sum of terms, each a kind and its parameters, and how the ops take it.

A kind is a small number that csrc/dynamics/field.h and energy/reference.py share. A new pair term is a class in
``pairs.py``, a case in those two, and nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

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
