"""Which rows a seeded resample or subset takes: functions of (seed, purpose, number) by the noise contract."""

from __future__ import annotations

import torch
from torch import Tensor

from gmkern.random import BOOTSTRAP, uniform

# The contract's step tells apart what one seed is used for.
GENERATED, TRAIN, HOLDOUT, FRECHET, KID_FIRST, KID_SECOND = range(6)


def with_replacement(n: int, first: int, count: int, *, seed: int, purpose: int) -> Tensor:
    """Resamples ``first`` to ``first + count - 1``: [count, n] int64 row numbers below n, drawn with replacement."""
    u = uniform(seed, torch.arange(first, first + count), purpose, n, stream=BOOTSTRAP, dtype=torch.float64)
    return (u * n).long()  # u <= 1 - 2^-53, and n times that rounds below n


def subset(n: int, size: int, number: int, *, seed: int, purpose: int) -> Tensor:
    """Subset ``number``: ``size`` different row numbers below n [size] int64, in random order."""
    u = uniform(seed, [number], purpose, n, stream=BOOTSTRAP, dtype=torch.float64)[0]
    return u.argsort(stable=True)[:size]
