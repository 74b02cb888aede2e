"""Counts within radii in Triton: the differences of all pairs, or those that tensor cores leave in doubt."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from gmkern.neighbors.count_within.triton_screen import screened, screening_can
from gmkern.neighbors.reference import captured
from gmkern.neighbors.triton_distances import SKIPPED, distance_tile, is_fp64, lanes_of, programs, rows_of_batch
from gmkern.neighbors.triton_screening import all_finite, done_over, left_out, read_flags, screening_pays

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
    batch, row = rows_of_batch(n, N)
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
        selves = left_out(n, exclude_self, queries.device)
        pays = can and screening_pays(n, m, dim)
        lost = None
        if batch and n and m and (pays if method == 0 else method == _SCREENED):
            sets = zip(queries, references, radii, strict=True)
            each = [screened(x, y, r, per_reference, strict, exclude_self) for x, y, r in sets]
            counts, had_room = (torch.stack(part) for part in zip(*each, strict=True))
            lost = ~had_room
        else:
            counts = _direct(queries, references, radii, selves, per_reference, strict)

        def direct(b: int, rows: Tensor | slice, own: Tensor) -> tuple[Tensor]:
            bounds = radii[b : b + 1] if per_reference else radii[b, rows][None]
            return (_direct(queries[b, rows][None], references[b : b + 1], bounds, own, per_reference, strict),)

        blind, nan, some = captured(queries), radii.isnan().any(), []
        if not blind:
            told, *some = read_flags(queries, references, nan, *([] if lost is None else [lost.any()]))
            if told:
                raise ValueError(f"radii: got nan at {radii.isnan().nonzero()[0].tolist()}; takes numbers")
        if lost is not None and (blind or any(some)):
            done_over([counts], lost, selves, direct)
        return torch.where(all_finite(queries, references) & ~nan, counts, -1) if blind else counts


def _direct(
    queries: Tensor, references: Tensor, radii: Tensor, selves: Tensor, per_reference: bool, strict: bool
) -> Tensor:
    """The differences of all pairs; row i of each batch leaves out reference selves[i]."""
    (batch, n, dim), m = queries.shape, references.shape[1]
    counts = queries.new_zeros((batch, n), dtype=torch.int64)
    tile = 8 if is_fp64(queries) else 16
    parts, part = programs(triton.cdiv(n, tile), batch, m, tile)
    if counts.numel() and m:
        count_kernel[(triton.cdiv(n, tile) * batch, parts)](
            queries, references, radii, selves, counts, n, m, dim, part,
            PER_REFERENCE=per_reference, STRICT=strict, FP64=is_fp64(queries), LANES=lanes_of(dim),
            N=tile, M=tile, num_warps=_WARPS, enable_fp_fusion=False,
        )  # fmt: skip
    return counts
