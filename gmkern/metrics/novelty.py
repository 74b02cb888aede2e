"""Novelty: are generated samples copies of the training set?"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from gmkern import _validate
from gmkern._validate import ArrayLike
from gmkern.metrics._samples import samples
from gmkern.neighbors.knn import KNN, knn


class Novelty(NamedTuple):
    """How near generated samples are to the training set; see :func:`novelty`."""

    distance: Tensor
    nearest: Tensor
    ratio: Tensor
    authenticity: float
    c_t: float | None
    duplicates: int


def novelty(
    generated: ArrayLike,
    train: ArrayLike,
    *,
    holdout: ArrayLike | None = None,
    tolerance: float = 0.0,
    backend: str | None = None,
) -> Novelty:
    """Distances of generated samples to the training set, and what they say of copying.

    Parameters
    ----------
    generated, train : [N, D] and [M, D] with M >= 2; float32, float64, bfloat16 or float16; finite.
    holdout : [H, D] real samples that were not trained on; needed for ``c_t``.
    tolerance : generated samples within this distance of a training sample count as duplicates.
    backend : as for :func:`gmkern.neighbors.knn`.

    Returns
    -------
    Novelty with

    * ``distance`` [N]: to the nearest training sample (euclidean; exactly 0 for a copy; differentiable);
    * ``nearest`` [N] int64: its index;
    * ``ratio`` [N]: that distance over the distance to the second nearest, in [0, 1]; 0 for a copy, also of a
      training sample that is there twice. Small values single out one training sample;
    * ``authenticity``: the share of generated samples that are farther from their nearest training sample than that
      training sample is from its own nearest (higher is more authentic);
    * ``c_t``: the data-copying score: the Mann-Whitney statistic of generated against held-out distances to the
      training set, standardised; below about -3 samples copy, above about 3 they underfit. None without a holdout;
    * ``duplicates``: the number of generated samples with ``distance <= tolerance``.

    Raises
    ------
    TypeError, ValueError : naming the argument; NaN and infinities by their first position.

    Notes
    -----
    Exact distances (docs/neighbors.md): the result does not depend on threads, instruction set or backend. No
    N x M matrix is held. ``c_t`` is the global score, without the cells of the paper's k-means, with ties counted half
    and neither continuity nor tie correction (docs/metrics.md).

    Sources: Alaa et al., "How Faithful is your Synthetic Data?", 2022 (authenticity, indexed as dgm-eval does); Meehan
    et al., "A Non-Parametric Test to Detect Data-Copying in Generative Models", 2020 (C_T).

    Examples
    --------
    >>> import torch, gmkern
    >>> train = torch.tensor([[0.0], [1.0], [4.0]])
    >>> found = gmkern.metrics.novelty(torch.tensor([[1.0], [6.0]]), train)
    >>> found.distance.tolist(), found.nearest.tolist(), found.duplicates
    ([0.0, 2.0], [1, 2], 1)
    """
    y = samples("train", train, least=2)
    x = samples("generated", generated, like=("train", y))
    tolerance = _validate.number("tolerance", tolerance, low=0)
    h = None if holdout is None else samples("holdout", holdout, like=("train", y))
    distance, nearest, ratio = nearest_and_ratio(knn(x, y, 2, backend=backend))
    c_t = None
    if h is not None:
        c_t = _copying_score(distance.detach(), knn(h.detach(), y.detach(), backend=backend).distances[:, 0])
    return Novelty(
        distance=distance,
        nearest=nearest,
        ratio=ratio,
        authenticity=_authenticity(distance.detach(), nearest, y.detach(), backend),
        c_t=c_t,
        duplicates=int((distance <= tolerance).sum()),
    )


def nearest_and_ratio(found: KNN) -> tuple[Tensor, Tensor, Tensor]:
    """Distance, index and distance ratio [N] of the nearest, from the two nearest."""
    distance, second = found.distances.T.contiguous()
    copy = distance == 0
    ratio = torch.where(copy, 0.0, distance / torch.where(copy, 1.0, second))
    return distance, found.indices[:, 0].clone(), ratio


def _authenticity(distance: Tensor, nearest: Tensor, train: Tensor, backend: str | None) -> float:
    used, at = torch.unique(nearest, return_inverse=True)
    own = knn(train[used], train, 2, backend=backend)
    # The nearest that is not the sample itself, which stands first unless an earlier copy does.
    isolation = torch.where(own.indices[:, 0] == used, own.distances[:, 1], own.distances[:, 0])
    return int((distance > isolation[at]).sum()) / distance.numel()


def _copying_score(generated: Tensor, held_out: Tensor) -> float:
    """(U - E U) / sd U, where U counts the pairs in which the generated sample is the farther one, ties half."""
    n, h = generated.numel(), held_out.numel()
    ordered = held_out.sort().values
    nearer = torch.searchsorted(ordered, generated, side="left").sum()
    not_farther = torch.searchsorted(ordered, generated, side="right").sum()
    u = (int(nearer) + int(not_farther)) / 2
    return (u - n * h / 2) / math.sqrt(n * h * (n + h + 1) / 12)
