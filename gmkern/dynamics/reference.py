"""What the references of several ops share: vectors in a periodic box, in plain PyTorch."""

from __future__ import annotations

import torch
from torch import Tensor


def nearest_image(d: Tensor, cell: Tensor, inverse: Tensor) -> Tensor:
    """The nearest images of vectors d [S, ..., D] in boxes [0 | 1 | S, D, D] (systems.Box); differentiable."""
    if not cell.shape[0]:
        return d
    shape = (-1, *[1] * (d.ndim - 3), *cell.shape[1:])
    images = torch.round(d.detach() @ inverse.to(d.dtype).reshape(shape))
    return d - images @ cell.to(d.dtype).reshape(shape)
