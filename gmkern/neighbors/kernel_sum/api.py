"""Public functions: sums of kernels over the references, and their logarithms."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from gmkern import _backend, _validate
from gmkern._validate import ArrayLike
from gmkern.neighbors import _points
from gmkern.neighbors.kernel_sum import ops, reference

KERNELS = (
    "rbf",
    "laplace",
    "rational_quadratic",
    "inverse_multiquadric",
    "energy",
    "polynomial",
    "linear",
)
_SCALED = KERNELS[:4]  # those with a bandwidth, and with a logarithm
_COMPILED = ("rbf", "laplace", "rational", "energy", "polynomial")


class _Sum(NamedTuple):
    """A sum, ready for a backend: points [B, N, D] and [B, M, D], numbers of the references [B, M]."""

    x: Tensor
    y: Tensor
    rates: Tensor
    weights: Tensor
    log_weights: Tensor | None
    kernel: str
    exponent: float
    offset: float
    degree: int
    exclude_self: bool
    batched: bool


def kernel_sum(
    queries: ArrayLike,
    references: ArrayLike | None = None,
    *,
    kernel: str = "rbf",
    bandwidth: ArrayLike | float | None = None,
    weights: ArrayLike | None = None,
    alpha: float = 1.0,
    degree: int = 3,
    gamma: float | None = None,
    coef0: float = 1.0,
    exclude_self: bool = False,
    backend: str | None = None,
) -> Tensor:
    """The sum over references of ``weights[j] * K(queries[i], references[j])``, for each query.

    Parameters
    ----------
    queries : [N, D] or [B, N, D]; float32, float64, bfloat16 or float16; finite.
    references : [M, D] or [B, M, D] of the same dtype; None stands for the queries.
    kernel : with the euclidean distance d and the bandwidth h,

        * "rbf": exp(-d² / (2 h²))
        * "laplace": exp(-d / h)
        * "rational_quadratic": (1 + d² / (2 alpha h²))^-alpha
        * "inverse_multiquadric": (1 + d² / h²)^(-1/2)
        * "energy": -d
        * "polynomial": (gamma <q, r> + coef0)^degree
        * "linear": <q, r>
    bandwidth : for the first four: a positive number, or one a reference ([M] or [B, M], dtype of the result).
    weights : [M] or [B, M], of any sign, dtype of the result; None: 1.
    alpha : of "rational_quadratic", positive.
    degree, gamma, coef0 : of "polynomial": 1 to 64, positive (None: 1 / D), finite.
    exclude_self : reference i is query i and is left out; N and M must be equal.
    backend : None, "cpu" (C++) or "reference" (plain PyTorch, any device).

    Returns
    -------
    Tensor [N] or [B, N]: float64 for float64 points, else float32.

    Raises
    ------
    TypeError, ValueError : naming the argument; values that are not finite by their first position.

    Notes
    -----
    No [N, M] matrix is held, nor by the gradients. Terms are added in float64, in an order that depends on the row
    alone: one result for any number of threads, block and batch, and on every instruction set. Far pairs, whose
    exponential would be subnormal, give 0. docs/neighbors.md has the bound of the error.

    Differentiable once in queries, references, weights and bandwidth (any number of times with
    ``backend="reference"``); at distance 0, "laplace" and "energy" have a kink, where 0 is taken. Works under
    ``torch.compile(fullgraph=True)``.

    Examples
    --------
    >>> import torch, gmkern
    >>> line = torch.tensor([[0.0], [1.0]])
    >>> gmkern.neighbors.kernel_sum(line, line, kernel="energy")
    tensor([-1., -1.])
    """
    kernel = _validate.one_of("kernel", kernel, KERNELS)
    made = _sum(queries, references, kernel, bandwidth, weights, None, alpha, degree, gamma, coef0, exclude_self)
    return _run("neighbors.kernel_sum", made, backend)


def log_kernel_sum(
    queries: ArrayLike,
    references: ArrayLike | None = None,
    *,
    kernel: str = "rbf",
    bandwidth: ArrayLike | float,
    weights: ArrayLike | None = None,
    log_weights: ArrayLike | None = None,
    alpha: float = 1.0,
    exclude_self: bool = False,
    backend: str | None = None,
) -> Tensor:
    """The logarithm of :func:`kernel_sum`, for kernels and weights that are not negative.

    Neither overflows nor underflows, however far the references are: terms are added relative to the largest so far.
    With ``log_weights[j] = log(pi_j) - D / 2 * log(2 * pi * h_j**2)`` it is the log-density of a mixture of isotropic
    Gaussians at the references; with equal weights, that of a kernel density estimate.

    Parameters
    ----------
    queries, references, bandwidth, alpha, exclude_self, backend : as for :func:`kernel_sum`.
    kernel : "rbf", "laplace", "rational_quadratic" or "inverse_multiquadric".
    weights : [M] or [B, M], not negative; None: 1.
    log_weights : their logarithms instead, in which minus infinity is allowed.

    Returns
    -------
    Tensor [N] or [B, N]: float64 for float64 points, else float32; minus infinity where no mass is.

    Raises
    ------
    TypeError, ValueError : as for :func:`kernel_sum`.

    Notes
    -----
    As for :func:`kernel_sum`. A query without mass has gradient 0.

    Examples
    --------
    >>> import torch, gmkern
    >>> gmkern.neighbors.log_kernel_sum(torch.zeros(1, 1), torch.tensor([[1000.0]]), bandwidth=1.0)
    tensor([-500000.])
    """
    kernel = _validate.one_of("kernel", kernel, _SCALED)
    if weights is not None and log_weights is not None:
        raise _validate.bad("log_weights", "them beside weights", "one of the two")
    made = _sum(queries, references, kernel, bandwidth, weights, log_weights, alpha, 1, None, 0.0, exclude_self)
    if made.log_weights is None:
        made = made._replace(log_weights=torch.zeros_like(made.weights))
    return _run("neighbors.log_kernel_sum", made, backend)


def _sum(
    queries: ArrayLike,
    references: ArrayLike | None,
    kernel: str,
    bandwidth: ArrayLike | float | None,
    weights: ArrayLike | None,
    log_weights: ArrayLike | None,
    alpha: float,
    degree: int,
    gamma: float | None,
    coef0: float,
    exclude_self: bool,
) -> _Sum:
    x, y = _points.pair(queries, references)
    batched = queries.ndim == 3
    _points.check_excludes(exclude_self, x.shape[1], y.shape[1])
    exponent, offset, power, compiled = 1.0, 0.0, 1, kernel
    one = y.new_ones((), dtype=_points.accumulated(x.dtype))
    if kernel in _SCALED:
        if bandwidth is None:
            raise _validate.bad("bandwidth", "None", f"a positive number, or one a reference, for kernel={kernel!r}")
        h = _numbers("bandwidth", bandwidth, y, batched, one.dtype)
        if kernel == "rbf":
            rates = 0.5 / (h * h)
        elif kernel == "laplace":
            rates = 1.0 / h
        else:
            compiled = "rational"
            exponent = 0.5 if kernel == "inverse_multiquadric" else _validate.number("alpha", alpha, above=0.0)
            rates = (0.5 / exponent) / (h * h) if kernel == "rational_quadratic" else 1.0 / (h * h)
    else:
        if bandwidth is not None:
            raise _validate.bad("bandwidth", bandwidth, f"None for kernel={kernel!r}, which has no scale")
        rates = one
        if kernel == "polynomial":
            rates = one * (1.0 / x.shape[-1] if gamma is None else _validate.number("gamma", gamma, above=0.0))
            offset = _validate.number("coef0", coef0)
            power = _validate.integer("degree", degree, low=1, high=64)
        elif kernel == "linear":
            compiled = "polynomial"
    shape = y.shape[:2]
    return _Sum(
        x,
        y,
        rates.expand(shape).contiguous(),
        (one if weights is None else _numbers("weights", weights, y, batched, one.dtype)).expand(shape).contiguous(),
        None
        if log_weights is None
        else _numbers("log_weights", log_weights, y, batched, one.dtype).expand(shape).contiguous(),
        compiled,
        exponent,
        offset,
        power,
        bool(exclude_self),
        batched,
    )


def _numbers(name: str, value: ArrayLike | float, y: Tensor, batched: bool, dtype: torch.dtype) -> Tensor:
    """One number for all references, or one for each: a tensor that expands to [B, M]."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return torch.full((), float(value), dtype=dtype, device=y.device)
    numbers = _validate.tensor(name, value, dtypes=(dtype,), device=y.device)
    want = tuple(y.shape[:2] if batched else y.shape[1:2])
    if numbers.ndim and tuple(numbers.shape) != want:
        raise _validate.bad(name, numbers, f"one number, or shape {list(want)}, one a reference")
    return numbers


def _run(name: str, made: _Sum, backend: str | None) -> Tensor:
    chosen = _backend.choose(name, backend, [("cpu", _backend.on_cpu(made.x.device)), ("reference", None)])
    rest = made.exponent, made.offset, made.degree, made.exclude_self
    if chosen == "cpu":
        sums = _points.called(ops.kernel_sum, *made[:5], _COMPILED.index(made.kernel), *rest)
    else:
        sums = reference.kernel_sum(*made[:5], made.kernel, *rest)
    return sums if made.batched else sums[0]
