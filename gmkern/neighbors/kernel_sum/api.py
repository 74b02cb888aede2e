"""Public functions: sums of kernels over the references, and their logarithms."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from gmkern import _backend, _validate
from gmkern._validate import ArrayLike
from gmkern.neighbors import _points, _stream
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
SCALED = KERNELS[:4]  # those with a bandwidth, and with a logarithm
_COMPILED = ("rbf", "laplace", "rational", "energy", "polynomial")


class Shape(NamedTuple):
    """A kernel as the op takes it."""

    kernel: str
    exponent: float
    offset: float
    degree: int


Mixture = tuple[Tensor, Tensor, Tensor | None]  # rates, weights, log weights


def kernel_sum(
    queries: ArrayLike,
    references: ArrayLike | Iterable[ArrayLike] | None = None,
    *,
    kernel: str = "rbf",
    bandwidth: ArrayLike | float | None = None,
    weights: ArrayLike | None = None,
    alpha: float = 1.0,
    degree: int = 3,
    gamma: float | None = None,
    coef0: float = 1.0,
    exclude_self: bool = False,
    progress: bool = False,
    backend: str | None = None,
) -> Tensor:
    """The sum over references of ``weights[j] * K(queries[i], references[j])``, for each query.

    Parameters
    ----------
    queries : [N, D] or [B, N, D]; float32, float64, bfloat16 or float16; finite.
    references : [M, D] or [B, M, D] of the same dtype; None stands for the queries. Larger than memory: an
        ``np.memmap`` [M, D], or an iterable of blocks [m_i, D], which are read in turn: on a CPU, with the bits of one
        piece, without gradients; ``bandwidth`` and ``weights`` are numbers or [M] there too.
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
    progress : draw a progress bar on a terminal's standard error, for references that are read in turn.
    backend : None, "cpu" (C++), "triton" (CUDA) or "reference" (plain PyTorch, any device).

    Returns
    -------
    Tensor [N] or [B, N]: float64 for float64 points, else float32.

    Raises
    ------
    TypeError, ValueError : naming the argument; values that are not finite by their first position.

    Notes
    -----
    No [N, M] matrix is held, nor by the gradients. Terms are added in float64, in an order that depends on the row
    alone: one result for any number of threads, block and batch, and on every instruction set; a GPU adds in an order
    of its own, as fixed. Far pairs, whose exponential would be subnormal, give 0. docs/neighbors.md has the bound of
    the error.

    Differentiable once in queries, references, weights and bandwidth (any number of times with
    ``backend="reference"``); at distance 0, "laplace" and "energy" have a kink, where 0 is taken. Works under
    ``torch.compile(fullgraph=True)`` and in CUDA graphs. A GPU is waited for once, to look for numbers that are not
    taken; not while a graph is captured: there they make all sums NaN.

    Examples
    --------
    >>> import torch, gmkern
    >>> line = torch.tensor([[0.0], [1.0]])
    >>> gmkern.neighbors.kernel_sum(line, line, kernel="energy")
    tensor([-1., -1.])
    """
    kernel = _validate.one_of("kernel", kernel, KERNELS)
    return _sum(
        "neighbors.kernel_sum", queries, references, kernel, bandwidth, weights, None, alpha, degree, gamma, coef0,
        exclude_self, progress, backend,
    )  # fmt: skip


def log_kernel_sum(
    queries: ArrayLike,
    references: ArrayLike | Iterable[ArrayLike] | None = None,
    *,
    kernel: str = "rbf",
    bandwidth: ArrayLike | float,
    weights: ArrayLike | None = None,
    log_weights: ArrayLike | None = None,
    alpha: float = 1.0,
    exclude_self: bool = False,
    progress: bool = False,
    backend: str | None = None,
) -> Tensor:
    """The logarithm of :func:`kernel_sum`, for kernels and weights that are not negative.

    Neither overflows nor underflows, however far the references are: terms are added relative to the largest so far.
    With ``log_weights[j] = log(pi_j) - D / 2 * log(2 * pi * h_j**2)`` it is the log-density of a mixture of isotropic
    Gaussians at the references; with equal weights, that of a kernel density estimate.

    Parameters
    ----------
    queries, references, bandwidth, alpha, exclude_self, progress, backend : as for :func:`kernel_sum`.
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
    kernel = _validate.one_of("kernel", kernel, SCALED)
    if weights is not None and log_weights is not None:
        raise _validate.bad("log_weights", "them beside weights", "one of the two")
    return _sum(
        "neighbors.log_kernel_sum", queries, references, kernel, bandwidth, weights,
        0.0 if log_weights is None else log_weights, alpha, 1, None, 0.0, exclude_self, progress, backend,
    )  # fmt: skip


