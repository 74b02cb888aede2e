"""The Vendi score: how many different samples a set seems to hold."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from gmkern import _validate
from gmkern._validate import ArrayLike
from gmkern.metrics._linalg import eigenvalues, product, row_slices
from gmkern.metrics._samples import samples
from gmkern.neighbors._points import accumulated


def vendi_score(
    points: ArrayLike,
    *,
    kernel: str | Callable[[Tensor, Tensor], Tensor] = "cosine",
    bandwidth: float | None = None,
    q: float = 1.0,
) -> float:
    """The effective number of different samples: the exponential of the entropy of a similarity matrix's eigenvalues.

    With K the similarities of the samples, K_ii = 1, and l_i the eigenvalues of K / N, which sum to 1, the score of
    order q is ``(sum l_i^q)^(1 / (1 - q))``: 1 where all samples are equal, N where no two are similar.

    Parameters
    ----------
    points : [N, D]; float32, float64, bfloat16 or float16; finite.
    kernel : "cosine" (rows must not be zero), "rbf" exp(-d^2 / 2h^2), "laplace" exp(-d / h), or a function of
        (x [N, D], y [M, D]) that gives similarities [N, M], symmetric and 1 on the diagonal.
    bandwidth : h, for "rbf" and "laplace".
    q : the order, from 0 to infinity. 1: Shannon's entropy; 0: the rank, counted among eigenvalues above N * 2^-52 of
        the largest (2^-23 for a function's float32); infinity: 1 / the largest. Small orders heed rare samples, large
        ones frequent ones.

    Returns
    -------
    float in [1, N], but for rounding.

    Raises
    ------
    TypeError, ValueError : naming the argument; NaN and infinities by their first position.

    Notes
    -----
    In float64. "cosine" with N > D takes the D x D matrix X^T X / N, which has the same eigenvalues: time N D^2 + D^3
    and no [N, N] matrix. Every other case holds one, and takes N^3. Distances are of differences, so that copies have
    similarity 1. Not differentiable.

    Sources: Friedman and Dieng, "The Vendi Score: A Diversity Evaluation Metric for Machine Learning", 2023; Pasarkar
    and Dieng, "Cousins of the Vendi Score", 2023 (orders).

    Examples
    --------
    >>> import torch, gmkern
    >>> round(gmkern.metrics.vendi_score(torch.eye(4).repeat(25, 1)), 6)  # a hundred samples of four kinds
    4.0
    """
    x = samples("points", points).detach()
    if not _validate.is_number(q):
        raise _validate.bad("q", q, "a number", error=TypeError)
    if not q >= 0:
        raise _validate.bad("q", repr(q), "a number >= 0, infinity included")
    precision = 2.0**-52
    if callable(kernel):
        if bandwidth is not None:
            raise _validate.bad("bandwidth", repr(bandwidth), "None with a function as kernel")
        matrix, precision = _similarities(kernel, x)
    elif _validate.one_of("kernel", kernel, ("cosine", "rbf", "laplace")) == "cosine":
        if bandwidth is not None:
            raise _validate.bad("bandwidth", repr(bandwidth), 'None with kernel="cosine"')
        matrix = _cosine(x)
    else:
        matrix = _radial(x, kernel, _validate.number("bandwidth", bandwidth, above=0))
    values = eigenvalues(matrix / x.shape[0]).clamp(min=0)
    return _effective_number(values / values.sum(), float(q), x.shape[0] * precision)


def _cosine(x: Tensor) -> Tensor:
    """A matrix with the non-zero eigenvalues of the cosines' matrix: that one, or X^T X where it is smaller."""
    largest = x.abs().amax(1).double()
    if bool((largest == 0).any()):
        row = int((largest == 0).nonzero()[0])
        raise _validate.bad("points", f"a row of zeros at [{row}]", 'rows that have a direction, for kernel="cosine"')
    n, dim = x.shape

    def unit(part: Tensor) -> Tensor:
        part = part.double()
        part = part / part.abs().amax(1, keepdim=True)  # squares neither overflow nor vanish
        return part / part.norm(dim=1, keepdim=True)

    if n <= dim:
        whole = unit(x)
        return product(whole, whole.T)
    matrix = torch.zeros(dim, dim, dtype=torch.float64, device=x.device)
    for rows in row_slices(n, 2 * dim * dim):
        part = unit(x[rows])
        matrix.addmm_(part.T, part)
    return matrix


def _radial(x: Tensor, kernel: str, bandwidth: float) -> Tensor:
    x = x.double()
    scaled = x.new_empty(len(x), len(x))
    for rows in row_slices(len(x), 3 * x.numel()):
        scaled[rows] = torch.cdist(x[rows], x, compute_mode="donot_use_mm_for_euclid_dist") / bandwidth
    return (-scaled.square() / 2 if kernel == "rbf" else -scaled).exp()


def _similarities(kernel: Callable[[Tensor, Tensor], Tensor], x: Tensor) -> tuple[Tensor, float]:
    matrix = _validate.tensor("kernel(points, points)", kernel(x, x), ndim=2, device=x.device).detach()
    precision = torch.finfo(matrix.dtype if matrix.is_floating_point() else torch.float64).eps
    matrix, n = matrix.double(), x.shape[0]
    # What similarities computed in the points' precision may be off by.
    slack = 8 * max(precision, torch.finfo(accumulated(x.dtype)).eps) * math.sqrt(x.shape[1])
    if matrix.shape != (n, n):
        raise _validate.bad("kernel(points, points)", matrix, f"shape [{n}, {n}]")
    if not bool(torch.isfinite(matrix).all()):
        raise _validate.bad("kernel(points, points)", "numbers that are not finite", "finite numbers")
    if float((matrix.diagonal() - 1).abs().max()) > slack or float((matrix - matrix.T).abs().max()) > slack:
        raise _validate.bad("kernel(points, points)", "another matrix", "a symmetric matrix with ones on the diagonal")
    return (matrix + matrix.T) / 2, precision


def _effective_number(values: Tensor, q: float, smallest: float) -> float:
    """Hill's number of order q of values that sum to 1."""
    if q == 0:
        return float((values > smallest * values.max()).sum())
    if q == math.inf:
        return 1 / float(values.max())
    if q == 1:
        return math.exp(-float(torch.xlogy(values, values).sum()))
    largest = float(values.max())  # whose power may vanish
    rest = float((values / largest).pow(q).sum())
    return math.exp(q / (1 - q) * math.log(largest) + math.log(rest) / (1 - q))
