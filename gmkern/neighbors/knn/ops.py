"""The op ``gmkern::knn`` and the pull of its edges: fake kernels and gradients of any order.

The gradient of distances is a pull along edges: with weights w, the query of an edge is pulled by w (q - r) and the
reference by w (r - q); for other metrics by signs, or by the other end. Such a pull is linear in the weights and
bilinear with the points, or locally constant in them, so that its own gradient is a pull again.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gmkern._interrupt import audible
from gmkern._library import ops
from gmkern.neighbors._points import accumulated

METRICS = ("euclidean", "sqeuclidean", "manhattan", "chebyshev", "inner_product")
DIFFERENCE, _SIGNS, _LARGEST, _OTHER = range(4)  # forms of a pull

knn = audible(ops.knn.default)
knn_course = audible(ops.knn_course.default)
edge_pull = audible(ops.edge_pull.default)


@torch.library.register_fake("gmkern::knn")
def _(
    queries: Tensor, references: Tensor, k: int, metric: int, exclude_self: bool, block_rows: int, method: int
) -> Any:
    torch._check(references.shape[0] == queries.shape[0])
    torch._check(references.shape[2] == queries.shape[2])
    shape = (queries.shape[0], queries.shape[1], k)
    return (
        queries.new_empty(shape, dtype=accumulated(queries.dtype)),
        queries.new_empty(shape, dtype=torch.int64),
    )


@torch.library.register_fake("gmkern::knn_course")
def _(queries: Tensor, references: Tensor, k: int, metric: int, exclude_self: bool, method: int) -> Tensor:
    return queries.new_empty((queries.shape[0], 4), dtype=torch.int64)


@torch.library.register_fake("gmkern::edge_pull")
def _(queries: Tensor, references: Tensor, indices: Tensor, weights: Tensor, form: int) -> Any:
    return torch.empty_like(queries), torch.empty_like(references)


@torch.library.register_kernel("gmkern::knn", "cuda")
def _(*args: Any) -> tuple[Tensor, Tensor]:
    from gmkern.neighbors.knn import triton_kernels  # Triton is optional, and slow to import

    return triton_kernels.knn(*args)


@torch.library.register_kernel("gmkern::knn_course", "cuda")
def _(*args: Any) -> Tensor:
    from gmkern.neighbors.knn import triton_kernels

    return triton_kernels.knn_course(*args)


def _pull_by_columns(
    queries: Tensor, references: Tensor, indices: Tensor, weights: Tensor, form: int
) -> tuple[Tensor, Tensor]:
    """In PyTorch, a column of edges at a time; PyTorch sorts what it accumulates by index, so sums have one order."""
    to_queries, to_references = torch.zeros_like(queries), torch.zeros_like(references)
    batch = torch.arange(queries.shape[0], device=queries.device)[:, None]
    for column, weight in zip(indices.unbind(-1), weights.unsqueeze(-1).unbind(-2), strict=True):
        near = _at(references, column)
        to_queries += weight * _direction(queries, near, form)
        to_references.index_put_((batch, column), weight * _direction(near, queries, form), accumulate=True)
    return to_queries, to_references


torch.library.register_kernel("gmkern::edge_pull", "cuda", _pull_by_columns)


def _at(points: Tensor, column: Tensor) -> Tensor:
    """points [B, M, D] at column [B, N] -> [B, N, D]."""
    return points.gather(1, column.unsqueeze(-1).expand(-1, -1, points.shape[-1]))


def _direction(x: Tensor, y: Tensor, form: int) -> Tensor:
    """e(x, y) of a pull, for x and y [B, N, D]."""
    if form == _OTHER:
        return y
    pull = x - y
    if form == _SIGNS:
        return pull.sign()
    if form == _LARGEST:
        first = pull.abs().argmax(-1, keepdim=True)
        return torch.zeros_like(pull).scatter(-1, first, pull.gather(-1, first).sign())
    return pull


def _knn_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    queries, references, _, metric, *_ = inputs
    distances, indices = output
    ctx.save_for_backward(queries, references, distances, indices)
    ctx.mark_non_differentiable(indices)
    ctx.metric = METRICS[metric]


def _knn_backward(ctx: Any, grad: Tensor | None, _: Tensor | None) -> tuple[Any, ...]:
    if grad is None:
        return (None,) * 7
    queries, references, distances, indices = ctx.saved_tensors
    if ctx.metric == "euclidean":
        copy = distances == 0  # where the distance has a kink, the subgradient 0 is taken
        weights = torch.where(copy, 0.0, grad / torch.where(copy, 1.0, distances))
    else:
        weights = {"sqeuclidean": 2.0, "inner_product": -1.0}.get(ctx.metric, 1.0) * grad
    form = {"manhattan": _SIGNS, "chebyshev": _LARGEST, "inner_product": _OTHER}.get(ctx.metric, DIFFERENCE)
    wide = distances.dtype
    to_queries, to_references = edge_pull(queries.to(wide), references.to(wide), indices, weights.contiguous(), form)
    return to_queries.to(queries.dtype), to_references.to(queries.dtype), *(None,) * 5


def _pull_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    *tensors, ctx.form = inputs
    ctx.save_for_backward(*tensors)


def _pull_backward(ctx: Any, to_queries: Tensor | None, to_references: Tensor | None) -> tuple[Any, ...]:
    queries, references, indices, weights = ctx.saved_tensors
    u = torch.zeros_like(queries) if to_queries is None else to_queries.contiguous()
    v = torch.zeros_like(references) if to_references is None else to_references.contiguous()
    constant = ctx.form in (_SIGNS, _LARGEST)  # the pull does not change with the points, but for jumps
    pulled = (None, None) if constant else edge_pull(u, v, indices, weights, ctx.form)
    return *pulled, None, _edge_dots(u, v, queries, references, indices, ctx.form), None


def _edge_dots(u: Tensor, v: Tensor, x: Tensor, y: Tensor, indices: Tensor, form: int) -> Tensor:
    """What each edge's weight multiplies: a column of edges at a time, in memory of a few [B, N, D]."""

    def dot(column: Tensor) -> Tensor:
        near = _at(y, column)
        if form == _OTHER:
            return (u * near + _at(v, column) * x).sum(-1)
        return ((u - _at(v, column)) * _direction(x, near, form)).sum(-1)

    return torch.stack([dot(column) for column in indices.unbind(-1)], -1)


torch.library.register_autograd("gmkern::knn", _knn_backward, setup_context=_knn_context)
torch.library.register_autograd("gmkern::edge_pull", _pull_backward, setup_context=_pull_context)
