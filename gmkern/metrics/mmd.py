"""The maximum mean discrepancy, and the kernel inception distance built on it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from gmkern import _validate
from gmkern._validate import ArrayLike
from gmkern.metrics._resampling import KID_FIRST, KID_SECOND, subset
from gmkern.metrics._samples import samples
from gmkern.neighbors._points import accumulated
from gmkern.neighbors.kernel_sum import kernel_sum

KERNELS = ("rbf", "laplace", "rational_quadratic", "inverse_multiquadric", "energy", "polynomial")
_SCALED = KERNELS[:4]
_MEDIAN_ROWS = 500  # of each set


class KID(NamedTuple):
    """Mean and standard deviation of the subsets' ``values`` [subsets] float64."""

    mean: float
    std: float
    values: Tensor


def mmd(
    x: ArrayLike,
    y: ArrayLike,
    *,
    kernel: str = "rbf",
    bandwidth: str | float | Sequence[float] | ArrayLike = "median",
    estimator: str = "unbiased",
    block_size: int | None = None,
    degree: int = 3,
    gamma: float | None = None,
    coef0: float = 1.0,
    backend: str | None = None,
) -> Tensor:
    """The squared maximum mean discrepancy: E K(x, x') + E K(y, y') - 2 E K(x, y).

    Parameters
    ----------
    x, y : [N, D] and [M, D] of one dtype; float32, float64, bfloat16 or float16; finite.
    kernel : "rbf" exp(-d^2 / 2h^2), "laplace" exp(-d / h), "rational_quadratic" 1 / (1 + d^2 / 2h^2),
        "inverse_multiquadric" (1 + d^2 / h^2)^(-1/2), "energy" -d (whose MMD is the energy distance) or
        "polynomial" (gamma <x, y> + coef0)^degree.
    bandwidth : h of the first four: a number; several (a sequence, an array or a tensor), whose kernels' mean is
        taken; or "median", the median distance between up to 500 samples of each set, evenly spaced in their order (of
        a constant: no gradient flows through it).
    estimator : "unbiased" leaves the pairs of a sample with itself out, and may be negative; "biased" keeps them, and
        is the square of a distance; "block" is the mean of unbiased ones over disjoint blocks of ``block_size``
        successive rows of each set, in time linear in N. What does not fill a block in both sets is left out: shuffle
        first.
    block_size : at least 2; None: the square root of min(N, M), rounded.
    degree, gamma, coef0 : of "polynomial"; gamma None is 1 / D.
    backend : as for :func:`gmkern.neighbors.kernel_sum`.

    Returns
    -------
    Tensor [], float64 for float64 points, else float32. Differentiable (once) in both sides.

    Raises
    ------
    TypeError, ValueError : naming the argument; NaN and infinities by their first position.

    Notes
    -----
    No [N, M] matrix is held. Sums are taken in float64 of rows in the points' precision, about 2^-24 of K for float32.

    Source: Gretton et al., "A Kernel Two-Sample Test", 2012; blocks: Zaremba, Gretton and Blaschko, "B-tests", 2013.

    Examples
    --------
    >>> import torch, gmkern
    >>> gmkern.metrics.mmd(torch.zeros(2, 1), torch.ones(2, 1), kernel="energy")  # 2 E d(x, y) - ...
    tensor(2.)
    """
    estimator = _validate.one_of("estimator", estimator, ("unbiased", "biased", "block"))
    kernel = _validate.one_of("kernel", kernel, KERNELS)
    least = 1 if estimator == "biased" else 2
    first = samples("x", x, least=least)
    second = samples("y", y, like=("x", first), least=least)
    wide = accumulated(first.dtype)
    options: list[dict[str, object]] = [{"degree": degree, "gamma": gamma, "coef0": coef0}]
    if kernel in _SCALED:
        options = [{"bandwidth": h} for h in _bandwidths(bandwidth, first, second)]
    elif kernel == "energy":
        options = [{}]
    if estimator == "block":
        most = min(first.shape[0], second.shape[0])
        size = max(2, round(math.sqrt(most))) if block_size is None else block_size
        size = _validate.integer("block_size", size, low=2, high=most)
        count = most // size
        first, second = (one[: count * size].reshape(count, size, -1) for one in (first, second))
    elif block_size is not None:
        raise _validate.bad("block_size", repr(block_size), 'None, unless estimator="block"')
    found = [
        _discrepancy(first, second, estimator != "biased", kernel=kernel, backend=backend, **option)
        for option in options
    ]
    return torch.stack(found).mean().to(wide)


