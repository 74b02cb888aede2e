"""The k nearest in Triton: the CPU's distances, in the same order (distance, index) as everywhere.

Large searches are screened by tensor cores first (``triton_screen.py``). The direct search computes the differences of
all pairs. Up to k = 64 in float32 its selection is fused: a candidate is one integer, its distance's order-preserving
bits above its index, so that the least integer is the nearest, ties to the lower index; each program keeps the k least
of a part of the references, and the parts are merged. Otherwise distances of some queries are written, and sorted.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from gmkern.neighbors.knn.triton_screen import MOST_NEAR, PER_NEIGHBOR, screened, screening_can
from gmkern.neighbors.reference import captured
from gmkern.neighbors.triton_distances import (
    SKIPPED,
    distance_tile,
    from_keys,
    is_fp64,
    key_of,
    lanes_of,
    programs,
    rows_of_batch,
)
from gmkern.neighbors.triton_screening import all_finite, done_over, left_out, read_flags, screening_pays

_LAST = tl.constexpr((1 << 63) - 1)  # behind every candidate
_NUMBERS = 4096  # of a tile: sixteen lanes of 256 pairs, or fewer lanes of more
_FUSED = 64  # the largest k that is selected in registers
_CELLS = 1 << 26  # distances that are written together
_WARPS = 4
_AUTOMATIC, _DIRECT, _SCREENED = range(3)  # methods
_BY_HALVES = 5  # the method that a course tells


@triton.jit
def nearest_kernel(
    queries, references, selves, keys, n, m, dim, part,
    METRIC: tl.constexpr, LANES: tl.constexpr, N: tl.constexpr, M: tl.constexpr, K: tl.constexpr,
):  # fmt: skip
    """keys [B, N, parts, K]: the K least of each part, ascending; K is 1 or M. Row i leaves out reference selves[i].

    A tile of rows that are all SKIPPED ends at once, and its keys say nothing.
    """
    batch, row = rows_of_batch(n, N)
    own = tl.load(selves + row, mask=row < n, other=SKIPPED)
    first = tl.program_id(1) * part
    last = tl.where(tl.max(own, 0) == SKIPPED, first, tl.minimum(first + part, m))
    best = tl.full([N, K], _LAST, tl.int64)
    for start in range(first, last, M):
        column = start + tl.arange(0, M)
        distance = distance_tile(
            queries + batch * n * dim, references + batch * m * dim, row, n, column, last, dim, METRIC, False, LANES,
            N, M,
        )  # fmt: skip
        allowed = (column < last)[None, :] & (own[:, None] != column[None, :])
        key = tl.where(allowed, key_of(distance, column[None, :]), _LAST)
        if K == 1:
            best = tl.minimum(best, tl.min(key, 1)[:, None])
        else:
            nearer = tl.min(key, 1) < tl.max(best, 1)
            if tl.max(nearer.to(tl.int32), 0) > 0:
                both = tl.sort(tl.reshape(tl.join(best, key), [N, 2 * K]), dim=1)
                best, _ = tl.split(tl.permute(tl.reshape(both, [N, 2, K]), [0, 2, 1]))
    to = ((batch * n + row[:, None]) * tl.num_programs(1) + tl.program_id(1)) * K + tl.arange(0, K)[None, :]
    tl.store(keys + to, best, mask=(row < n)[:, None])


@triton.jit
def distances_kernel(
    queries, references, selves, distances, begin, n, m, dim,
    METRIC: tl.constexpr, FP64: tl.constexpr, LANES: tl.constexpr, N: tl.constexpr, M: tl.constexpr,
):  # fmt: skip
    """distances [rows, M] of one batch's queries from ``begin`` on; NaN at reference selves[i] of row i."""
    across = tl.cdiv(m, M)
    place = tl.program_id(0) // across * N + tl.arange(0, N)
    row = begin + place
    column = tl.program_id(0) % across * M + tl.arange(0, M)
    distance = distance_tile(queries, references, row, n, column, m, dim, METRIC, FP64, LANES, N, M)
    own = tl.load(selves + row, mask=row < n, other=-1)
    distance = tl.where(own[:, None] == column[None, :], float("nan"), distance)
    to = distances + place.to(tl.int64)[:, None] * m + column[None, :]
    tl.store(to, distance, mask=(row < n)[:, None] & (column < m)[None, :])


def knn(
    queries: Tensor, references: Tensor, k: int, metric: int, exclude_self: bool, block_rows: int, method: int
) -> tuple[Tensor, Tensor]:
    """As the op ``gmkern::knn``, of its methods the first three; block_rows is the CPU's.

    Waits for the device once; while a graph is captured it does not, and points that are not finite become distances of
    NaN, with indices 0.
    """
    return _search(queries, references, k, metric, exclude_self, method)[:2]


