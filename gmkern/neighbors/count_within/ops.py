"""The op ``gmkern::count_within``: its fake kernel. Counts have no gradient."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gmkern._interrupt import audible
from gmkern._library import ops

count_within = audible(ops.count_within.default)


@torch.library.register_fake("gmkern::count_within")
def _(
    queries: Tensor,
    references: Tensor,
    radii: Tensor,
    per_reference: bool,
    strict: bool,
    exclude_self: bool,
    method: int,
) -> Tensor:
    torch._check(references.shape[0] == queries.shape[0])
    torch._check(references.shape[2] == queries.shape[2])
    return queries.new_empty(queries.shape[:2], dtype=torch.int64)


@torch.library.register_kernel("gmkern::count_within", "cuda")
def _(*args: Any) -> Tensor:
    from gmkern.neighbors.count_within import triton_kernels  # Triton is optional, and slow to import

    return triton_kernels.count_within(*args)
