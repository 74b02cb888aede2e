"""Counts within radii in Triton: the differences of all pairs, or those that tensor cores leave in doubt."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from gmkern.neighbors.count_within.triton_screen import screened, screening_can, screening_pays
from gmkern.neighbors.reference import captured
from gmkern.neighbors.triton_distances import (
    SKIPPED,
    all_finite,
    distance_tile,
    is_fp64,
    lanes_of,
    programs,
    read_flags,
)

_WARPS = 4
_DIRECT, _SCREENED = 1, 2  # methods; 0 is the sooner


@triton.jit
def count_kernel(
    queries, references, radii, selves, counts, n, m, dim, part,
    PER_REFERENCE: tl.constexpr, STRICT: tl.constexpr, FP64: tl.constexpr, LANES: tl.constexpr,
    N: tl.constexpr, M: tl.constexpr,
):  # fmt: skip
    """Adds to counts [B, N] those of one part of the references; whole numbers, so in any order.

    Row i leaves out reference selves[i]; a tile of rows that are all SKIPPED ends at once.
    """
    batch = tl.program_id(2).to(tl.int64)
    row = tl.program_id(0) * N + tl.arange(0, N)
    first = tl.program_id(1) * part
    own = tl.load(selves + row, mask=row < n, other=SKIPPED)
    last = tl.where(tl.max(own, 0) == SKIPPED, first, tl.minimum(first + part, m))
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
        within &= (column < last)[None, :] & (own[:, None] != column[None, :])
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
    """As the op ``gmkern::count_within``, of its methods the first three.

    Waits for the device once; while a graph is captured it does not, and numbers that it does not take become counts
    of -1.
    """
    (batch, n, dim), m = queries.shape, references.shape[1]
    can = screening_can(n, m, dim, is_fp64(queries))
    if not 0 <= method <= (_SCREENED if can else _DIRECT):
        raise ValueError(f"method: got {method}; takes 0 or 1, and on a GPU 2 for points of float32")
    with torch.cuda.device_of(queries):
        selves = torch.arange(n, dtype=torch.int32, device=queries.device)
        selves = selves if exclude_self else torch.full_like(selves, -1)
        pays = can and screening_pays(n, m, dim)
        had_room = None
        if batch and n and m and (pays if method == 0 else method == _SCREENED):
            sets = zip(queries, references, radii, strict=True)
            each = [screened(x, y, r, per_reference, strict, exclude_self) for x, y, r in sets]
            counts, had_room = (torch.stack(part) for part in zip(*each, strict=True))
        else:
            counts = _direct(queries, references, radii, selves, per_reference, strict)
        if captured(queries):
            for b in range(batch if had_room is not None else 0):
                own = torch.where(had_room[b], SKIPPED.value, selves)
                one = slice(b, b + 1)
                again = _direct(queries[one], references[one], radii[one], own, per_reference, strict)
                counts[b] = torch.where(had_room[b], counts[b], again[0])
            return torch.where(all_finite(queries, references) & ~radii.isnan().any(), counts, -1)
        crowded = [] if had_room is None else [~had_room.all()]
        nan, *crowded = read_flags(queries, references, radii.isnan().any(), *crowded)
        _refuse_nan(radii, nan)
        for b in range(batch) if crowded == [True] else ():
            left = (~had_room[b]).nonzero().squeeze(1)
            bounds = radii[b : b + 1] if per_reference else radii[b, left][None]
            again = _direct(
                queries[b, left][None], references[b : b + 1], bounds, selves[left], per_reference, strict
            )  # fmt: skip
            counts[b, left] = again[0]
        return counts


def _refuse_nan(radii: Tensor, found: bool) -> None:
    if found:
        raise ValueError(f"radii: got nan at {radii.isnan().nonzero()[0].tolist()}; takes numbers")


def _direct(
    queries: Tensor, references: Tensor, radii: Tensor, selves: Tensor, per_reference: bool, strict: bool
) -> Tensor:
    """The differences of all pairs; row i of each batch leaves out reference selves[i]."""
    (batch, n, dim), m = queries.shape, references.shape[1]
    counts = queries.new_zeros((batch, n), dtype=torch.int64)
    tile = 8 if is_fp64(queries) else 16
    parts, part = programs(triton.cdiv(n, tile), batch, m, tile)
    if counts.numel() and m:
        count_kernel[(triton.cdiv(n, tile), parts, batch)](
            queries, references, radii, selves, counts, n, m, dim, part,
            PER_REFERENCE=per_reference, STRICT=strict, FP64=is_fp64(queries), LANES=lanes_of(dim),
            N=tile, M=tile, num_warps=_WARPS, enable_fp_fusion=False,
        )  # fmt: skip
    return counts
