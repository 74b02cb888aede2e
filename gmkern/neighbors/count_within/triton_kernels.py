"""Counts within radii in Triton: the differences of all pairs, counted in registers."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from gmkern.neighbors.reference import check_finite
from gmkern.neighbors.triton_distances import distance_tile, is_fp64, lanes_of, programs

_WARPS = 4


@triton.jit
def count_kernel(
    queries, references, radii, counts, n, m, dim, part, exclude_self,
    PER_REFERENCE: tl.constexpr, STRICT: tl.constexpr, FP64: tl.constexpr, LANES: tl.constexpr,
    N: tl.constexpr, M: tl.constexpr,
):  # fmt: skip
    """Adds to counts [B, N] those of one part of the references; whole numbers, so in any order."""
    batch = tl.program_id(2).to(tl.int64)
    row = tl.program_id(0) * N + tl.arange(0, N)
    first = tl.program_id(1) * part
    last = tl.minimum(first + part, m)
    total = tl.zeros([N], tl.int64)
    for start in range(first, last, M):
        column = start + tl.arange(0, M)
        distance = distance_tile(
            queries + batch * n * dim, references + batch * m * dim, row, n, column, last, dim, 0, FP64, LANES, N, M
        )
        if PER_REFERENCE:
            bound = tl.load(radii + batch * m + column, mask=column < last, other=-1.0)[None, :]
        else:
            bound = tl.load(radii + batch * n + row, mask=row < n, other=-1.0)[:, None]
        within = distance < bound if STRICT else distance <= bound
        within &= (column < last)[None, :] & ((row[:, None] != column[None, :]) | (exclude_self == 0))
        total += tl.sum(within.to(tl.int64), 1)
    tl.atomic_add(counts + batch * n + row, total, mask=row < n)


def count_within(
    queries: Tensor,
    references: Tensor,
    radii: Tensor,
    per_reference: bool,
    strict: bool,
    exclude_self: bool,
    method: int,
) -> Tensor:
    """As the op ``gmkern::count_within``; method, which changes no result, is the CPU's. Synchronises once."""
    check_finite("queries", queries)
    check_finite("references", references)
    if bool(radii.isnan().any()):
        raise ValueError(f"radii: got nan at {radii.isnan().nonzero()[0].tolist()}; takes numbers")
    (batch, n, dim), m = queries.shape, references.shape[1]
    counts = queries.new_zeros((batch, n), dtype=torch.int64)
    tile = 8 if is_fp64(queries) else 16
    parts, part = programs(triton.cdiv(n, tile), batch, m, tile)
    if counts.numel() and m:
        with torch.cuda.device_of(queries):
            count_kernel[(triton.cdiv(n, tile), parts, batch)](
                queries, references, radii, counts, n, m, dim, part, int(exclude_self),
                PER_REFERENCE=per_reference, STRICT=strict, FP64=is_fp64(queries), LANES=lanes_of(dim),
                N=tile, M=tile,
                num_warps=_WARPS, enable_fp_fusion=False,
            )  # fmt: skip
    return counts
