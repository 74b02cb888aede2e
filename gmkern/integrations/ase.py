"""ASE, the Atomic Simulation Environment: its structures as batches of systems, and a calculator around a force field.

Needs the package ase: ``pip install 'gmkern[ase]'``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from ase import Atoms
from ase.calculators import calculator
from torch import Tensor

from gmkern import _validate
from gmkern.dynamics import EGNN, Potential, VectorField, energy_and_forces

__all__ = ["Calculator", "Structures", "structures_of", "types_of"]


@dataclass(frozen=True)
class Structures:
    """Structures as :func:`gmkern.dynamics.simulate` takes them: M atoms of S systems, in ASE's units."""

    positions: Tensor  # [M, 3]
    velocities: Tensor | None  # [M, 3]; None where no structure has momenta
    masses: Tensor  # [M]
    system_ptr: Tensor  # [S + 1] int64
    cell: Tensor | None  # [S, 3, 3]; None where nothing is periodic
    pbc: tuple[bool, bool, bool]


def structures_of(images: Sequence[Atoms], *, dtype: torch.dtype = torch.float64) -> Structures:
    """``images``, each a system, as one batch.

    Parameters
    ----------
    images : structures, periodic in the same directions; sizes, elements and cells may differ.
    dtype : torch.float32 or torch.float64, of all but ``system_ptr``.

    Raises
    ------
    TypeError, ValueError : an image is none, there is none at all, or their periodic directions differ.

    Examples
    --------
    >>> from ase import Atoms
    >>> from gmkern.integrations.ase import structures_of
    >>> batch = structures_of([Atoms("Ar2", [[0, 0, 0], [0, 0, 1.1]]), Atoms("Ar")])
    >>> batch.positions.shape, batch.system_ptr.tolist()
    (torch.Size([3, 3]), [0, 2, 3])
    """
    if isinstance(images, Atoms) or not all(isinstance(one, Atoms) for one in images):
        raise _validate.bad("images", images, "a list of ase.Atoms", error=TypeError)
    if len(images) == 0:
        raise _validate.bad("images", images, "one structure or more")
    if dtype not in (torch.float32, torch.float64):
        raise _validate.bad("dtype", dtype, "torch.float32 or torch.float64")
    flags = tuple(bool(flag) for flag in images[0].pbc)
    for at, one in enumerate(images):
        if tuple(one.pbc) != flags:
            raise _validate.bad(
                "images", f"pbc {one.pbc.tolist()} in structure {at}, {list(flags)} in the first", "one pbc"
            )

    def joined(arrays: Sequence[np.ndarray]) -> Tensor:
        return torch.from_numpy(np.concatenate(arrays)).to(dtype)

    velocities = None
    if any(one.has("momenta") for one in images):
        velocities = joined([one.get_velocities() for one in images])
    return Structures(
        positions=joined([one.positions for one in images]),
        velocities=velocities,
        masses=joined([one.get_masses() for one in images]),
        system_ptr=torch.tensor([0, *np.cumsum([len(one) for one in images])]),
        cell=torch.from_numpy(np.stack([np.asarray(one.cell) for one in images])) if any(flags) else None,
        pbc=(flags[0], flags[1], flags[2]),
    )


def types_of(images: Sequence[Atoms], types: Mapping[str, int]) -> Tensor:
    """The types [M] int64 of all atoms of ``images``, by their elements.

    Raises
    ------
    ValueError : an element has no type.

    Examples
    --------
    >>> from ase import Atoms
    >>> from gmkern.integrations.ase import types_of
    >>> types_of([Atoms("NaCl"), Atoms("Cl2")], {"Na": 0, "Cl": 1})
    tensor([0, 1, 1, 1])
    """
    symbols = [symbol for one in images for symbol in one.symbols]
    missing = sorted(set(symbols) - set(types))
    if missing:
        raise _validate.bad("types", f"none for {', '.join(missing)}", "a type for each element of the structures")
    return torch.tensor([types[symbol] for symbol in symbols], dtype=torch.int64)


class Calculator(calculator.Calculator):  # type: ignore[misc]
    """A force field as an ASE calculator, so that ASE's optimisers and integrators can drive it.

    Parameters
    ----------
    field : a potential (or a sum), an ``EGNN`` that is conservative, or a ``VectorField``, whose module sees positions
        [1, N, 3] at its ``start_time`` and which has forces alone. Its units are ASE's: Angstrom and eV.
    types : the type of each element, such as {"Na": 0, "Cl": 1}, for fields whose parameters differ by type.

    Notes
    -----
    Energies (``energy`` and, nothing being smeared, the same ``free_energy``) and ``forces`` in float64, by
    :func:`gmkern.dynamics.energy_and_forces`, whose rules on boxes and cutoffs hold. No stress. Deterministic.

    Examples
    --------
    >>> from ase import Atoms
    >>> from gmkern.dynamics import LennardJones
    >>> from gmkern.integrations.ase import Calculator
    >>> pair = Atoms("Ar2", [[0, 0, 0], [0, 0, 2 ** (1 / 6)]], calculator=Calculator(LennardJones()))
    >>> round(pair.get_potential_energy(), 6)
    -1.0
    """

    implemented_properties = ["energy", "free_energy", "forces"]  # noqa: RUF012  (as ASE has it)

    def __init__(
        self, field: Potential | EGNN | VectorField, types: Mapping[str, int] | None = None, **keywords: Any
    ) -> None:
        if not isinstance(field, (Potential, EGNN, VectorField)):
            raise _validate.bad("field", field, "a potential, an EGNN or a VectorField", error=TypeError)
        if isinstance(field, EGNN) and not field.conservative:
            raise ValueError("field: got an EGNN with conservative=False, which has no energy; takes one with it")
        super().__init__(**keywords)
        self.field = field
        self.types = types
        if isinstance(field, VectorField):
            if types is not None:
                raise ValueError("types: got some with a VectorField, which takes none; leave them out")
            self.implemented_properties = ["forces"]

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = tuple(calculator.all_changes),
    ) -> None:
        """Fills ``results``; ASE calls it where positions, cell, pbc or elements have changed."""
        super().calculate(atoms, properties, system_changes)
        own = cast(Atoms, self.atoms)
        one = structures_of([own])
        with torch.no_grad():
            if isinstance(self.field, VectorField):
                time = torch.tensor([self.field.start_time], dtype=torch.float64)
                self.results = {"forces": self.field(one.positions[None], time)[0].numpy()}
                return
            out = energy_and_forces(
                self.field,
                one.positions,
                types=None if self.types is None else types_of([own], self.types),
                cell=one.cell,
                pbc=one.pbc,
            )
        energy = float(out.energy)
        self.results = {"energy": energy, "free_energy": energy, "forces": out.forces.numpy()}
