"""What `evaluate` asks of the neighbour ops, in blocks of queries, so that Ctrl-C and a progress bar work."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from gmkern.metrics.realism import middle_of, realism_of
from gmkern.neighbors.count_within import count_within
from gmkern.neighbors.knn import KNN, knn

_PRODUCTS = 1 << 35  # coordinates that a block's queries meet: well under a second on two cores
_ROWS = 256  # in a block at least
_TREE_DIM, _TREE_ROWS = 8, 1 << 16  # up to these coordinates, a tree of the references is built for each block


class Sweep:
    """Neighbour searches in blocks of queries. ``show`` is told how many pairs were looked at so far.

    Sets are tensors [N, D]; where sets are spread over ranks (gmkern/distributed), a rank's part of them. What is given
    back, and taken as radii, has a row for each point of the whole set.
    """

    def __init__(self, backend: str | None) -> None:
        self.show: Callable[[int], None] = lambda pairs: None
        self._pairs = 0
        self._backend = backend

    @staticmethod
    def pairs(n: int, m: int, curve: int) -> int:
        """What ``show`` ends at for a set of n against one of m, the latter's own neighbours not counted."""
        return n * n + n * m * (5 + 2 * curve)

    def count(self, x: Tensor) -> int:
        """Points of the whole set."""
        return x.shape[0]

    def rows(self, x: Tensor, index: Tensor) -> Tensor:
        """The points [len(index), D] of these numbers."""
        return x[index]

    def own(self, x: Tensor, k: int) -> Tensor:
        """Distances [N, k] of each point to its k nearest fellows, itself excluded by index."""
        parts = []
        for rows, numbers in self._blocks(x, x):
            found = self._knn(x[rows], x, k + 1)
            # Itself is at distance 0. Where it is not among the k + 1, all of these are, and any may be left out.
            out = found.indices == numbers[:, None]
            out[:, -1] |= ~out.any(1)
            parts.append(found.distances[~out].view(-1, k))
        return self._whole(torch.cat(parts))

    def nearest(self, x: Tensor, y: Tensor, k: int) -> KNN:
        """The k nearest of y to each of x."""
        found = [self._knn(x[rows], y, k) for rows, _ in self._blocks(x, y)]
        return KNN(*(self._whole(torch.cat(parts)) for parts in zip(*found, strict=True)))

    def balls(self, x: Tensor, y: Tensor, radii: Tensor, strict: bool) -> Tensor:
        """In how many balls of ``radii`` [M] around y each of x lies [N]."""
        mine = self._part(y, radii)
        counts = [self._counts(x[rows], y, mine, strict) for rows, _ in self._blocks(x, y)]
        return self._whole(torch.cat(counts) if counts else torch.empty(0, dtype=torch.int64, device=x.device))

    def realism(self, x: Tensor, y: Tensor, radii: Tensor) -> Tensor:
        """Realism scores [N] of x by balls of ``radii`` [M] around y."""
        mine, middle = self._part(y, radii), middle_of(radii)
        return self._whole(torch.cat([self._realism(x[rows], y, mine, middle) for rows, _ in self._blocks(x, y)]))

    def shares(
        self, x: Tensor, y: Tensor, radii: Tensor, ks: Sequence[int], k: int, inside: Tensor, strict: bool
    ) -> list[float]:
        """For each k of ``ks`` the share of x in some ball of y, whose radii at k are column k - 1 of ``radii`` [M, K].

        ``inside`` [N] says which are at ``k``. Balls grow with k: only those inside can be outside at a smaller one,
        and only those outside inside at a larger one.
        """
        count = self.count(x)
        after = self._pairs + (len(ks) - 1) * count * self.count(y)
        found = {k: inside}

        def at(other: int, known: Tensor, open_: Tensor) -> Tensor:
            rows = open_.nonzero()[:, 0]
            found[other] = known.clone()
            found[other][rows] = self.balls(self._some(x, rows), y, radii[:, other - 1].contiguous(), strict) > 0
            return found[other]

        below = above = inside
        for smaller in sorted((one for one in ks if one < k), reverse=True):
            below = at(smaller, below, below)
        for larger in sorted(one for one in ks if one > k):
            above = at(larger, above, ~above)
        self._pairs = after
        self.show(after)
        return [int(found[one].sum()) / count for one in ks]

    def _blocks(self, x: Tensor, y: Tensor) -> Iterator[tuple[slice, Tensor]]:
        """Rows of x, and their numbers in the whole set."""
        n, m = x.shape[0], y.shape[0]
        step = self._step(m, x.shape[1])
        for first in range(0, n, step):
            rows = slice(first, min(first + step, n))
            yield rows, torch.arange(rows.start, rows.stop, device=x.device)
            self._looked((rows.stop - first) * m)

    @staticmethod
    def _step(m: int, dim: int) -> int:
        """Queries of a block that meets m references."""
        return max(_TREE_ROWS if dim <= _TREE_DIM else _ROWS, _PRODUCTS // (m * dim))

    def _looked(self, pairs: int) -> None:
        self._pairs += pairs
        self.show(self._pairs)

    def _knn(self, x: Tensor, y: Tensor, k: int) -> KNN:
        return knn(x, y, k, backend=self._backend)

    def _counts(self, x: Tensor, y: Tensor, radii: Tensor, strict: bool) -> Tensor:
        return count_within(x, y, radii, per="reference", strict=strict, backend=self._backend)

    def _realism(self, x: Tensor, y: Tensor, radii: Tensor, middle: Tensor) -> Tensor:
        return realism_of(x, y, radii, middle, self._backend)

    def _some(self, x: Tensor, index: Tensor) -> Tensor:
        """The set of the points of these numbers, which ascend."""
        return x[index]

    def _whole(self, values: Tensor) -> Tensor:
        """Values [N, ...] of the whole set, of those of this part."""
        return values

    def _part(self, x: Tensor, values: Tensor) -> Tensor:
        """Of values [N] of the whole set those of this part."""
        return values
