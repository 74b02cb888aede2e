"""Many systems in one tensor: shapes, ragged offsets, boxes and masses, checked and brought to one form."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from gmkern import _validate
from gmkern.dynamics.fields import HarmonicBonds, Packed, Potential, packed

DTYPES = (torch.float32, torch.float64)


@dataclass(frozen=True)
class Systems:
    """M atoms of S systems, system s holding rows ptr[s] to ptr[s + 1]."""

    shape: torch.Size  # as the user gave the positions
    ptr: Tensor  # [S + 1] int64, on the positions' device
    count: int  # S
    largest: int  # atoms of the largest system
    dim: int
    dense: bool  # [S, N, D]: all systems of one size

    @property
    def atoms(self) -> int:
        return math.prod(self.shape[:-1])

    def flat(self, x: Tensor) -> Tensor:
        """[M, D], contiguous."""
        return x.reshape(-1, self.dim).contiguous()

    def padded(self, x: Tensor) -> Tensor:
        """[S, N, D] of the user's shape, the rows of smaller systems filled up with zeros."""
        if self.dense or self.count == 1:
            return x.reshape(self.count, self.largest, self.dim)
        row, inside = self._rows()
        return torch.where(inside[..., None], x[row], torch.zeros((), dtype=x.dtype, device=x.device))

    def unpadded(self, x: Tensor) -> Tensor:
        """The user's shape from [S, N, D]; leading axes stay."""
        if self.dense or self.count == 1:
            return x.reshape(*x.shape[:-3], *self.shape)
        _, inside = self._rows()
        return x[..., inside, :]

    def padded_rows(self, values: Tensor) -> Tensor:
        """[S, N] of one value an atom, [M]; rows of no atom repeat another's."""
        if self.dense or self.count == 1:
            return values.reshape(self.count, self.largest)
        return values[self._rows()[0]] if values.numel() else values.new_zeros(self.count, self.largest)

    def padded_features(self, values: Tensor) -> Tensor:
        """[S, N, H] of [M, H]; rows of no atom repeat another's."""
        if self.dense or self.count == 1:
            return values.reshape(self.count, self.largest, values.shape[1])
        return (
            values[self._rows()[0]] if values.numel() else values.new_zeros(self.count, self.largest, values.shape[1])
        )

    def unpadded_features(self, values: Tensor) -> Tensor:
        """[M, H] of [S, N, H]."""
        if self.dense or self.count == 1:
            return values.reshape(self.atoms, values.shape[-1])
        return values[self.mask()]

    def mask(self) -> Tensor:
        """[S, N]: which rows of ``padded`` are atoms."""
        return self._rows()[1]

    def _rows(self) -> tuple[Tensor, Tensor]:
        return padded_index(self.ptr, self.largest)


def padded_index(ptr: Tensor, largest: int | None = None) -> tuple[Tensor, Tensor]:
    """[S, N] each: the rows of ragged systems, and which of them are atoms."""
    sizes = ptr[1:] - ptr[:-1]
    if largest is None:
        largest = int(sizes.max()) if sizes.numel() else 0
    at = torch.arange(largest, device=ptr.device)
    inside = at[None, :] < sizes[:, None]
    return torch.where(inside, ptr[:-1, None] + at[None, :], 0), inside


def systems_of(positions: Tensor, system_ptr: Tensor | np.ndarray | Sequence[int] | None) -> Systems:
    """The systems of ``positions``: [S, N, D], or [N, D] alone or cut by ``system_ptr``."""
    if positions.shape[-1] == 0:
        raise _validate.bad("positions", positions, "at least one dimension")
    dim = positions.shape[-1]
    if system_ptr is None:
        dense = positions.ndim == 3
        count, largest = (positions.shape[0], positions.shape[1]) if dense else (1, positions.shape[0])
        ptr = torch.arange(count + 1, device=positions.device) * largest
        return Systems(positions.shape, ptr, count, largest, dim, dense)
    if positions.ndim != 2:
        raise _validate.bad("system_ptr", f"one with positions of shape {list(positions.shape)}", "positions [N, D]")
    if _validate.is_listed(system_ptr):
        system_ptr = _validate.int64s("system_ptr", system_ptr)
    ptr = _validate.tensor("system_ptr", system_ptr, ndim=1, dtypes=(torch.int32, torch.int64)).to(torch.int64)
    sizes = ptr[1:] - ptr[:-1]
    good = ptr.numel() >= 1 and int(ptr[0]) == 0 and int(ptr[-1]) == positions.shape[0] and bool((sizes >= 0).all())
    if not good:
        raise _validate.bad("system_ptr", ptr, f"offsets that rise from 0 to {positions.shape[0]}, the number of atoms")
    largest = int(sizes.max()) if sizes.numel() else 0
    ptr = ptr.to(positions.device).contiguous()
    return Systems(positions.shape, ptr, ptr.numel() - 1, largest, dim, False)