def knn_course(queries: Tensor, references: Tensor, k: int, metric: int, exclude_self: bool, method: int) -> Tensor:
    """As the op ``gmkern::knn_course``; a screened search's method is 5."""
    counts = _search(queries, references, k, metric, exclude_self, method)[2]
    if counts is None:
        return torch.tensor([[_DIRECT, 0, 0, 0]] * len(queries), device=queries.device).reshape(-1, 4)
    certified = counts >= 0
    method_and_rows = torch.tensor([_BY_HALVES, queries.shape[1]], device=queries.device).expand(len(queries), 2)
    tallies = torch.stack([certified.sum(1), counts.clamp(min=0).sum(1)], 1)
    return torch.cat([method_and_rows, tallies], 1)


def _search(
    queries: Tensor, references: Tensor, k: int, metric: int, exclude_self: bool, method: int
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Distances and indices [B, N, k]; candidates [B, N], -1 for a row not certified, where the search is screened."""
    can = screening_can(k, queries.shape[2], metric, is_fp64(queries))
    if not (_AUTOMATIC <= method <= (_SCREENED if can else _DIRECT)):
        takes = f"0 or 1, and on a GPU 2 for euclidean distances in float32 and k <= {MOST_NEAR}"
        raise ValueError(f"method: got {method}; takes {takes}")
    (batch, n, dim), m = queries.shape, references.shape[1]
    pays = can and screening_pays(n, m, dim, PER_NEIGHBOR * k)
    with torch.cuda.device_of(queries):
        selves = left_out(n, exclude_self, queries.device)
        counts = lost = None
        if n and batch and (pays if method == _AUTOMATIC else method == _SCREENED):
            each = [screened(x, y, k, metric, exclude_self) for x, y in zip(queries, references, strict=True)]
            keys, counts = (torch.stack(part) for part in zip(*each, strict=True))
            found, lost = from_keys(keys), counts < 0
        else:
            found = _direct(queries, references, k, metric, selves)

        def direct(b: int, rows: Tensor | slice, own: Tensor) -> tuple[Tensor, Tensor]:
            return _direct(queries[b, rows][None], references[b : b + 1], k, metric, own)

        blind = captured(queries)
        some = [] if blind else read_flags(queries, references, *([] if lost is None else [lost.any()]))
        if lost is not None and (blind or any(some)):
            done_over(found, lost, selves, direct)
        if blind:
            finite = all_finite(queries, references)
            found = torch.where(finite, found[0], torch.nan), torch.where(finite, found[1], 0)
        return *found, counts


def _direct(queries: Tensor, references: Tensor, k: int, metric: int, selves: Tensor) -> tuple[Tensor, Tensor]:
    """The differences of all pairs; row i of each batch leaves out reference selves[i]."""
    fused = k <= _FUSED and not is_fp64(queries)
    return (_fused if fused else _sorted)(queries, references, k, metric, selves)


def _fused(queries: Tensor, references: Tensor, k: int, metric: int, selves: Tensor) -> tuple[Tensor, Tensor]:
    (batch, n, dim), m = queries.shape, references.shape[1]
    kept = 1 if k == 1 else max(16, triton.next_power_of_2(k))
    rows, columns = fused_tile(dim, kept)
    parts, part = programs(triton.cdiv(n, rows), batch, m, columns)
    keys = queries.new_empty((batch, n, parts, kept), dtype=torch.int64)
    if keys.numel():
        nearest_kernel[(triton.cdiv(n, rows) * batch, parts)](
            queries, references, selves, keys, n, m, dim, part,
            METRIC=metric, LANES=lanes_of(dim), N=rows, M=columns, K=kept, num_warps=_WARPS, enable_fp_fusion=False,
        )  # fmt: skip
    return from_keys(keys.flatten(2).sort(2).values[..., :k] if parts > 1 else keys[:, :, 0, :k])


def fused_tile(dim: int, kept: int) -> tuple[int, int]:
    """Rows and columns of a tile whose nearest are selected in registers; columns are ``kept`` where that is not 1."""
    pairs = _NUMBERS // lanes_of(dim)
    columns = kept if kept > 1 else min(64, pairs // 16)
    return min(64, pairs // columns), columns


def _sorted(queries: Tensor, references: Tensor, k: int, metric: int, selves: Tensor) -> tuple[Tensor, Tensor]:
    (batch, n, dim), m = queries.shape, references.shape[1]
    real = torch.float64 if is_fp64(queries) else torch.float32
    distances = queries.new_empty((batch, n, k), dtype=real)
    indices = queries.new_empty((batch, n, k), dtype=torch.int64)
    tile = 8 if real == torch.float64 else 16
    rows = max(tile, _CELLS // max(1, m) // tile * tile)
    block = queries.new_empty((min(rows, n), m), dtype=real)
    for b in range(batch):
        for begin in range(0, n, rows):
            count = min(rows, n - begin)
            distances_kernel[(triton.cdiv(count, tile) * triton.cdiv(m, tile),)](
                queries[b], references[b], selves, block, begin, n, m, dim,
                METRIC=metric, FP64=real == torch.float64, LANES=lanes_of(dim), N=tile, M=tile,
                num_warps=_WARPS, enable_fp_fusion=False,
            )  # fmt: skip
            value, order = block[:count].sort(dim=1, stable=True)  # NaN comes last
            distances[b, begin : begin + count] = value[:, :k]
            indices[b, begin : begin + count] = order[:, :k]
    return distances, indices
