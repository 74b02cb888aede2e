"""How alone is a sample? Local outlier factors, and distances to neighbours."""

from __future__ import annotations

import torch
from torch import Tensor

from gmkern import _validate
from gmkern._validate import ArrayLike
from gmkern.metrics._samples import samples
from gmkern.neighbors.knn import KNN, knn


def knn_anomaly_score(
    points: ArrayLike,
    references: ArrayLike | None = None,
    k: int = 5,
    *,
    reduction: str = "largest",
    backend: str | None = None,
) -> Tensor:
    """The distance of each point to its k-th nearest reference, or the mean of the distances to its k nearest.

    Parameters
    ----------
    points : [N, D]; float32, float64, bfloat16 or float16; finite.
    references : [M, D] of the same dtype; None: the points themselves, where a point is no neighbour of its own (by
        index: another copy counts).
    k : 1 to M, or to N - 1 without references.
    reduction : "largest" (the k-th) or "mean".
    backend : as for :func:`gmkern.neighbors.knn`.

    Returns
    -------
    Tensor [N]: the larger, the more alone. Differentiable in both sides.

    Raises
    ------
    TypeError, ValueError : naming the argument; NaN and infinities by their first position.

    Notes
    -----
    Sources: Ramaswamy, Rastogi and Shim, "Efficient Algorithms for Mining Outliers from Large Data Sets", 2000 (the
    k-th); Angiulli and Pizzuti, "Fast Outlier Detection in High Dimensional Spaces", 2002 (the sum, here over k).

    Examples
    --------
    >>> import torch, gmkern
    >>> gmkern.metrics.knn_anomaly_score(torch.tensor([[0.0], [1.0], [2.0], [9.0]]), k=2)
    tensor([2., 1., 2., 8.])
    """
    reduction = _validate.one_of("reduction", reduction, ("largest", "mean"))
    x, y = _sets(points, references)
    distances = _neighbours(x, y, k, 0, backend).distances
    return distances[:, -1].clone() if reduction == "largest" else distances.mean(1)


def local_outlier_factor(
    points: ArrayLike, references: ArrayLike | None = None, k: int = 20, *, backend: str | None = None
) -> Tensor:
    """How much sparser the surroundings of a point are than those of its k nearest neighbours.

    About 1 inside a cluster of any density, clearly above 1 for an outlier. With d_k(o) the distance of o to its k-th
    neighbour, the reachability of p from o is max(d_k(o), d(p, o)); R(p) is its mean over the k nearest neighbours
    of p, the inverse of the local reachability density; the factor is the mean over these neighbours of R(p) / R(o).

    Parameters
    ----------
    points : [N, D]; float32, float64, bfloat16 or float16; finite.
    references : [M, D] of the same dtype, the data that ``points`` are compared with (scikit-learn's ``novelty=True``);
        None: the points themselves.
    k : 1 to M - 1, or to N - 1 without references.
    backend : as for :func:`gmkern.neighbors.knn`.

    Returns
    -------
    Tensor [N], >= 0. Where more than k copies make R(o) = 0 the factor is infinite, but R(p) / R(o) of two such is 1.

    Raises
    ------
    TypeError, ValueError : naming the argument; NaN and infinities by their first position.

    Notes
    -----
    k neighbours exactly, ties by index, as scikit-learn has it; Breunig et al. take all that tie for the k-th place.
    scikit-learn adds 1e-10 to R, which keeps its factors finite. Not differentiable. Memory: [N, k] and [M, k].

    Source: Breunig, Kriegel, Ng and Sander, "LOF: Identifying Density-Based Local Outliers", 2000.

    Examples
    --------
    >>> import torch, gmkern
    >>> grid = torch.cartesian_prod(*[torch.arange(4.0)] * 2)
    >>> found = gmkern.metrics.local_outlier_factor(torch.cat([grid, torch.tensor([[9.0, 9.0]])]), k=3)
    >>> int(found.argmax()), bool(found[-1] > 4), bool(found[:-1].max() < 1.5)
    (16, True, True)
    """
    x, y = _sets(points, references)
    x, y = x.detach(), None if y is None else y.detach()
    near = _neighbours(x, y, k, 1, backend)
    own = near if y is None else knn(y, k=k, exclude_self=True, backend=backend)
    outer = own.distances[:, -1]
    r, r_own = (torch.maximum(found.distances, outer[found.indices]).mean(1) for found in (near, own))
    upper, lower = r[:, None].expand(near.indices.shape), r_own[near.indices]
    return torch.where((upper == 0) & (lower == 0), 1.0, upper / lower).mean(1)


def _sets(points: ArrayLike, references: ArrayLike | None) -> tuple[Tensor, Tensor | None]:
    if references is None:
        return samples("points", points, least=2), None
    y = samples("references", references)
    return samples("points", points, like=("references", y)), y


def _neighbours(x: Tensor, y: Tensor | None, k: int, spare: int, backend: str | None) -> KNN:
    """The k nearest of x in y, of which ``spare`` are left over; in x itself where y is None."""
    k = _validate.integer("k", k, low=1, high=x.shape[0] - 1 if y is None else y.shape[0] - spare)
    return knn(x, y, k, exclude_self=y is None, backend=backend)
