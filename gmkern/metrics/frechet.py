"""The Fréchet distance of Gaussians fitted to two sets, and its extrapolation to infinitely many samples."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from gmkern import _validate
from gmkern._validate import ArrayLike
from gmkern.metrics._linalg import eigen, eigenvalues, is_positive, product, row_slices
from gmkern.metrics._resampling import FRECHET, subset
from gmkern.metrics._samples import samples

_ROUNDING = 1e-5  # of a given matrix: as far from symmetric and from positive as products of float32 numbers are


class Moments(NamedTuple):
    """What the Fréchet distance knows of a set: ``mean`` [D] and ``covariance`` [D, D], float64."""

    mean: Tensor
    covariance: Tensor


class Extrapolated(NamedTuple):
    """A value at infinitely many samples, its standard error, and the points of the fit."""

    value: float
    standard_error: float
    sizes: tuple[int, ...]
    distances: tuple[float, ...]


def moments(points: ArrayLike) -> Moments:
    """Mean and covariance (divided by N - 1) of points [N, D], N >= 2, in float64.

    Two sweeps over blocks of rows, so that no difference of large squares is taken. Memory beyond the points: [D, D]
    and one block. For :func:`frechet_distance`, which takes the result in the place of points.

    Raises
    ------
    TypeError, ValueError : naming the argument; NaN and infinities by their first position.

    Examples
    --------
    >>> import torch, gmkern
    >>> gmkern.metrics.moments(torch.tensor([[0.0], [2.0]]))
    Moments(mean=tensor([1.], dtype=torch.float64), covariance=tensor([[2.]], dtype=torch.float64))
    """
    return _moments(samples("points", points, least=2).detach())


def frechet_distance(x: ArrayLike | Moments, y: ArrayLike | Moments) -> float:
    """The squared Fréchet (2-Wasserstein) distance of the Gaussians with the means and covariances of two sets.

    ``|m - m'|^2 + tr C + tr C' - 2 tr (C C')^(1/2)``. Of Inception's features it is the FID.

    Parameters
    ----------
    x, y : points [N, D] and [M, D] with N, M >= 2, of any floating dtype each; or :class:`Moments`, or a pair
        (mean [D], covariance [D, D]).

    Returns
    -------
    float, at least 0.

    Raises
    ------
    TypeError, ValueError : naming the argument; NaN and infinities by their first position; a covariance that is not
        symmetric or has a negative eigenvalue beyond rounding.

    Notes
    -----
    All in float64. The last trace is that of (A'^T C A')^(1/2), where C' = A' A'^T from its eigenvalues: no square
    root of a product that is not symmetric is taken, and singular covariances (N <= D) need no offset on the
    diagonal. The relative error is of the order D * 2^-52, and sqrt(D * 2^-52) where covariances
    are singular. Not differentiable. The estimate's bias is of the order 1/N: :func:`frechet_distance_infinity`.

    Source: Dowson and Landau, "The Fréchet distance between multivariate normal distributions", 1982; Heusel et al.,
    "GANs Trained by a Two Time-Scale Update Rule Converge to a Local Nash Equilibrium", 2017 (FID).

    Examples
    --------
    >>> import torch, gmkern
    >>> line = torch.tensor([[0.0], [2.0]])
    >>> gmkern.metrics.frechet_distance(line, 2 * line + 3)  # means 1 and 5, variances 2 and 8
    18.0
    """
    first, second = _statistics("x", x), _statistics("y", y)
    if first.mean.shape != second.mean.shape:
        raise _validate.bad("y", f"{second.mean.numel()} dimensions", f"{first.mean.numel()}, as x")
    return _distance(first, second, _factor(second.covariance))


def frechet_distance_infinity(
    generated: ArrayLike,
    real: ArrayLike | Moments,
    *,
    seed: int,
    sizes: Sequence[int] | None = None,
) -> Extrapolated:
    """The Fréchet distance that infinitely many generated samples would have: the intercept of a line in 1/n.

    The distance of n samples is biased upwards by about c/n, with a c of the generator's own, so that distances of
    equally many samples still do not compare generators. Distances of random subsets of several sizes are fitted by
    least squares as ``a + b/n``; ``a`` is the result.

    Parameters
    ----------
    generated : [N, D].
    real : [M, D], or its :class:`Moments`: held fixed.
    seed : of the subsets, by the noise contract (docs/noise.md).
    sizes : of the subsets, three or more of which two differ, each from 2 to N. None: 15, evenly from N // 10 to N. The
        bias is linear in 1/n where n is several times D.

    Returns
    -------
    Extrapolated : ``value``; the ``standard_error`` of the intercept by the fit's residuals, which takes the subsets
        for independent, though they overlap; ``sizes`` and ``distances`` of the fit. ``value`` may be below 0.

    Raises
    ------
    TypeError, ValueError : as :func:`frechet_distance`.

    Notes
    -----
    The bias due to the real set's finite size stays. Source: Chong and Forsyth, "Effectively Unbiased FID and Inception
    Score and where to find them", 2020.

    Examples
    --------
    >>> import torch, gmkern
    >>> x = torch.randn(2000, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    >>> standard = gmkern.metrics.Moments(torch.zeros(4).double(), torch.eye(4).double())
    >>> found = gmkern.metrics.frechet_distance_infinity(x, standard, seed=0)
    >>> abs(found.value) < gmkern.metrics.frechet_distance(x[:500], standard)
    True
    """
    x = samples("generated", generated, least=2).detach()
    n = x.shape[0]
    if sizes is None:
        smallest = max(2, n // 10)
        chosen = [smallest + round(at * (n - smallest) / 14) for at in range(15)]
    else:
        chosen = [
            _validate.integer("sizes", size, low=2, high=n) for size in _validate.sequence("sizes", sizes, "ints")
        ]
    if len(chosen) < 3 or len(set(chosen)) < 2:
        raise _validate.bad("sizes", str(chosen), f"three or more sizes of which two differ, each from 2 to {n}")
    target = _statistics("real", real)
    if target.mean.shape[0] != x.shape[1]:
        raise _validate.bad("real", f"{target.mean.numel()} dimensions", f"{x.shape[1]}, as generated")
    factor = _factor(target.covariance)
    distances = []
    for number, size in enumerate(chosen):
        rows = subset(n, size, number, seed=seed, purpose=FRECHET).to(x.device)
        distances.append(_distance(_moments(x[rows]), target, factor))
    value, error = _intercept(1 / np.array(chosen, dtype=np.float64), np.array(distances))
    return Extrapolated(value, error, tuple(chosen), tuple(distances))


def _moments(points: Tensor) -> Moments:
    n, dim = points.shape
    blocks = [points[part] for part in row_slices(n, 2 * dim * dim)]
    mean = torch.stack([block.double().sum(0) for block in blocks]).sum(0) / n
    covariance = torch.zeros(dim, dim, dtype=torch.float64, device=points.device)
    for block in blocks:
        off = block.double() - mean
        covariance.addmm_(off.T, off)
    return Moments(mean, covariance / (n - 1))


def _statistics(name: str, value: Any) -> Moments:
    if not isinstance(value, tuple):
        return _moments(samples(name, value, least=2).detach())
    if len(value) != 2:
        raise _validate.bad(name, f"a tuple of {len(value)}", "points, or (mean, covariance)")
    mean = _validate.tensor(f"{name}'s mean", value[0], ndim=1).detach().double()
    covariance = _validate.tensor(f"{name}'s covariance", value[1], ndim=2, device=mean.device).detach().double()
    if mean.numel() < 1 or covariance.shape != (mean.numel(), mean.numel()):
        raise _validate.bad(f"{name}'s covariance", covariance, f"shape [{mean.numel()}, {mean.numel()}], as the mean")
    for part, what in ((mean, "mean"), (covariance, "covariance")):
        if not bool(torch.isfinite(part).all()):
            at = (~torch.isfinite(part)).nonzero()[0].tolist()
            raise _validate.bad(f"{name}'s {what}", f"{float(part[tuple(at)])} at {at}", "finite numbers")
    largest = float(covariance.abs().max())
    if float((covariance - covariance.T).abs().max()) > _ROUNDING * largest:
        raise _validate.bad(f"{name}'s covariance", "a matrix that is not symmetric", "a covariance")
    covariance = (covariance + covariance.T) / 2
    lifted = covariance + _ROUNDING * largest * torch.eye(len(mean), dtype=torch.float64, device=mean.device)
    if largest > 0 and not is_positive(lifted):
        raise _validate.bad(f"{name}'s covariance", "a matrix with a negative eigenvalue", "a covariance")
    return Moments(mean, covariance)


def _factor(covariance: Tensor) -> Tensor:
    """A [D, D] with A A^T = C."""
    values, vectors = eigen(covariance)
    return vectors * values.clamp(min=0).sqrt()


def _distance(x: Moments, y: Moments, y_factor: Tensor) -> float:
    # C C' has the eigenvalues of A'^T C A', which is symmetric; C' = A' A'^T.
    between = product(y_factor.T, product(x.covariance, y_factor))
    shared = eigenvalues((between + between.T) / 2).clamp(min=0).sqrt().sum()
    total = (x.mean - y.mean).square().sum() + x.covariance.trace() + y.covariance.trace() - 2 * shared
    return max(0.0, float(total))


def _intercept(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """The intercept of the least-squares line through (x, y), and its standard error."""
    off = x - x.mean()
    spread = float(off @ off)
    slope = float(off @ y) / spread
    value = float(y.mean()) - slope * float(x.mean())
    residual = y - value - slope * x
    variance = float(residual @ residual) / (len(x) - 2)
    return value, math.sqrt(variance * (1 / len(x) + float(x.mean()) ** 2 / spread))
