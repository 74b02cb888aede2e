"""Linear algebra of large matrices that hears Ctrl-C: LAPACK's calls beside the main thread, products by rows.

Of tensors without gradients, float64.
"""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from gmkern._interrupt import audible
from gmkern._library import ops

_MOST = 1 << 33  # operations between two looks: a tenth of a second on two cores
_ROWS = 8192  # at most, at a time
_symmetric_eigen = audible(ops.symmetric_eigen.default)
_cholesky = audible(ops.cholesky.default)


def row_slices(rows: int, each: int) -> Iterator[slice]:
    """``rows`` in parts that take a moment and little memory, where one takes ``each`` operations."""
    at_once = max(1, min(_ROWS, _MOST // max(1, each)))
    return (slice(row, min(row + at_once, rows)) for row in range(0, rows, at_once))


def product(a: Tensor, b: Tensor) -> Tensor:
    """a [N, K] times b [K, M]."""
    out = a.new_empty(a.shape[0], b.shape[1])
    for part in row_slices(a.shape[0], 2 * b.numel()):
        out[part] = a[part] @ b
    return out


def eigen(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues [D], ascending, and eigenvectors [D, D], the columns, of a symmetric matrix."""
    return _symmetric_eigen(matrix, True)


def eigenvalues(matrix: Tensor) -> Tensor:
    """Eigenvalues [D] of a symmetric matrix, ascending."""
    return _symmetric_eigen(matrix, False)[0]


def is_positive(matrix: Tensor) -> bool:
    """Whether a symmetric matrix is positive definite."""
    return int(_cholesky(matrix)[1]) == 0
