"""Public function: how many points lie within a radius."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from gmkern import _backend, _validate
from gmkern._validate import ArrayLike
from gmkern.neighbors import _points, _stream
from gmkern.neighbors.count_within import ops, reference


def count_within(
    queries: ArrayLike,
    references: ArrayLike | Iterable[ArrayLike],
    radii: ArrayLike | float,
    *,
    per: str = "query",
    strict: bool = False,
    exclude_self: bool = False,
    progress: bool = False,
    backend: str | None = None,
) -> Tensor:
    """How many references lie within a radius of each query.

    Parameters
    ----------
    queries : [N, D] or [B, N, D]; float32, float64, bfloat16 or float16; finite.
    references : [M, D] or [B, M, D] of the same dtype. Larger than memory: an ``np.memmap`` [M, D], or an iterable of
        blocks [m_i, D], which are read in turn; ``radii`` with ``per="reference"`` are [M] there too.
    radii : euclidean radii in the dtype of :func:`knn`'s distances (float64 for float64 points, else float32): [N] or
        [B, N] with ``per="query"``, [M] or [B, M] with ``per="reference"``, or one number for all. Infinity counts
        everything; a negative radius counts nothing; NaN is an error.
    per : whose radius decides: "query" counts the references in the ball around the query; "reference" counts the
        references whose own ball holds the query.
    strict : count distance < radius (True) or distance <= radius (False).
    exclude_self : reference i is query i and is not counted; N and M must be equal.
    progress : draw a progress bar on a terminal's standard error, for references that are read in turn.
    backend : None, "cpu" (C++), "triton" (CUDA) or "reference" (plain PyTorch, any device): the same counts.

    Returns
    -------
    Tensor [N] or [B, N], int64.

    Raises
    ------
    TypeError, ValueError : naming the argument; NaN and infinities among the points by their first position.

    Notes
    -----
    Decisions are exact in this sense: the distance of a pair is the one that :func:`knn` returns, to the bit, so the
    k-th distance of a point counts k neighbours or more, and with ``strict`` fewer than k or the ties less.
    No [N, M] matrix is held; the result does not depend on threads or instruction set. Counts have no gradient. Works
    under ``torch.compile(fullgraph=True)`` and in CUDA graphs. A GPU is waited for once, to look for NaN; not while a
    graph is captured: there NaN and infinities among the points, or a radius of NaN, make all counts -1.

    Examples
    --------
    >>> import torch, gmkern
    >>> line = torch.tensor([[0.0], [1.0], [3.0]])
    >>> gmkern.neighbors.count_within(line, line, 2.0)
    tensor([2, 3, 2])
    """
    per_reference = _validate.one_of("per", per, ("query", "reference")) == "reference"
    strict, exclude_self = _validate.flag("strict", strict), _validate.flag("exclude_self", exclude_self)
    options = per_reference, strict, exclude_self, backend
    if _stream.is_streamed(references):
        return _streamed(queries, references, radii, *options, progress)
    x, y = _points.pair(queries, references)
    batched = queries.ndim == 3
    _points.check_excludes(exclude_self, x.shape[1], y.shape[1])
    bounds = _bounds(radii, x, batched)
    shape = (x.shape[0], y.shape[1] if per_reference else x.shape[1])
    if bounds.ndim == 0:
        bounds = bounds.expand(shape).contiguous()
    if bounds.shape != shape:
        want = list(shape) if batched else [shape[1]]
        raise _validate.bad("radii", radii, f"shape {want}, one a {per}, or one number")
    counts = _count(x, y, bounds, *options)
    return counts if batched else counts[0]


def _bounds(radii: ArrayLike | float, x: Tensor, batched: bool) -> Tensor:
    """Radii [B, N] or [B, M] in the dtype of the distances; one number stays []."""
    wide = _points.accumulated(x.dtype)
    if _validate.is_number(radii):
        return x.new_full((), _validate.as_float(radii), dtype=torch.float64).to(wide)  # beyond its largest: infinite
    bounds = _validate.tensor("radii", radii, ndim=(0, 2 if batched else 1), dtypes=(wide,), device=x.device)
    if bounds.ndim == 0:
        return bounds
    return (bounds if batched else bounds.unsqueeze(0)).contiguous()


def _count(
    x: Tensor, y: Tensor, bounds: Tensor, per_reference: bool, strict: bool, exclude_self: bool, backend: str | None
) -> Tensor:
    chosen = _backend.choose(
        "neighbors.count_within",
        backend,
        [("cpu", _backend.on_cpu(x.device)), ("triton", _points.on_triton(x, y)), ("reference", None)],
    )
    if chosen != "reference":
        op: Callable[..., Any] = ops.count_within
        if chosen == "triton" and x.device.type == "cpu":
            from gmkern.neighbors.count_within import triton_kernels  # in the interpreter

            op = triton_kernels.count_within
        return _points.called(op, x, y, bounds, per_reference, strict, exclude_self, 0)
    return reference.count_within(x, y, bounds, per_reference=per_reference, strict=strict, exclude_self=exclude_self)


def _streamed(
    queries: ArrayLike,
    references: ArrayLike | Iterable[ArrayLike],
    radii: ArrayLike | float,
    per_reference: bool,
    strict: bool,
    exclude_self: bool,
    backend: str | None,
    progress: bool,
) -> Tensor:
    x = _stream.queries(queries, _points.DTYPES)
    n = x.shape[1]
    bounds = _bounds(radii, x, batched=False)
    if not per_reference:
        bounds = bounds.expand(1, n).contiguous() if bounds.ndim == 0 else bounds
        if bounds.shape[1] != n:
            raise _validate.bad("radii", radii, f"shape [{n}], one a query, or one number")

    def search(y: Tensor, first: int) -> Tensor:
        held = _stream.rows_of("radii", bounds, first, y.shape[1]) if per_reference else bounds
        found = _count(x, y, held, per_reference, strict, False, backend)[0]
        if exclude_self:  # reference i is query i: each such pair, a search of its own, is taken away again
            at = slice(first, min(first + y.shape[1], n))
            its, mine = y[0, : len(x[0, at]), None], x[0, at, None]
            radius = held[0, : len(mine), None] if per_reference else bounds[0, at, None]
            found[at] -= _count(mine, its, radius.contiguous(), per_reference, strict, False, backend)[:, 0]
        return found

    counts = torch.zeros(n, dtype=torch.int64, device=x.device)
    total = 0
    for found, first, count in _stream.each_chunk(references, x, "counts within radii", progress, search):
        counts += found
        total = first + count
    _stream.check_self(exclude_self, n, total)
    if per_reference:
        _stream.check_all_used("radii", bounds, total)
    return counts
