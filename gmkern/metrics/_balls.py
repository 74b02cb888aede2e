"""Questions about the balls around samples that need few of them: in any, or how deep in the one that fits best.

Balls are taken in buckets of nearly one radius. In each the nearest centre is asked for, then, four times as many at a
time, further ones, until those farther away cannot matter. So no [N, M] matrix is held and few distances are computed.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from gmkern.neighbors.knn import knn

_BUCKETS = 4  # more would cost a search each, fewer would leave more to ask for


def search(
    x: Tensor,
    y: Tensor,
    radii: Tensor,
    found: Callable[[Tensor, Tensor, Tensor], None],
    matters: Callable[[Tensor, Tensor, Tensor], Tensor],
    backend: str | None,
) -> None:
    """Tells ``found(rows, distances [R, k], their radii [R, k])`` of the balls around y [M, D] near rows of x [N, D].

    Goes on where ``matters(rows, distance, radius)``: whether a ball no nearer and no larger could change the answer.
    """
    order = radii.argsort(descending=True, stable=True)
    everyone = torch.arange(x.shape[0], device=x.device)
    left = [(bucket, everyone, radii.new_zeros(x.shape[0])) for bucket in order.chunk(_BUCKETS)]
    k = 1
    while left:
        further = []
        for bucket, rows, beyond in left:
            open_ = matters(rows, beyond, radii[bucket[0]])
            rows = rows[open_]
            if rows.numel():
                nearest = knn(x[rows], y[bucket], min(k, len(bucket)), backend=backend)
                found(rows, nearest.distances, radii[bucket][nearest.indices])
                if k < len(bucket):
                    further.append((bucket, rows, nearest.distances[:, -1]))
        left = further
        k *= 4


def inside_any(x: Tensor, y: Tensor, radii: Tensor, strict: bool, backend: str | None) -> Tensor:
    """Whether each of x lies in some ball [N]: nearer than its radius, or at it too where not ``strict``."""
    inside = torch.zeros(x.shape[0], dtype=torch.bool, device=x.device)
    within = torch.lt if strict else torch.le

    def found(rows: Tensor, distances: Tensor, own: Tensor) -> None:
        inside[rows] |= within(distances, own).any(1)

    search(x, y, radii, found, lambda rows, distance, most: ~inside[rows] & within(distance, most), backend)
    return inside


def deepest(x: Tensor, y: Tensor, radii: Tensor, backend: str | None) -> Tensor:
    """The largest ratio of a ball's radius to the distance of its centre [N]; infinite at distance 0."""
    best = radii.new_zeros(x.shape[0])

    def found(rows: Tensor, distances: Tensor, own: Tensor) -> None:
        ratio = torch.where(distances == 0, torch.inf, own / distances)
        best[rows] = torch.maximum(best[rows], ratio.amax(1))

    # At distance 0 any ball matters, one of radius 0 too: 0 / 0 counts as infinite.
    def matters(rows: Tensor, distance: Tensor, most: Tensor) -> Tensor:
        return torch.where(distance == 0, torch.inf, most / distance) > best[rows]

    search(x, y, radii, found, matters, backend)
    return best
