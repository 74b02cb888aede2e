"""What `evaluate` asks of the neighbour ops, in blocks of queries, so that Ctrl-C and a progress bar work."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from gmkern.metrics.realism import realism_of
from gmkern.neighbors.count_within import count_within
from gmkern.neighbors.knn import KNN, knn

_PRODUCTS = 1 << 35  # coordinates that a block's queries meet: well under a second on two cores
_ROWS = 256  # in a block at least
_TREE_DIM, _TREE_ROWS = 8, 1 << 16  # up to these coordinates, a tree of the references is built for each block


class Sweep:
    """Neighbour searches in blocks of queries. ``show`` is told how many pairs were looked at so far."""

    def __init__(self, show: Callable[[int], None], backend: str | None) -> None:
        self._show = show
        self._pairs = 0
        self._backend = backend

    @staticmethod
    def pairs(n: int, m: int, curve: int) -> int:
        """What ``show`` ends at for a set of n against one of m, the latter's own neighbours not counted."""
        return n * n + n * m * (5 + 2 * curve)

    def own(self, x: Tensor, k: int) -> Tensor:
        """Distances [N, k] of each point to its k nearest fellows, itself excluded by index."""
        parts = []
        for rows in self._blocks(x, x):
            found = knn(x[rows], x, k + 1, backend=self._backend)
            # Itself is at distance 0. Where it is not among the k + 1, all of these are, and any may be left out.
            out = found.indices == torch.arange(rows.start, rows.stop, device=x.device)[:, None]
            out[:, -1] |= ~out.any(1)
            parts.append(found.distances[~out].view(-1, k))
        return torch.cat(parts)

    def nearest(self, x: Tensor, y: Tensor, k: int) -> KNN:
        """The k nearest of y to each of x."""
        found = [knn(x[rows], y, k, backend=self._backend) for rows in self._blocks(x, y)]
        return KNN(*(torch.cat(parts) for parts in zip(*found, strict=True)))

    def balls(self, x: Tensor, y: Tensor, radii: Tensor, strict: bool) -> Tensor:
        """In how many balls of ``radii`` [M] around y each of x lies [N]."""
        counts = [
            count_within(x[rows], y, radii, per="reference", strict=strict, backend=self._backend)
            for rows in self._blocks(x, y)
        ]
        return torch.cat(counts) if counts else torch.empty(0, dtype=torch.int64, device=x.device)

    def realism(self, x: Tensor, y: Tensor, radii: Tensor) -> Tensor:
        """Realism scores [N] of x by balls of ``radii`` [M] around y."""
        return torch.cat([realism_of(x[rows], y, radii, self._backend) for rows in self._blocks(x, y)])

    def shares(
        self, x: Tensor, y: Tensor, radii: Tensor, ks: Sequence[int], k: int, inside: Tensor, strict: bool
    ) -> list[float]:
        """For each k of ``ks`` the share of x in some ball of y, whose radii at k are column k - 1 of ``radii`` [M, K].

        ``inside`` [N] says which are at ``k``. Balls grow with k: only those inside can be outside at a smaller one,
        and only those outside inside at a larger one.
        """
        after = self._pairs + (len(ks) - 1) * x.shape[0] * y.shape[0]
        found = {k: inside}

        def at(other: int, known: Tensor, open_: Tensor) -> Tensor:
            rows = open_.nonzero()[:, 0]
            found[other] = known.clone()
            found[other][rows] = self.balls(x[rows], y, radii[:, other - 1].contiguous(), strict) > 0
            return found[other]

        below = above = inside
        for smaller in sorted((one for one in ks if one < k), reverse=True):
            below = at(smaller, below, below)
        for larger in sorted(one for one in ks if one > k):
            above = at(larger, above, ~above)
        self._pairs = after
        self._show(after)
        return [int(found[one].sum()) / x.shape[0] for one in ks]

    def _blocks(self, x: Tensor, y: Tensor) -> Iterator[slice]:
        n, m = x.shape[0], y.shape[0]
        least = _TREE_ROWS if x.shape[1] <= _TREE_DIM else _ROWS
        step = max(least, _PRODUCTS // (m * x.shape[1]))
        for first in range(0, n, step):
            rows = slice(first, min(first + step, n))
            yield rows
            self._pairs += (rows.stop - first) * m
            self._show(self._pairs)
