"""What derivatives by autograd inside a backward pass need."""

from __future__ import annotations

import torch
from torch import Tensor


def starts(*tensors: Tensor) -> list[Tensor]:
    """Tensors of the same values at which a gradient stops. Where a graph of the backward pass itself is made
    (``create_graph``), they are linked to the given ones, so that further derivatives are right."""
    linked = torch.is_grad_enabled()
    return [t.view_as(t) if linked and t.requires_grad else t.detach().requires_grad_() for t in tensors]
