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


def sum_squares(e: Tensor) -> Tensor:
    """sum_d e[..., d]^2 in the written order; e in float32 or float64."""
    squares = pad(e * e, (0, -e.shape[-1] % LANES)).unflatten(-1, (-1, LANES))
    lanes = squares[..., 0, :]
    for chunk in range(1, squares.shape[-2]):
        lanes = lanes + squares[..., chunk, :]
    for half in (8, 4, 2, 1):
        lanes = lanes[..., :half] + lanes[..., half : 2 * half]
    return lanes[..., 0]


def distances(x: Tensor, y: Tensor, *, root: bool) -> Tensor:
    """[..., N, D] and [..., M, D] -> [..., N, M] in float32 or float64; builds [..., N, M, D]: for small blocks."""
    squares = sum_squares(x.unsqueeze(-2) - y.unsqueeze(-3))
    return sqrt(squares) if root else squares