def _sum(
    name: str,
    queries: ArrayLike,
    references: ArrayLike | Iterable[ArrayLike] | None,
    kernel: str,
    bandwidth: ArrayLike | float | None,
    weights: ArrayLike | None,
    log_weights: ArrayLike | float | None,
    alpha: float,
    degree: int,
    gamma: float | None,
    coef0: float,
    exclude_self: bool,
    progress: bool,
    backend: str | None,
) -> Tensor:
    """The sum, or its logarithm where there are log_weights."""
    exclude_self = _validate.flag("exclude_self", exclude_self)
    streamed = _stream.is_streamed(references)
    if streamed:
        x = y = _stream.queries(queries, _points.DTYPES)
    else:
        x, y = _points.pair(queries, references)
        _points.check_excludes(exclude_self, x.shape[1], y.shape[1])
    batched = queries.ndim == 3
    want = None if streamed else tuple(y.shape[:2])  # of numbers of the references
    mixture, shape = mixture_of(x, want, batched, kernel, bandwidth, weights, log_weights, alpha, degree, gamma, coef0)
    served = "takes references in memory" if streamed else None
    numbers = [t for t in mixture if t is not None]
    chosen = _backend.choose(
        name,
        backend,
        [
            ("cpu", _backend.on_cpu(x.device)),
            ("triton", served or _points.on_triton(x, y, *numbers)),
            ("reference", served),
        ],
    )
    if streamed:
        return _streamed(x, references, mixture, shape, exclude_self, progress)
    whole: list[Any] = [None if t is None else t.expand(y.shape[:2]).contiguous() for t in mixture]
    if chosen != "reference":
        sums = compiled(chosen, x, y, whole, shape, exclude_self)
    else:
        sums = reference.kernel_sum(x, y, whole[0], whole[1], whole[2], *shape, exclude_self)
    return sums if batched else sums[0]


def compiled(
    chosen: str, x: Tensor, y: Tensor, mixture: Sequence[Tensor | None], shape: Shape, exclude_self: bool
) -> Tensor:
    """The sums [B, N] by the backend "cpu" or "triton", of numbers [B, M]."""
    op: Callable[..., Any] = ops.kernel_sum
    if chosen == "triton" and x.device.type == "cpu":
        from gmkern.neighbors.kernel_sum import triton_kernels  # in the interpreter

        op = triton_kernels.kernel_sum
    code = _COMPILED.index(shape.kernel)
    return _points.called(op, x, y, *mixture, code, *shape[1:], exclude_self)


def _streamed(
    x: Tensor,
    references: ArrayLike | Iterable[ArrayLike] | None,
    mixture: Mixture,
    shape: Shape,
    exclude_self: bool,
    progress: bool,
) -> Tensor:
    names = ("bandwidth", "weights", "log_weights")
    for name, t in zip(names, mixture, strict=True):
        if t is not None:
            _stream.check_detached(name, t)
    state = no_terms(x)

    def add(y: Tensor, first: int) -> Tensor:
        part = [
            None if t is None else _stream.rows_of(name, t, first, y.shape[1])
            for name, t in zip(names, mixture, strict=True)
        ]
        return with_terms(state, x, y, part, shape, exclude_self, first)

    total = 0
    for next_state, first, count in _stream.each_chunk(references, x, "kernel sums", progress, add):
        state, total = next_state, first + count
    _stream.check_self(exclude_self, x.shape[1], total)
    for name, t in zip(names, mixture, strict=True):
        if t is not None:
            _stream.check_all_used(name, t, total)
    return sum_of(state, x, mixture[2] is not None)


def no_terms(x: Tensor) -> Tensor:
    """The sums of queries [1, N, D] before their first term: [1, N, 17] float64, sixteen lanes and the peak."""
    state = x.new_zeros((1, x.shape[1], 17), dtype=torch.float64)
    state[..., 16] = -torch.inf
    return state


def with_terms(
    state: Tensor,
    x: Tensor,
    y: Tensor,
    mixture: Sequence[Tensor | None],
    shape: Shape,
    exclude_self: bool,
    first: int,
) -> Tensor:
    """The sums with references y [1, m, D] added, the first of them number ``first``, a multiple of 16."""
    code = _COMPILED.index(shape.kernel)
    return _points.called(ops.kernel_sum_resume, state, x, y, *mixture, code, *shape[1:], exclude_self, first)


