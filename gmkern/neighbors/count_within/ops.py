"""The op ``gmkern::count_within``: its fake kernel. Counts have no gradient."""

from __future__ import annotations

import torch
from torch import Tensor

from gmkern._library import ops

count_within = ops.count_within.default


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
