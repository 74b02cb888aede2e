"""The compiled op ``gmkern::noise``: its fake kernel and the handle that the public functions call."""

from __future__ import annotations

import torch
from torch import Tensor

from gmkern._library import ops

KINDS = ("uniform", "normal", "gumbel")

noise = ops.noise.default


@torch.library.register_fake("gmkern::noise")
def _(seed: Tensor, sample_ids: Tensor, step: Tensor, n: int, stream: int, kind: int, fp64: bool) -> Tensor:
    torch._check(n >= 0)
    return sample_ids.new_empty((sample_ids.shape[0], n), dtype=torch.float64 if fp64 else torch.float32)