def sum_of(state: Tensor, x: Tensor, log: bool) -> Tensor:
    """The sums [N], or their logarithms, in the dtype of results."""
    return ops.kernel_sum_total(state, log)[0].to(_points.accumulated(x.dtype))


def gradients(
    incoming: Tensor,
    sums: Tensor,
    x: Tensor,
    y: Tensor,
    rates: Tensor,
    weights: Tensor,
    log_weights: Tensor | None,
    shape: Shape,
    exclude_self: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What ``sums`` [1, N] of these and perhaps other references give x, y [1, m, D], weights and rates [1, m]."""
    code = _COMPILED.index(shape.kernel)
    mixture = rates, weights, log_weights
    return ops.kernel_sum_backward(incoming, sums, x, y, *mixture, code, *shape[1:], exclude_self, True, True)


def mixture_of(
    x: Tensor,
    want: tuple[int, ...] | None,
    batched: bool,
    kernel: str,
    bandwidth: ArrayLike | float | None,
    weights: ArrayLike | None,
    log_weights: ArrayLike | float | None,
    alpha: float,
    degree: int,
    gamma: float | None,
    coef0: float,
) -> tuple[Mixture, Shape]:
    """Rates, weights and log weights ([] or [B, M], ``want`` where M is known), and the kernel as the op takes it."""

    def numbers(name: str, value: ArrayLike | float | None) -> Tensor:
        return _numbers(name, 1.0 if value is None else value, x, want, batched)

    if kernel in SCALED:
        if bandwidth is None:
            raise _validate.bad("bandwidth", "None", f"a positive number, or one a reference, for kernel={kernel!r}")
        if _validate.is_number(bandwidth):
            bandwidth = _validate.number("bandwidth", bandwidth, above=0.0)
    elif bandwidth is not None:
        raise _validate.bad("bandwidth", bandwidth, f"None for kernel={kernel!r}, which has no scale")
    shape, rates = _shape(kernel, numbers("bandwidth", bandwidth), x.shape[-1], alpha, degree, gamma, coef0)
    mixture = rates, numbers("weights", weights), None if log_weights is None else numbers("log_weights", log_weights)
    return mixture, shape


def _shape(
    kernel: str, h: Tensor, dim: int, alpha: float, degree: int, gamma: float | None, coef0: float
) -> tuple[Shape, Tensor]:
    """The op's kernel, and the rates that bandwidths h stand for (1 where there are none).

    Squares keep the sign of h, so that the op, which looks at the rates, refuses what is not positive.
    """
    if kernel == "rbf":
        return Shape("rbf", 1.0, 0.0, 1), 0.5 / (h * h.abs())
    if kernel == "laplace":
        return Shape("laplace", 1.0, 0.0, 1), 1.0 / h
    if kernel == "rational_quadratic":
        alpha = _validate.number("alpha", alpha, above=0.0)
        return Shape("rational", alpha, 0.0, 1), (0.5 / alpha) / (h * h.abs())
    if kernel == "inverse_multiquadric":
        return Shape("rational", 0.5, 0.0, 1), 1.0 / (h * h.abs())
    if kernel == "polynomial":
        slope = 1.0 / dim if gamma is None else _validate.number("gamma", gamma, above=0.0)
        degree = _validate.integer("degree", degree, low=1, high=64)
        return Shape("polynomial", 1.0, _validate.number("coef0", coef0), degree), h * slope
    return Shape("polynomial" if kernel == "linear" else "energy", 1.0, 0.0, 1), h


def _numbers(name: str, value: ArrayLike | float, x: Tensor, want: tuple[int, ...] | None, batched: bool) -> Tensor:
    """One number [], or one for each reference: [B, M] (``want``, where M is known)."""
    dtype = _points.accumulated(x.dtype)
    if _validate.is_number(value):
        return torch.full((), _validate.as_float(value), dtype=torch.float64, device=x.device).to(dtype)
    numbers = _validate.tensor(name, value, dtypes=(dtype,), device=x.device)
    if numbers.ndim == 0:
        return numbers
    expected = want if batched or want is None else want[1:]
    if numbers.ndim != (2 if batched else 1) or expected not in (None, tuple(numbers.shape)):
        told = "[M]" if expected is None else str(list(expected))
        raise _validate.bad(name, value, f"one number, or shape {told}, one a reference")
    return numbers if batched else numbers.unsqueeze(0)