def positions_of(
    positions: Tensor | np.ndarray, *, name: str = "positions", ndim: Sequence[int] | None = (2, 3)
) -> Tensor:
    """``positions`` as a finite float32 or float64 tensor."""
    x = _validate.tensor(name, positions, ndim=ndim, dtypes=DTYPES)
    if not bool(torch.isfinite(x.detach()).all()):
        raise _validate.bad(name, "values that are not finite", "finite numbers")
    return x


def no_gradient(name: str, value: Tensor) -> None:
    """Refuses a tensor whose gradient would be dropped."""
    if value.requires_grad and torch.is_grad_enabled():
        raise ValueError(f"{name}: got a tensor that requires grad; takes one that does not (detach it)")


@dataclass(frozen=True)
class Box:
    """Periodic boxes: row vectors, and the inverse whose column k is zero where direction k is not periodic."""

    cell: Tensor  # [0, D, D] (no box), [1, D, D] or [S, D, D], float64
    inverse: Tensor


def box_of(
    cell: Tensor | np.ndarray | None,
    pbc: bool | Sequence[bool],
    systems: Systems,
    field: Potential,
    device: torch.device,
) -> Box:
    """The periodic box, once the potential's cutoffs are known to reach no second image."""
    return box_within([(type(t).__name__, t.reach) for t in field.terms if t.is_pair], cell, pbc, systems, device)


def box_within(
    reaches: Sequence[tuple[str, float | None]],
    cell: Tensor | np.ndarray | None,
    pbc: bool | Sequence[bool],
    systems: Systems,
    device: torch.device,
) -> Box:
    """The periodic box, once what reaches so far (a name and a cutoff, or None) is known to reach no second image."""
    lattice = _lattice(cell, pbc, systems, device)
    if not lattice.periodic:
        none = torch.empty((0, systems.dim, systems.dim), dtype=torch.float64, device=device)
        return Box(none, none)
    narrowest = float((1.0 / torch.linalg.vector_norm(lattice.pinv, dim=1)).min()) if lattice.pinv.numel() else math.inf
    for name, reach in reaches:
        if reach is None:
            raise ValueError(f"cutoff: got None for {name} in a periodic box; takes at most half the box")
        if reach > 0.5 * narrowest * (1.0 + 1e-9):  # the pseudo-inverse rounds
            raise ValueError(
                f"cutoff: got {reach:g} for {name} in a periodic box; takes at most {0.5 * narrowest:g}, half the "
                "distance between the closest faces of the cell"
            )
    inverse = torch.zeros_like(lattice.kept)
    inverse[:, :, lattice.periodic] = lattice.pinv
    return Box(lattice.kept, inverse.contiguous())


def lattice_of(
    cell: Tensor | np.ndarray | None, pbc: bool | Sequence[bool], systems: Systems, device: torch.device
) -> tuple[Tensor, Tensor, list[int]]:
    """(cell, fractions, repeats): lattice vectors as rows [1 | S, D, D] float64, zeros where nothing repeats; vectors
    f_k [1 | S, D, D] with x . f_k the fraction of x along vector k, or along a unit vector at right angles to those
    that repeat; and which repeat, 0 or 1."""
    lattice, dim = _lattice(cell, pbc, systems, device), systems.dim
    repeats = [int(k in lattice.periodic) for k in range(dim)]
    if not lattice.periodic:
        return lattice.kept, torch.eye(dim, dtype=torch.float64, device=device)[None], repeats
    fractions = torch.zeros_like(lattice.kept)
    fractions[:, lattice.periodic] = lattice.pinv.transpose(1, 2)
    others = [k for k in range(dim) if k not in lattice.periodic]
    if others:
        complete = torch.linalg.qr(lattice.kept[:, lattice.periodic].transpose(1, 2), mode="complete").Q
        fractions[:, others] = complete[:, :, len(lattice.periodic) :].transpose(1, 2)
    return lattice.kept, fractions, repeats


@dataclass(frozen=True)
class _Lattice:
    periodic: list[int]  # the directions that repeat
    kept: Tensor  # [1 | S, D, D] float64: their vectors in their rows, zeros in the others
    pinv: Tensor  # [1 | S, D, P]: column k is 1/h_k long, h_k the distance between the two faces that vector k joins


def _lattice(
    cell: Tensor | np.ndarray | None, pbc: bool | Sequence[bool], systems: Systems, device: torch.device
) -> _Lattice:
    dim = systems.dim
    flags = (
        [pbc] * dim
        if isinstance(pbc, (bool, np.bool_))
        else _validate.sequence("pbc", pbc, f"a bool, or {dim} of them")
    )
    if len(flags) != dim or not all(isinstance(f, (bool, np.bool_)) for f in flags):
        raise _validate.bad("pbc", pbc, f"a bool, or {dim} of them")
    periodic = [k for k in range(dim) if flags[k]]
    if not periodic:
        if cell is not None:
            raise ValueError("cell: got a cell with pbc=False; pass pbc=True, or leave cell out")
        none = torch.zeros((1, dim, dim), dtype=torch.float64, device=device)
        return _Lattice([], none, none[:, :, :0])
    if cell is None:
        raise ValueError(f"cell: got None with pbc={pbc}; takes row vectors [{dim}, {dim}] or [S, {dim}, {dim}]")
    vectors = _validate.tensor("cell", cell, ndim=(2, 3))
    no_gradient("cell", vectors)
    vectors = vectors.to(device=device, dtype=torch.float64)
    vectors = vectors.unsqueeze(0) if vectors.ndim == 2 else vectors
    if vectors.shape[1:] != (dim, dim) or vectors.shape[0] not in (1, systems.count):
        raise _validate.bad("cell", vectors, f"shape [{dim}, {dim}] or [{systems.count}, {dim}, {dim}]")
    if not bool(torch.isfinite(vectors).all()):
        raise _validate.bad("cell", "values that are not finite", "finite numbers")
    rows = vectors[:, periodic]
    if not bool((torch.linalg.matrix_rank(rows) == len(periodic)).all()):
        raise _validate.bad("cell", "periodic row vectors that are not independent", "a box with a volume")
    kept = torch.zeros_like(vectors)
    kept[:, periodic] = rows
    return _Lattice(periodic, kept.contiguous(), torch.linalg.pinv(rows))


