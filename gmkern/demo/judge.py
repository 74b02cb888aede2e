"""Is a set of images near the training set (fidelity), everywhere in it (diversity), a copy of it (novelty)?"""

from __future__ import annotations

import statistics
from typing import NamedTuple

import torch
from torch import Tensor

from gmkern import metrics
from gmkern.demo.digits import LEVELS, Digits

NEIGHBOURS = 5
"""k of precision, density, recall and coverage."""


class Row(NamedTuple):
    """One line of the table. Each number is defined in :mod:`gmkern.metrics`."""

    name: str
    is_control: bool
    images: int
    precision: float
    density: float
    recall: float
    coverage: float
    distance: float
    """Median distance to the nearest training image, in grey levels."""
    authenticity: float


class Judged(NamedTuple):
    """A row, and each image's nearest training image."""

    row: Row
    images: Tensor
    distance: Tensor
    nearest: Tensor


def judge(name: str, images: Tensor, train: Tensor, *, batch: int, is_control: bool = False) -> Judged:
    """Judges ``images`` [N, 64] against ``train`` [M, 64].

    Recall depends on how many images are judged: precision, density, recall and coverage are means over the disjoint
    batches of ``batch`` images, so that rows compare. Novelty is of each image alone, and takes all of them.
    """
    points, references = images.float(), train.float()
    batches = [part for part in points.split(batch) if len(part) == batch]
    parts = [metrics.prdc(references, part, NEIGHBOURS) for part in batches]
    found = metrics.novelty(points, references)

    def mean(field: str) -> float:
        return statistics.fmean(float(getattr(part, field)) for part in parts)

    row = Row(
        name=name,
        is_control=is_control,
        images=len(images),
        precision=mean("precision"),
        density=mean("density"),
        recall=mean("recall"),
        coverage=mean("coverage"),
        distance=float(found.distance.median()),
        authenticity=float(found.authenticity),
    )
    return Judged(row, images, found.distance, found.nearest)


def copies(digits: Digits, n: int, seed: int) -> Tensor:
    """A control, the generator that copies: ``n`` training images."""
    rows = torch.randint(len(digits.train), (n,), generator=torch.Generator().manual_seed(seed))
    return digits.train[rows]


def scattered(digits: Digits, n: int, seed: int) -> Tensor:
    """A control without shapes: each pixel of ``n`` images is that pixel of a training image of its own."""
    shape = (n, digits.train.shape[1])
    rows = torch.randint(len(digits.train), shape, generator=torch.Generator().manual_seed(seed))
    return digits.train.gather(0, rows).clamp(0, LEVELS - 1)
