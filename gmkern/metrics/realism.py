"""The realism score: how deep inside the real samples' balls does each generated one lie?"""

from __future__ import annotations

import torch
from torch import Tensor

from gmkern import _validate
from gmkern._validate import ArrayLike
from gmkern.metrics._samples import samples
from gmkern.neighbors.knn import knn

_BUCKETS = 4  # more would cost a search each, fewer would leave more to ask for


def realism(real: ArrayLike, generated: ArrayLike, k: int = 5, *, backend: str | None = None) -> Tensor:
    """The largest ratio, over real samples, of a ball's radius to the generated sample's distance from its centre.

    At least 1 where the sample lies in some ball (boundary included): the more, the deeper inside. A ball reaches to
    the k-th nearest neighbour of its centre among the real samples, itself excluded. The half with the largest radii is
    left out, as balls of outliers hold what is not real: a radius above the median of all does not count.

    Parameters
    ----------
    real : [M, D] with M >= 2; float32, float64, bfloat16 or float16; finite.
    generated : [N, D] of the same dtype.
    k : 1 to M - 1.
    backend : as for :func:`gmkern.neighbors.knn`.

    Returns
    -------
    Tensor [N]; infinite at distance 0 from a centre. Not differentiable.

    Raises
    ------
    TypeError, ValueError : naming the argument; NaN and infinities by their first position.

    Notes
    -----
    Exact, without an [N, M] matrix: balls are taken in buckets of nearly one radius. In each the nearest centre is
    asked for, then, four times as many at a time, further ones, while the bucket's largest radius over the distance
    of the last one found is above the best ratio so far.

    Source: Kynkäänniemi et al., "Improved Precision and Recall Metric for Assessing Generative Models", 2019, section
    5.

    Examples
    --------
    >>> import torch, gmkern
    >>> line = torch.arange(5.0)[:, None]
    >>> gmkern.metrics.realism(line, torch.tensor([[1.5], [6.0], [3.0]]), k=1)
    tensor([2.0000, 0.5000,    inf])
    """
    y = samples("real", real, least=2).detach()
    x = samples("generated", generated, like=("real", y)).detach()
    k = _validate.integer("k", k, low=1, high=y.shape[0] - 1)
    radii = knn(y, k=k, exclude_self=True, backend=backend).distances[:, -1]
    return realism_of(x, y, radii, middle_of(radii), backend)


def middle_of(radii: Tensor) -> Tensor:
    """The median [] of radii [M], between the two in the middle where there are two."""
    ordered = radii.sort().values
    return (ordered[(len(radii) - 1) // 2] + ordered[len(radii) // 2]) / 2


def realism_of(x: Tensor, y: Tensor, radii: Tensor, most_radius: Tensor, backend: str | None) -> Tensor:
    """The scores [N] of x [N, D] by balls of radii [M] around y [M, D], of those of at most ``most_radius``."""
    best = radii.new_zeros(x.shape[0])
    kept = (radii <= most_radius).nonzero()[:, 0]
    if not len(kept):
        return best
    kept = kept[radii[kept].argsort(descending=True, stable=True)]
    everyone = torch.arange(x.shape[0], device=x.device)
    # Buckets of balls of nearly one radius, each with the samples that have not seen all of it and the most that a ball
    # not yet seen could give them.
    left = [(y[some], radii[some], everyone, torch.full_like(best, torch.inf)) for some in kept.chunk(_BUCKETS)]
    k = 1
    while left:
        further = []
        for centres, own, rows, most in left:
            rows = rows[most > best[rows]]
            if not rows.numel():
                continue
            found = knn(x[rows], centres, min(k, len(own)), backend=backend)
            best[rows] = torch.maximum(best[rows], _ratio(own[found.indices], found.distances).amax(1))
            if k < len(own):
                further.append((centres, own, rows, _ratio(own[0], found.distances[:, -1])))
        left = further
        k *= 4
    return best


def _ratio(radius: Tensor, distance: Tensor) -> Tensor:
    return torch.where(distance == 0, torch.inf, radius / distance)
