"""Precision, recall, density and coverage."""

from __future__ import annotations

from typing import NamedTuple

import torch

from gmkern import _validate
from gmkern._validate import ArrayLike
from gmkern.metrics._samples import samples
from gmkern.neighbors.count_within import count_within
from gmkern.neighbors.knn import knn


class PRDC(NamedTuple):
    """Fidelity (``precision``, ``density``) and diversity (``recall``, ``coverage``); density may pass 1."""

    precision: float
    recall: float
    density: float
    coverage: float


def prdc(real: ArrayLike, generated: ArrayLike, k: int = 5, *, strict: bool = True, backend: str | None = None) -> PRDC:
    """Precision, recall, density and coverage of generated samples, by balls around the samples.

    A sample's ball reaches to its k-th nearest neighbour in its own set, itself excluded.

    * precision: the share of generated samples in some real sample's ball;
    * recall: the share of real samples in some generated sample's ball;
    * density: the number of real samples' balls that hold a generated sample, over k, on average;
    * coverage: the share of real samples whose ball holds a generated sample.

    Parameters
    ----------
    real, generated : [N, D] and [M, D], features or raw data; float32, float64, bfloat16 or float16; finite.
    k : 1 to min(N, M) - 1.
    strict : a ball holds what is nearer than its radius (True, as the package ``prdc``) or what is at it too (False,
        as torch-fidelity and the definition of Kynkäänniemi et al.). They differ where samples repeat.
    backend : as for :func:`gmkern.neighbors.knn`.

    Raises
    ------
    TypeError, ValueError : naming the argument; NaN and infinities by their first position.

    Notes
    -----
    Memory is that of the inputs, of [N] radii and of the neighbour ops; no N x M matrix is held. Every decision
    compares exact distances (docs/neighbors.md), so the result does not depend on threads, instruction set or backend.
    Not differentiable; returns Python floats.

    Sources: Kynkäänniemi et al., "Improved Precision and Recall Metric for Assessing Generative Models", 2019;
    Naeem et al., "Reliable Fidelity and Diversity Metrics for Generative Models", 2020.

    Examples
    --------
    >>> import torch, gmkern
    >>> line = torch.arange(6.0)[:, None]
    >>> gmkern.metrics.prdc(line, line + 0.5, k=1)
    PRDC(precision=1.0, recall=1.0, density=1.8333333333333333, coverage=1.0)
    """
    x = samples("real", real, least=2).detach()
    y = samples("generated", generated, like=("real", x), least=2).detach()
    most = min(x.shape[0], y.shape[0]) - 1
    k = _validate.integer("k", k, low=1, high=most)
    strict = _validate.flag("strict", strict)
    x_radii = knn(x, k=k, exclude_self=True, backend=backend).distances[:, -1].contiguous()
    y_radii = knn(y, k=k, exclude_self=True, backend=backend).distances[:, -1].contiguous()
    in_real = count_within(y, x, x_radii, per="reference", strict=strict, backend=backend)
    in_generated = count_within(x, y, y_radii, per="reference", strict=strict, backend=backend)
    nearest = knn(x, y, backend=backend).distances[:, 0]
    covered = nearest < x_radii if strict else nearest <= x_radii
    return PRDC(
        precision=_share(in_real > 0),
        recall=_share(in_generated > 0),
        density=int(in_real.sum()) / (k * y.shape[0]),
        coverage=_share(covered),
    )


def _share(mask: torch.Tensor) -> float:
    return int(mask.sum()) / mask.numel()
