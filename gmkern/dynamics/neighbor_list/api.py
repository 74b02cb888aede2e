"""Public function: neighbour lists."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from gmkern import _backend, _validate
from gmkern.dynamics.neighbor_list import ops, reference
from gmkern.dynamics.systems import lattice_of, positions_of, systems_of


class NeighborList(NamedTuple):
    """What :func:`neighbor_list` gives; see there."""

    i: Tensor
    j: Tensor
    shift: Tensor
    distance: Tensor
    vector: Tensor
    row_ptr: Tensor


def neighbor_list(
    positions: Tensor | np.ndarray,
    cutoff: float,
    *,
    cell: Tensor | np.ndarray | None = None,
    pbc: bool | Sequence[bool] = False,
    system_ptr: Tensor | np.ndarray | Sequence[int] | None = None,
    skin: float = 0.0,
    half: bool = False,
    capacity: int | None = None,
    backend: str | None = None,
) -> NeighborList:
    """All pairs of atoms of one system that are closer than a cutoff, images included.

    Parameters
    ----------
    positions : [S, N, D], S systems of N atoms; [N, D], one system, or ragged systems cut by ``system_ptr``. D = 1, 2
        or 3; float32 or float64; finite, inside the box or not.
    cutoff : pairs closer than this are listed (> 0), in the positions' unit.
    cell : periodic boxes as row vectors, [D, D] or [S, D, D], in any shape; may be smaller than the cutoff, and then an
        atom has several images of another, and of itself, as neighbours.
    pbc : which of the cell's vectors repeat: a bool, or D of them.
    system_ptr : offsets [S + 1] into the rows of positions [N, D]; systems may be empty.
    skin : pairs up to ``cutoff + skin`` are listed (>= 0): those that can come within the cutoff while no atom moves
        further than half the skin. ``VerletList`` keeps such a list along a path.
    half : list each pair once (i < j, or i = j with a shift whose first number that is not 0 is positive), not from
        both ends.
    capacity : leave room for so many pairs, so that shapes do not depend on values: what follows the last pair is i = j
        = -1, shift 0, distance inf, vector 0. None: as many as there are.
    backend : None, "cpu", "cuda" or "reference". None takes the compiled kernels on CPU tensors ("cpu") and on CUDA
        tensors ("cuda"), else the reference.

    Returns
    -------
    NeighborList
        i, j : [P] int64, rows of positions seen as [M, D] (M atoms, systems one after another).
        shift : [P, D] int32, how many of each of the cell's vectors atom j is shifted by; 0 where nothing repeats.
        distance : [P], the length of vector.
        vector : [P, D], x_j + shift . cell - x_i.
        row_ptr : [M + 1] int64: the pairs of atom i are row_ptr[i] to row_ptr[i + 1].

    Raises
    ------
    TypeError, ValueError : naming the argument, what it got and what it takes; a capacity that is too small.

    Notes
    -----
    Sorted by i, then j, then shift: the list does not depend on threads, on how atoms fall into cells, or on a
    system's batch. Which pairs are listed is decided in float64. Atoms are put into cells about half a cutoff wide by
    a counting sort, so the cost is linear in M at a given density ("cuda" asks all pairs of systems of fewer than 256
    atoms, of batches of fewer than 1,024, and where the cells around one are more than half of all). Memory: 16 bytes a
    listed pair beyond the output, 100 an atom. ``distance`` and ``vector`` are differentiable in the
    positions, of any order, with derivative 0 where two atoms are at one point. Deterministic, the same list on every
    backend. With a capacity it can stand in compiled graphs.

    Examples
    --------
    >>> import torch
    >>> from gmkern.dynamics import neighbor_list
    >>> ring = neighbor_list(torch.tensor([[0.5], [2.0], [3.5]]), 1.6, cell=torch.tensor([[4.0]]), pbc=True)
    >>> ring.i.tolist(), ring.j.tolist(), ring.shift[:, 0].tolist()
    ([0, 0, 1, 1, 2, 2], [1, 2, 0, 2, 0, 1], [0, -1, 0, 0, 1, 0])
    """
    cutoff = _validate.number("cutoff", cutoff, above=0.0)
    skin = _validate.number("skin", skin, low=0.0)
    if not isinstance(half, bool):
        raise _validate.bad("half", half, "True or False", error=TypeError)
    reach = _validate.number("cutoff", cutoff + skin)
    if capacity is not None:
        capacity = _validate.integer("capacity", capacity, low=0)
    x = positions_of(positions)
    systems = systems_of(x, system_ptr)
    chosen = _backend.choose(
        "neighbor_list",
        backend,
        [("cpu", _backend.on_cpu(x.device)), ("cuda", _backend.on_cuda(x.device)), ("reference", None)],
    )
    if systems.dim > 3:
        raise _validate.bad("positions", x, "1, 2 or 3 dimensions")
    _validate.no_tangents("neighbor_list", x)
    op = reference.neighbor_list if chosen == "reference" else ops.neighbor_list
    cells, fractions, repeats = lattice_of(cell, pbc, systems, x.device)
    if x.device.type == "cpu" and not bool((fractions.norm(dim=2) * torch.tensor(repeats) * reach < 1 << 20).all()):
        raise _validate.bad("cutoff", repr(cutoff), "one that spans, with skin, fewer than 2^20 boxes")
    distance, vector, i, j, shift, row_ptr = op(
        systems.flat(x), systems.ptr, cells, fractions, repeats, reach, half,
        -1 if capacity is None else capacity,
    )  # fmt: skip
    found = int(row_ptr[-1])
    if found < 0:  # on "cuda", which cannot raise by itself
        raise _validate.bad("positions", "some too far apart", "atoms within 2^30 boxes, a cutoff below 2^20 of them")
    if capacity is not None and found > capacity:
        raise _validate.bad("capacity", str(capacity), f"at least {found}, the number of pairs")
    return NeighborList(i, j, shift, distance, vector, row_ptr)
