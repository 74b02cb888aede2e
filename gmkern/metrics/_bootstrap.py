"""Bootstrap over samples: percentile intervals of means, medians and the data-copying score."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from gmkern.metrics._resampling import with_replacement

_NUMBERS = 1 << 20  # of resamples held at a time


class Estimate(NamedTuple):
    """A number, and the ends of its confidence interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Resamples:
    """How often each of ``n`` samples is in each of ``count`` resamples: functions of the seed and the purpose."""

    n: int
    count: int
    seed: int
    purpose: int

    def multiplicities(self, at_once: int) -> Iterator[Tensor]:
        """[up to ``at_once``, n] float64, each row of sum n, for all resamples in turn."""
        for first in range(0, self.count, at_once):
            rows = with_replacement(
                self.n, first, min(at_once, self.count - first), seed=self.seed, purpose=self.purpose
            )
            yield torch.zeros(rows.shape, dtype=torch.float64).scatter_add_(
                1, rows, torch.ones(1, 1, dtype=torch.float64).expand(rows.shape)
            )


Statistic = Callable[[Tensor], Tensor]
"""Of multiplicities [B, n], the values [B]."""


def mean(values: Tensor, over: int = 1) -> Statistic:
    """The mean of ``values`` [n] over a resample, divided by ``over``."""
    column = values.double()
    return lambda weights: weights @ column / (column.numel() * over)


def median(values: Tensor) -> Statistic:
    """The lower median of ``values`` [n] over a resample."""
    ordered, order = values.double().sort()
    half = (values.numel() + 1) // 2
    return lambda weights: ordered[(weights[:, order].cumsum(1) < half).sum(1)]


def intervals(statistics: dict[str, Statistic], resamples: Resamples, level: float) -> dict[str, Estimate]:
    """Each statistic of the samples themselves, with the percentiles that hold ``level`` of its resampled values."""
    # Made at once: small tensors kept among large ones that come and go would leave holes in memory by the gigabyte.
    drawn = torch.empty(len(statistics), resamples.count, dtype=torch.float64)
    first = 0
    for weights in resamples.multiplicities(max(1, _NUMBERS // resamples.n)):
        for row, of in enumerate(statistics.values()):
            drawn[row, first : first + len(weights)] = of(weights)
        first += len(weights)
    whole = torch.ones(1, resamples.n, dtype=torch.float64)
    return {
        name: _estimate(of(whole), values, level) for (name, of), values in zip(statistics.items(), drawn, strict=True)
    }


def copying_score(generated: Tensor, held_out: Tensor, first: Resamples, second: Resamples, level: float) -> Estimate:
    """C_T of distances [N] and [H] (docs/metrics.md), both sets resampled."""
    ordered, order = held_out.sort()
    left, right = (torch.searchsorted(ordered, generated, side=side) for side in ("left", "right"))
    n, h = generated.numel(), held_out.numel()

    def score(weights: Tensor, others: Tensor) -> Tensor:
        below = torch.nn.functional.pad(others[:, order].cumsum(1), (1, 0))
        u = (weights * (below[:, left] + below[:, right])).sum(1) / 2
        return (u - n * h / 2) / math.sqrt(n * h * (n + h + 1) / 12)

    at_once = max(1, _NUMBERS // max(n, h))
    both = zip(first.multiplicities(at_once), second.multiplicities(at_once), strict=True)
    drawn = torch.empty(first.count, dtype=torch.float64)
    for number, (weights, others) in enumerate(both):
        drawn[number * at_once : (number + 1) * at_once] = score(weights, others)
    ones = [torch.ones(1, size, dtype=torch.float64) for size in (n, h)]
    return _estimate(score(*ones), drawn, level)


def _estimate(value: Tensor, drawn: Tensor, level: float) -> Estimate:
    """Percentiles without interpolation, which would make NaN of infinities: outwards."""
    ordered = drawn.sort().values
    last = len(ordered) - 1
    low, high = math.floor((1 - level) / 2 * last), math.ceil((1 + level) / 2 * last)
    return Estimate(float(value[0]), float(ordered[low]), float(ordered[high]))
