"""``metrics.evaluate`` of sets that are spread over ranks: the same sweep, whose searches are collectives."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from gmkern import _validate
from gmkern._validate import ArrayLike
from gmkern.distributed import neighbors
from gmkern.distributed._asked import asked
from gmkern.distributed._group import Group, device_of, points_asked, starts
from gmkern.metrics._samples import samples
from gmkern.metrics._sweep import Sweep
from gmkern.metrics.evaluate import evaluated
from gmkern.metrics.realism import realism_of
from gmkern.metrics.report import Report
from gmkern.neighbors import KNN


def evaluate(
    generated: ArrayLike,
    train: ArrayLike,
    *,
    holdout: ArrayLike | None = None,
    k: int = 5,
    seed: int = 0,
    progress: bool = False,
    tolerance: float = 0.0,
    strict: bool = True,
    level: float = 0.95,
    resamples: int = 1000,
    image_shape: Sequence[int] | None = None,
    group: dist.ProcessGroup | None = None,
    backend: str | None = None,
) -> Report:
    """:func:`gmkern.metrics.evaluate` of sets that are spread over ranks: one report, on every rank.

    Parameters
    ----------
    generated, train, holdout : [n, D], [m, D] and [h, D], this rank's shards, of any sizes, none included; samples are
        numbered through in the order of ranks. ``holdout`` on every rank or on none.
    k, seed, tolerance, strict, level, resamples, image_shape, backend : as for :func:`gmkern.metrics.evaluate`, the
        same on all ranks.
    progress : rank 0 shows a bar.
    group : None takes the default group.

    Returns
    -------
    Report : of the whole sets.

    Raises
    ------
    TypeError, ValueError, RuntimeError : as for :func:`gmkern.distributed.knn`.

    Notes
    -----
    The report of one process that has the whole sets, to the bit, for any number of ranks. A rank holds its shards, a
    block of all ranks' queries at a time, and a few numbers a sample of the whole sets ([M, K] and [N, K] distances
    among them, with K the largest k). Bootstrap intervals are worked out on every rank.

    Examples
    --------
    On each of two ranks, ``print(gmkern.distributed.evaluate(generated_here, train_here))``.

    >>> import torch
    >>> from gmkern import distributed  # in a group, here of one rank
    >>> train = torch.randn(100, 4)
    >>> distributed.evaluate(train[:50], train).generated.duplicates.value  # all of them are copies
    1.0
    """

    def check() -> tuple[tuple[Tensor, Tensor, Tensor | None], dict[str, str]]:
        y = samples("train", train, least=0).detach()
        x = samples("generated", generated, like=("train", y), least=0).detach()
        h = None if holdout is None else samples("holdout", holdout, like=("train", y), least=0).detach()
        _validate.flag("progress", progress)
        told = asked(
            k=k, seed=seed, tolerance=tolerance, strict=strict, level=level, resamples=resamples,
            image_shape=image_shape, holdout=None if h is None else "a shard",
        )  # fmt: skip
        return (x, y, h), told | points_asked(y)

    at = Group("distributed.evaluate", group, device_of(train))
    x, y, h = at.agree(check, same_bits=False)
    return evaluated(
        _Sweep(at, backend), x, y, h, k=k, seed=seed, progress=progress and at.rank == 0, tolerance=tolerance,
        strict=strict, level=level, resamples=resamples, image_shape=image_shape,
    )  # fmt: skip


class _Sweep(Sweep):
    """Sets are this rank's shards of them; every method is a collective."""

    def __init__(self, at: Group, backend: str | None) -> None:
        super().__init__(backend)
        self._at = at

    def count(self, x: Tensor) -> int:
        return sum(self._counts_of_all(x))

    def rows(self, x: Tensor, index: Tensor) -> Tensor:
        return self._whole(self._some(x, index))[self._order(x, index)]

    def _order(self, x: Tensor, index: Tensor) -> Tensor:
        """Where each of the numbers stands when ranks' own are put together, each rank's in the order of ``index``."""
        ends = torch.tensor(self._counts_of_all(x), device=index.device).cumsum(0)
        return torch.bucketize(index, ends, right=True).argsort(stable=True).argsort()

    def _blocks(self, x: Tensor, y: Tensor) -> Iterator[tuple[slice, Tensor]]:
        sizes, m = self._counts_of_all(x), self.count(y)
        begin, step = starts(sizes)[self._at.rank], max(1, self._step(m, x.shape[1]) // self._at.size)
        for first in range(0, max(sizes), step):
            rows = slice(min(first, x.shape[0]), min(first + step, x.shape[0]))
            yield rows, begin + torch.arange(rows.start, rows.stop, device=x.device)
            self._looked(sum(min(first + step, n) - min(first, n) for n in sizes) * m)

    def _knn(self, x: Tensor, y: Tensor, k: int) -> KNN:
        return neighbors.knn(x, y, k, group=self._at.group, backend=self._backend)

    def _counts(self, x: Tensor, y: Tensor, radii: Tensor, strict: bool) -> Tensor:
        return neighbors.count_within(
            x, y, radii, per="reference", strict=strict, group=self._at.group, backend=self._backend
        )

    def _realism(self, x: Tensor, y: Tensor, radii: Tensor, middle: Tensor) -> Tensor:
        sizes = self._counts_of_all(x)
        every = torch.cat(self._at.rows_of_all(x, sizes))
        best = self._at.settled(lambda: realism_of(every, y, radii, middle, self._backend))
        return self._at.to_owners(best, sizes).amax(0)

    def _some(self, x: Tensor, index: Tensor) -> Tensor:
        own = index - starts(self._counts_of_all(x))[self._at.rank]
        return x[own[(own >= 0) & (own < x.shape[0])]]

    def _whole(self, values: Tensor) -> Tensor:
        return torch.cat(self._at.rows_of_all(values, self._counts_of_all(values)))

    def _part(self, x: Tensor, values: Tensor) -> Tensor:
        first = starts(self._counts_of_all(x))[self._at.rank]
        return values[first : first + x.shape[0]]

    def _counts_of_all(self, x: Tensor) -> list[int]:
        return [n for (n,) in self._at.numbers(x.shape[0])]
