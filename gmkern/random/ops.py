"""The op ``gmkern::noise``: compiled for CPU tensors in C++, for CUDA tensors in Triton; its fake kernel."""

from __future__ import annotations

import torch
from torch import Tensor

from gmkern._interrupt import audible
from gmkern._library import ops

KINDS = ("uniform", "normal", "gumbel")

noise = audible(ops.noise.default)


@torch.library.register_fake("gmkern::noise")
def _(seed: Tensor, sample_ids: Tensor, step: Tensor, n: int, stream: int, kind: int, fp64: bool) -> Tensor:
    torch._check(n >= 0)
    return sample_ids.new_empty((sample_ids.shape[0], n), dtype=torch.float64 if fp64 else torch.float32)


@torch.library.register_kernel("gmkern::noise", "cuda")
def _(seed: Tensor, sample_ids: Tensor, step: Tensor, n: int, stream: int, kind: int, fp64: bool) -> Tensor:
    from gmkern.random import triton_kernels  # Triton is optional, and slow to import

    return triton_kernels.noise(seed, sample_ids, step, n, stream, kind, fp64)
