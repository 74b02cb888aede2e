"""count_within in plain PyTorch: the same decisions as the kernels."""

from __future__ import annotations

import torch
from torch import Tensor

from gmkern.neighbors.reference import check_finite, distances

_ROWS, _COLUMNS = 16, 1024  # of a block of distances


def count_within(
    x: Tensor, y: Tensor, radii: Tensor, *, per_reference: bool, strict: bool, exclude_self: bool
) -> Tensor:
    """Counts [B, N] of the pairs of x [B, N, D] and y [B, M, D] within radii [B, N] or [B, M]."""
    check_finite("queries", x)
    check_finite("references", y)
    if bool(radii.isnan().any()):
        raise ValueError(f"radii: got nan at {radii.isnan().nonzero()[0].tolist()}; takes numbers")
    x, y = x.to(radii.dtype), y.to(radii.dtype)
    counts = torch.zeros(x.shape[:2], dtype=torch.int64, device=x.device)
    for q in range(0, x.shape[1], _ROWS):
        own = torch.arange(q, min(q + _ROWS, x.shape[1]), device=x.device)
        for r in range(0, y.shape[1], _COLUMNS):
            d = distances(x[:, q : q + _ROWS], y[:, r : r + _COLUMNS])
            bound = radii[:, None, r : r + _COLUMNS] if per_reference else radii[:, q : q + _ROWS, None]
            within = d < bound if strict else d <= bound
            if exclude_self:
                within &= torch.arange(r, r + d.shape[2], device=x.device) != own[:, None]
            counts[:, q : q + _ROWS] += within.sum(2)
    return counts
