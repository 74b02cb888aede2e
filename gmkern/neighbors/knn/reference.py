"""knn in plain PyTorch: the same distances and order as the kernels, to the bit."""

from __future__ import annotations

import torch
from torch import Tensor

from gmkern._exact import sqrt
from gmkern.neighbors.reference import between, check_finite, distances

_ROWS, _COLUMNS = 256, 1024  # of a block of distances


def knn(x: Tensor, y: Tensor, k: int, *, metric: str, exclude_self: bool, block_rows: int = 0) -> tuple[Tensor, Tensor]:
    """The k nearest of y [B, M, D] for each of x [B, N, D], in the order (distance, index).

    Points of bf16 and fp16 are taken to float32. Returns distances [B, N, k], differentiable, and indices [B, N, k].
    """
    check_finite("queries", x)
    check_finite("references", y)
    wide = torch.float64 if x.dtype == torch.float64 else torch.float32
    x, y = x.to(wide), y.to(wide)
    batch, n = x.shape[:2]
    with torch.no_grad():
        rows = [_rows(x, y, k, q, metric, exclude_self, block_rows or _COLUMNS) for q in range(0, n, _ROWS)]
        indices = torch.cat(rows, 1) if rows else torch.empty((batch, 0, k), dtype=torch.int64, device=x.device)
    near = y.gather(1, indices.flatten(1).unsqueeze(-1).expand(-1, -1, y.shape[-1])).unflatten(1, (n, k))
    if metric != "euclidean":
        return between(x.unsqueeze(2), near, metric), indices
    squares = between(x.unsqueeze(2), near, "sqeuclidean")
    # The root's derivative at 0 is taken to be 0: a copy pulls in no direction.
    copy = squares == 0
    return torch.where(copy, 0.0, sqrt(torch.where(copy, 1.0, squares))), indices


def _rows(x: Tensor, y: Tensor, k: int, q: int, metric: str, exclude_self: bool, columns: int) -> Tensor:
    """The neighbours of the queries from q on. Columns come in the order of index: a stable sort keeps ties."""
    x = x[:, q : q + _ROWS]
    best = x.new_empty((*x.shape[:2], 0))
    found = torch.empty_like(best, dtype=torch.int64)
    for r in range(0, y.shape[1], columns):
        d = torch.cat([distances(x[:, i : i + 16], y[:, r : r + columns], metric) for i in range(0, x.shape[1], 16)], 1)
        index = torch.arange(r, r + d.shape[2], device=x.device).expand_as(d)
        if exclude_self:
            own = torch.arange(q, q + x.shape[1], device=x.device)[:, None]
            # Behind everything: there is always another candidate, and k counts them without the query itself.
            d = torch.where(index == own, torch.nan, d)
        best, found = torch.cat([best, d], 2), torch.cat([found, index], 2)
        best, order = torch.sort(best, dim=2, stable=True)
        best, found = best[..., :k], found.gather(2, order)[..., :k]
    return found