def kid(
    generated: ArrayLike,
    real: ArrayLike,
    *,
    seed: int,
    subsets: int = 100,
    subset_size: int = 1000,
    degree: int = 3,
    gamma: float | None = None,
    coef0: float = 1.0,
    backend: str | None = None,
) -> KID:
    """The kernel inception distance: unbiased polynomial MMD over random subsets, its mean and standard deviation.

    Parameters
    ----------
    generated, real : features [N, D] and [M, D] of one dtype.
    seed : of the subsets, by the noise contract (docs/noise.md). More subsets keep the first ones.
    subsets : how many, at least 1.
    subset_size : samples of each set in a subset, drawn without replacement: 2 to min(N, M).
    degree, gamma, coef0 : of the kernel (gamma <x, y> + coef0)^degree; gamma None is 1 / D.
    backend : as for :func:`gmkern.neighbors.kernel_sum`.

    Returns
    -------
    KID : ``mean``, ``std`` (divided by the number of subsets) and all ``values``. Not differentiable: use :func:`mmd`.

    Raises
    ------
    TypeError, ValueError : naming the argument; NaN and infinities by their first position.

    Notes
    -----
    ``std`` is that of one subset's value, not the error of the mean; subsets of one set overlap.

    Source: Binkowski, Sutherland, Arbel and Gretton, "Demystifying MMD GANs", 2018.

    Examples
    --------
    >>> import torch, gmkern
    >>> x = torch.randn(300, 8, generator=torch.Generator().manual_seed(0))
    >>> same = gmkern.metrics.kid(x[:150], x[150:], seed=0, subsets=20, subset_size=100)
    >>> other = gmkern.metrics.kid(x[:150] + 0.5, x[150:], seed=0, subsets=20, subset_size=100)
    >>> other.mean > same.mean + 10 * same.std
    True
    """
    y = samples("real", real, least=2).detach()
    x = samples("generated", generated, like=("real", y), least=2).detach()
    subsets = _validate.integer("subsets", subsets, low=1)
    most = min(x.shape[0], y.shape[0])
    if isinstance(subset_size, int) and subset_size > most:
        raise _validate.bad("subset_size", str(subset_size), f"an int >= 2 and <= {most}: there are so few samples")
    subset_size = _validate.integer("subset_size", subset_size, low=2)
    values = []
    for number in range(subsets):
        rows, others = (
            subset(one.shape[0], subset_size, number, seed=seed, purpose=purpose).to(one.device)
            for one, purpose in ((x, KID_FIRST), (y, KID_SECOND))
        )
        options = {"degree": degree, "gamma": gamma, "coef0": coef0, "backend": backend}
        values.append(_discrepancy(x[rows], y[others], True, kernel="polynomial", **options))
    found = torch.stack(values)
    return KID(float(found.mean()), float(found.std(correction=0)), found)


def _discrepancy(x: Tensor, y: Tensor, unbiased: bool, **options: object) -> Tensor:
    """The squared MMD of sets [N, D] and [M, D], or the mean over blocks [B, N, D] and [B, M, D], in float64."""
    n, m = x.shape[-2], y.shape[-2]

    def mean(of: Tensor) -> Tensor:
        # The mean over all pairs but those of a sample with itself.
        pairs = of.shape[-2] * (of.shape[-2] - unbiased)
        return kernel_sum(of, exclude_self=unbiased, **options).double().sum(-1) / pairs  # type: ignore[arg-type]

    across = kernel_sum(x, y, **options).double().sum(-1) / (n * m)  # type: ignore[arg-type]
    return (mean(x) + mean(y) - 2 * across).mean()


def _bandwidths(value: str | float | Sequence[float] | ArrayLike, x: Tensor, y: Tensor) -> list[float]:
    if isinstance(value, str):
        _validate.one_of("bandwidth", value, ("median",))
        found = float(torch.pdist(torch.cat([_spread(x), _spread(y)])).median())
        if not (found > 0 and math.isfinite(found)):
            raise _validate.bad("bandwidth", f'"median", which is {found} here', "a number for such samples")
        return [found]
    if isinstance(value, (Tensor, np.ndarray)):
        numbers = _validate.tensor("bandwidth", value, ndim=(0, 1))
        if numbers.requires_grad:
            raise _validate.bad("bandwidth", "a tensor that requires a gradient", "one without: it has none here")
        value = numbers.tolist()
    several = value if _validate.is_listed(value) else [value]
    if not several:
        raise _validate.bad("bandwidth", "no number", '"median", a number, or several')
    return [_validate.number("bandwidth", one, above=0) for one in several]


def _spread(points: Tensor) -> Tensor:
    """Up to _MEDIAN_ROWS rows, evenly spaced, in float64."""
    count = min(_MEDIAN_ROWS, points.shape[0])
    return points.detach()[torch.arange(count, device=points.device) * points.shape[0] // count].double()
