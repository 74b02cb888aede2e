"""Block Gibbs sampling in plain PyTorch."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from gmkern.random import reference as noise
from gmkern.random.streams import GIBBS


def gibbs_chain(
    weight: Tensor,
    visible_bias: Tensor,
    hidden_bias: Tensor,
    visible: Tensor,
    seed: Tensor,
    sample_ids: Tensor,
    first_step: Tensor,
    steps: int,
) -> tuple[Tensor, Tensor]:
    """As the op ``gmkern::gibbs_chain``, in ``visible``'s dtype."""

    def drawn(logits: Tensor, step: Tensor) -> Tensor:
        u = noise.uniform(seed, sample_ids, step, logits.shape[1], GIBBS, logits.dtype)
        return (u < torch.sigmoid(logits)).to(logits.dtype)

    hidden = visible.new_empty(len(visible), len(weight))
    for t in range(steps):
        step = 2 * (first_step + t)
        hidden = drawn(F.linear(visible, weight, hidden_bias), step)
        visible = drawn(F.linear(hidden, weight.t(), visible_bias), step + 1)
    return visible, hidden
