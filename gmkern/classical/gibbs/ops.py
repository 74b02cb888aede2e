"""The op ``gmkern::gibbs_chain``: its fake kernel. Draws of 0 and 1 have no gradient."""

from __future__ import annotations

import torch
from torch import Tensor

from gmkern._interrupt import audible
from gmkern._library import ops

gibbs_chain = audible(ops.gibbs_chain.default)


@torch.library.register_fake("gmkern::gibbs_chain")
def _(
    weight: Tensor,
    visible_bias: Tensor,
    hidden_bias: Tensor,
    visible: Tensor,
    seed: Tensor,
    sample_ids: Tensor,
    first_step: Tensor,
    steps: int,
) -> tuple[Tensor, Tensor]:
    return torch.empty_like(visible), visible.new_empty((visible.shape[0], weight.shape[0]))
