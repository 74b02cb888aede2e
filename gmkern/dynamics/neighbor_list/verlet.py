"""Neighbour lists along a path: candidates with a skin, listed anew only when an atom has come far enough."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from gmkern import _validate
from gmkern.dynamics.neighbor_list.api import NeighborList, neighbor_list
from gmkern.dynamics.neighbor_list.reference import roots, squares, vectors
from gmkern.dynamics.systems import lattice_of, positions_of, systems_of


class VerletList:
    """The neighbours of atoms that move: ``neighbors = VerletList(cutoff, skin); neighbors(positions)`` at each step.

    Parameters
    ----------
    cutoff, cell, pbc, system_ptr, half : as of :func:`neighbor_list`.
    skin : pairs up to ``cutoff + skin`` are kept as candidates (> 0), and listed anew once an atom has moved further
        than half of it: until then no pair outside them can have come within the cutoff. Usual: 0.1 to 0.3 cutoffs.

    Attributes
    ----------
    rebuilds : how often candidates were listed.

    Notes
    -----
    What a call gives is ``neighbor_list(positions, cutoff, ...)``, whenever it was listed: the same pairs in the same
    order, and the same bits. Positions may change their values; where their shape, dtype or device changes, or they are
    wrapped into the box, candidates are listed anew. Source: L. Verlet, Phys. Rev. 159 (1967) 98.

    Examples
    --------
    >>> import torch
    >>> from gmkern.dynamics import VerletList
    >>> neighbors, x = VerletList(1.0, skin=0.2), torch.tensor([[0.0, 0.0], [1.055, 0.0]])
    >>> [neighbors(x + step * torch.tensor([[0.01, 0.0], [0.0, 0.0]])).i.numel() for step in range(8)]
    [0, 0, 0, 0, 0, 0, 2, 2]
    >>> neighbors.rebuilds
    1
    """

    def __init__(
        self,
        cutoff: float,
        skin: float,
        *,
        cell: Tensor | np.ndarray | None = None,
        pbc: bool | Sequence[bool] = False,
        system_ptr: Tensor | np.ndarray | Sequence[int] | None = None,
        half: bool = False,
    ) -> None:
        self.cutoff = _validate.number("cutoff", cutoff, above=0.0)
        self.skin = _validate.number("skin", skin, above=0.0)
        self.cell, self.pbc, self.system_ptr, self.half = cell, pbc, system_ptr, half
        self.rebuilds = 0
        self._built: Tensor | None = None  # the positions whose candidates these are
        self._i = self._j = self._shift = self._cell = torch.empty(0)

    def __call__(self, positions: Tensor | np.ndarray) -> NeighborList:
        x = positions_of(positions)
        if not self._holds(x):
            self._list(x.detach())
        flat = x.reshape(-1, x.shape[-1])
        i, j, shift = self._i, self._j, self._shift
        with torch.no_grad():
            near = squares(vectors(flat[i], flat[j], shift, self._cell)) < self.cutoff * self.cutoff
        i, j, shift = i[near], j[near], shift[near]
        vector = vectors(flat[i], flat[j], shift, self._cell if self._cell.shape[0] == 1 else self._cell[near])
        rows = torch.bincount(i, minlength=flat.shape[0]).cumsum(0)
        return NeighborList(
            i, j, shift, roots(squares(vector)).to(x.dtype), vector.to(x.dtype), torch.cat([rows.new_zeros(1), rows])
        )

    def _list(self, x: Tensor) -> None:
        options = {"cell": self.cell, "pbc": self.pbc, "system_ptr": self.system_ptr}
        near = neighbor_list(x, self.cutoff, skin=self.skin, half=self.half, **options)  # type: ignore[arg-type]
        systems = systems_of(x, self.system_ptr)
        cell, _, _ = lattice_of(self.cell, self.pbc, systems, x.device)
        if cell.shape[0] > 1:
            cell = cell[torch.bucketize(near.i, systems.ptr[1:], right=True)]
        self._i, self._j, self._shift, self._cell = near.i, near.j, near.shift, cell
        self._built = x.clone()
        self.rebuilds += 1

    def _holds(self, x: Tensor) -> bool:
        """Whether no atom has moved further than half the skin; float64, with a little left for its rounding."""
        old = self._built
        if old is None or (old.shape, old.dtype, old.device) != (x.shape, x.dtype, x.device):
            return False
        moved = (x.detach().double() - old.double()).square().sum(-1)
        return x.numel() == 0 or float(moved.max()) < (0.5 * self.skin) ** 2 * (1.0 - 1e-9)