def masses_of(masses: float | Tensor | np.ndarray | None, systems: Systems, like: Tensor) -> Tensor:
    """Masses [M] in the positions' dtype."""
    atoms = like.numel() // systems.dim
    if masses is None:
        return torch.ones(atoms, dtype=like.dtype, device=like.device)
    if not isinstance(masses, (Tensor, np.ndarray)):
        masses = torch.tensor(_validate.number("masses", masses, above=0.0), dtype=torch.float64)
    m = _validate.tensor("masses", masses, ndim=(0, 1, 2))
    no_gradient("masses", m)
    m = m.to(device=like.device, dtype=like.dtype)
    rows = systems.shape[:-1]  # [S, N] or [N]
    if m.ndim and m.shape not in (rows, rows[-1:]):
        raise _validate.bad("masses", m, f"a number, shape {list(rows[-1:])}" + (f" or {list(rows)}" * systems.dense))
    if not bool((torch.isfinite(m) & (m > 0)).all()):
        raise _validate.bad("masses", "masses that are not positive and finite", "positive finite numbers")
    return m.expand(rows).reshape(-1).contiguous()


@dataclass(frozen=True)
class Model:
    """A potential in its box, made ready for positions of given systems."""

    systems: Systems
    field: Packed
    types: Tensor  # [M] int64, or [0] where atoms are all alike
    box: Box

    @property
    def arguments(self) -> tuple[Tensor, Tensor, list[int], list[int], Tensor, Tensor, Tensor]:
        """What the compiled ops take after the positions."""
        f = self.field
        return self.systems.ptr, self.types, f.kinds, f.sizes, f.parameters, self.box.cell, self.box.inverse

    @property
    def padded_arguments(self) -> tuple[Tensor, Tensor | None, list[int], list[int], Tensor, Tensor, Tensor]:
        """What the reference takes after the positions."""
        types = self.systems.padded_rows(self.types) if self.types.numel() else None
        return self.systems.mask(), types, *self.arguments[2:]


def model_of(
    field: Potential,
    systems: Systems,
    types: Tensor | np.ndarray | Sequence[int] | None,
    cell: Tensor | np.ndarray | None,
    pbc: bool | Sequence[bool],
    device: torch.device,
) -> Model:
    """The potential, once its types, bonds and cutoffs are known to fit the systems."""
    terms = packed(field, systems.dim, device)
    for term in field.terms:
        if isinstance(term, HarmonicBonds) and systems.count:
            smallest = int((systems.ptr[1:] - systems.ptr[:-1]).min())
            if term.last_atom >= smallest:
                raise _validate.bad(
                    "bonds", f"one with atom {term.last_atom}", f"atoms 0 to {smallest - 1}, of the smallest system"
                )
    return Model(
        systems, terms, types_of(types, systems, terms.types, device), box_of(cell, pbc, systems, field, device)
    )


def types_of(
    types: Tensor | np.ndarray | Sequence[int] | None, systems: Systems, count: int, device: torch.device
) -> Tensor:
    """Types [M] below ``count``; [0] where they make no difference."""
    if types is None:
        if count > 1:
            raise ValueError(f"types: got None with a field of {count} types; takes one an atom, 0 to {count - 1}")
        return torch.empty(0, dtype=torch.int64, device=device)
    if _validate.is_listed(types):
        types = _validate.int64s("types", types)
    own = _validate.tensor("types", types, ndim=(1, 2), dtypes=(torch.int32, torch.int64))
    rows = systems.shape[:-1]
    if own.shape not in (rows, rows[-1:]):
        raise _validate.bad("types", own, f"shape {list(rows[-1:])}" + f" or {list(rows)}" * systems.dense)
    if own.numel() and (int(own.min()) < 0 or (count > 1 and int(own.max()) >= count)):
        raise _validate.bad("types", f"types {int(own.min())} to {int(own.max())}", f"types 0 to {count - 1}")
    if count == 1:
        return torch.empty(0, dtype=torch.int64, device=device)
    return own.to(device=device, dtype=torch.int64).expand(rows).reshape(-1).contiguous()
