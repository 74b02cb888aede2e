"""The op ``gmkern::knn`` and the pull of its edges: fake kernels and gradients of any order.

The gradient of distances is a pull along edges: with weights w, the query of an edge is pulled by w (q - r) and the
reference by w (r - q). That pull is bilinear in the weights and the points, so its own gradient is a pull again, and
second derivatives need no further kernel.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gmkern._library import ops
from gmkern.neighbors._points import accumulated

METRICS = ("euclidean", "sqeuclidean")

knn = ops.knn.default
edge_pull = ops.edge_pull.default


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


@torch.library.register_fake("gmkern::edge_pull")
def _(queries: Tensor, references: Tensor, indices: Tensor, weights: Tensor) -> Any:
    return torch.empty_like(queries), torch.empty_like(references)


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
        weights = 2.0 * grad
    wide = distances.dtype
    to_queries, to_references = edge_pull(queries.to(wide), references.to(wide), indices, weights.contiguous())
    return to_queries.to(queries.dtype), to_references.to(queries.dtype), *(None,) * 5


def _pull_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    ctx.save_for_backward(*inputs)


def _pull_backward(ctx: Any, to_queries: Tensor | None, to_references: Tensor | None) -> tuple[Any, ...]:
    queries, references, indices, weights = ctx.saved_tensors
    u = torch.zeros_like(queries) if to_queries is None else to_queries.contiguous()
    v = torch.zeros_like(references) if to_references is None else to_references.contiguous()
    pulled = edge_pull(u, v, indices, weights)
    return *pulled, None, _edge_dots(u, v, queries, references, indices)


def _edge_dots(u: Tensor, v: Tensor, x: Tensor, y: Tensor, indices: Tensor) -> Tensor:
    """<u_i - v_j, x_i - y_j> of each edge, a column of edges at a time: memory of a few [B, N, D]."""

    def at(points: Tensor, column: Tensor) -> Tensor:
        return points.gather(1, column.unsqueeze(-1).expand(-1, -1, points.shape[-1]))

    return torch.stack([((u - at(v, j)) * (x - at(y, j))).sum(-1) for j in indices.unbind(-1)], -1)


torch.library.register_autograd("gmkern::knn", _knn_backward, setup_context=_knn_context)
torch.library.register_autograd("gmkern::edge_pull", _pull_backward, setup_context=_pull_context)
