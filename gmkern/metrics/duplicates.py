"""Which samples are copies, exactly or within a tolerance?"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from gmkern import _validate
from gmkern._validate import ArrayLike
from gmkern.metrics._samples import samples
from gmkern.neighbors.count_within import count_within
from gmkern.neighbors.knn import knn

_FOUND = 1 << 22  # neighbours held at a time


class Duplicates(NamedTuple):
    """Pairs of samples within a tolerance: ``rows`` [P], ``matches`` [P] int64 and their ``distances`` [P]."""

    rows: Tensor
    matches: Tensor
    distances: Tensor


def duplicates(
    points: ArrayLike, references: ArrayLike | None = None, *, tolerance: float = 0.0, backend: str | None = None
) -> Duplicates:
    """All pairs of a point and a reference at a distance <= tolerance: which copied which.

    Parameters
    ----------
    points : [N, D]; float32, float64, bfloat16 or float16; finite.
    references : [M, D] of the same dtype. None: the points themselves; each pair is then given once, with
        ``rows < matches``.
    tolerance : euclidean. 0, the default, finds what is equal, number by number (and -0 equals 0), nothing else.
    backend : as for :func:`gmkern.neighbors.knn`.

    Returns
    -------
    Duplicates : in the order of rows, then of (distance, match). ``rows.unique()`` are the points that are copies.

    Raises
    ------
    TypeError, ValueError : naming the argument; NaN and infinities by their first position.

    Notes
    -----
    Exact: distances are those of differences (docs/neighbors.md). Memory beyond inputs and outputs: that of the
    neighbour ops and about 100 MB; no [N, M] matrix. Points whose difference is so small that its square underflows
    count as equal.

    Examples
    --------
    >>> import torch, gmkern
    >>> train = torch.tensor([[0.0, 0.0], [3.0, 4.0]])
    >>> found = gmkern.metrics.duplicates(torch.tensor([[1.0, 1.0], [3.0, 4.0], [3.0, 4.5]]), train, tolerance=0.5)
    >>> found.rows.tolist(), found.matches.tolist(), found.distances.tolist()
    ([1, 2], [1, 1], [0.0, 0.5])
    """
    x = samples("points", points).detach()
    within = references is None
    y = x if references is None else samples("references", references, like=("points", x)).detach()
    tolerance = _validate.number("tolerance", tolerance, low=0)
    counts = count_within(x, y, tolerance, backend=backend)
    wide = torch.float64 if x.dtype == torch.float64 else torch.float32
    bound = torch.tensor(tolerance, dtype=wide, device=x.device)
    parts: list[tuple[Tensor, Tensor, Tensor]] = []
    todo = (counts > int(within)).nonzero()[:, 0]  # a point lies within any tolerance of itself
    todo = todo[counts[todo].argsort(stable=True)]  # together those that need as many neighbours
    while todo.numel():
        # The first is cheap and the last dear: as many as have room.
        needed = counts[todo]
        room = int((needed * torch.arange(1, len(todo) + 1, device=x.device) <= _FOUND).sum())
        now, todo = todo[: max(1, room)], todo[max(1, room) :]
        found = knn(x[now], y, int(counts[now].max()), backend=backend)
        at, place = (found.distances <= bound).nonzero(as_tuple=True)
        parts.append((now[at], found.indices[at, place], found.distances[at, place]))
    empty = x.new_empty(0, dtype=torch.int64)
    rows, matches, distances = (
        torch.cat(part) for part in zip((empty, empty, bound.new_empty(0)), *parts, strict=True)
    )
    if within:
        rows, matches, distances = (part[rows < matches] for part in (rows, matches, distances))
    order = rows.argsort(stable=True)
    return Duplicates(rows[order], matches[order], distances[order])
