"""Distances in plain PyTorch, in the one written order of sums, for the references of the neighbour ops.

The order (docs/neighbors.md): lane ``d % 16`` adds ``(x_d - y_d)^2`` in the order of d, each product and each sum
rounded on its own; then lanes i and i + 8 are added, i and i + 4, i and i + 2, 0 and 1.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

from gmkern._exact import sqrt

LANES = 16


def check_finite(name: str, x: Tensor) -> None:
    """Raises ValueError with the first position of x [B, N, D] that is NaN or infinite."""
    bad = ~torch.isfinite(x)
    if bool(bad.any()):
        where = bad.nonzero()[0].tolist()
        value = float(x[tuple(where)])
        at = where if x.shape[0] > 1 else where[1:]
        raise ValueError(f"{name}: got {value} at {at}; takes finite numbers")


def captured(x: Tensor) -> bool:
    """Whether what is done to x goes into a CUDA graph, where no value can be looked at."""
    return x.is_cuda and torch.cuda.is_current_stream_capturing()


def sum_lanes(e: Tensor) -> Tensor:
    """sum_d e[..., d] in the written order; e in float32 or float64."""
    terms = pad(e, (0, -e.shape[-1] % LANES)).unflatten(-1, (-1, LANES))
    lanes = terms[..., 0, :]
    for chunk in range(1, terms.shape[-2]):
        lanes = lanes + terms[..., chunk, :]
    for half in (8, 4, 2, 1):
        lanes = lanes[..., :half] + lanes[..., half : 2 * half]
    return lanes[..., 0]


def sum_squares(e: Tensor) -> Tensor:
    """sum_d e[..., d]^2 in the written order; e in float32 or float64."""
    return sum_lanes(e * e)


def between(x: Tensor, y: Tensor, metric: str) -> Tensor:
    """The distances of x and y [..., D], which broadcast; differentiable, but for the root of a squared distance 0."""
    if metric == "inner_product":
        distances = 0.0 - sum_lanes(x * y)
        return torch.where(distances.isnan(), torch.inf, distances)  # a sum of infinities of both signs
    e = x - y
    if metric == "manhattan":
        return sum_lanes(e.abs())
    if metric == "chebyshev":
        return e.abs().max(-1).values
    squares = sum_squares(e)
    return sqrt(squares) if metric == "euclidean" else squares


def distances(x: Tensor, y: Tensor, metric: str = "euclidean") -> Tensor:
    """[..., N, D] and [..., M, D] -> [..., N, M] in float32 or float64; builds [..., N, M, D]: for small blocks."""
    return between(x.unsqueeze(-2), y.unsqueeze(-3), metric)


def directions(name: str, x: Tensor) -> Tensor:
    """x [B, N, D] over its norms, in float32 or float64: the points that the metric "cosine" compares.

    Each row is divided by the power of two above its largest coordinate, then by the root of its sum of squares in the
    written order. Raises ValueError for a row of zeros, and for values that are not finite; where that cannot be
    looked at, in compiled code and while a CUDA graph is captured, such rows become NaN.
    """
    x = x.to(torch.float64 if x.dtype == torch.float64 else torch.float32)
    largest = x.detach().abs().amax(-1, keepdim=True)
    if not (torch.compiler.is_compiling() or captured(x)):
        check_finite(name, x)
        if not bool(largest.all()):
            where = (largest.squeeze(-1) == 0).nonzero()[0].tolist()
            at = where if x.shape[0] > 1 else where[1:]
            raise ValueError(f"{name}: got a row of zeros at {at}; takes rows with a direction, for metric='cosine'")
    _, exponent = torch.frexp(largest)
    half = exponent // 2  # two steps: one power of two may be out of range
    x = (x * power_of_2(-half, x.dtype)) * power_of_2(half - exponent, x.dtype)
    return x / sqrt(sum_squares(x)).unsqueeze(-1)


def power_of_2(n: Tensor, dtype: torch.dtype) -> Tensor:
    """2^n, exactly, for exponents of normal numbers."""
    if dtype == torch.float32:
        return ((n + 127) << 23).to(torch.int32).view(torch.float32)
    return ((n.to(torch.int64) + 1023) << 52).view(torch.float64)
