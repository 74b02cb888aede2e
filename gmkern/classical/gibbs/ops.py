"""The op ``gmkern::gibbs_chain``: its fake kernel. Draws of 0 and 1 have no gradient."""

from __future__ import annotations

from typing import Any

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


@torch.library.register_kernel("gmkern::gibbs_chain", "cuda")
def _(*args: Any) -> tuple[Tensor, Tensor]:
    from gmkern.classical.gibbs import triton_kernels  # Triton is optional, and slow to import

    return triton_kernels.gibbs_chain(*args)
