"""The k nearest in Triton: the differences of all pairs, and the same order (distance, index) as everywhere.

Up to k = 64 in float32 the selection is fused: a candidate is one integer, its distance's order-preserving bits above
its index, so that the least integer is the nearest, ties to the lower index; each program keeps the k least of a part
of the references, and the parts are merged. Otherwise distances of some queries are written, and sorted.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from gmkern.neighbors.reference import check_finite
from gmkern.neighbors.triton_distances import distance_tile, is_fp64, programs

_LAST = tl.constexpr((1 << 63) - 1)  # behind every candidate
_PAIRS = 256  # of a tile
_FUSED = 64  # the largest k that is selected in registers
_CELLS = 1 << 26  # distances that are written together
_WARPS = 4


@triton.jit
def nearest_kernel(
    queries, references, keys, n, m, dim, part, exclude_self,
    METRIC: tl.constexpr, N: tl.constexpr, M: tl.constexpr, K: tl.constexpr,
):  # fmt: skip
    """keys [B, N, parts, K]: the K least of each part, ascending; K is 1 or M."""
    batch = tl.program_id(2).to(tl.int64)
    row = tl.program_id(0) * N + tl.arange(0, N)
    first = tl.program_id(1) * part
    last = tl.minimum(first + part, m)
    best = tl.full([N, K], _LAST, tl.int64)
    for start in range(first, last, M):
        column = start + tl.arange(0, M)
        distance = distance_tile(
            queries + batch * n * dim, references + batch * m * dim, row, n, column, last, dim, METRIC, False, N, M
        )
        bits = distance.to(tl.int32, bitcast=True)
        order = bits ^ ((bits >> 31) & 0x7FFFFFFF)
        key = (order.to(tl.int64) << 32) | column.to(tl.int64)[None, :]
        allowed = (column < last)[None, :] & ((row[:, None] != column[None, :]) | (exclude_self == 0))
        key = tl.where(allowed, key, _LAST)
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
    queries, references, distances, begin, n, m, dim, exclude_self,
    METRIC: tl.constexpr, FP64: tl.constexpr, N: tl.constexpr, M: tl.constexpr,
):  # fmt: skip
    """distances [rows, M] of one batch's queries from ``begin`` on; NaN where a reference is excluded."""
    place = tl.program_id(0) * N + tl.arange(0, N)
    row = begin + place
    column = tl.program_id(1) * M + tl.arange(0, M)
    distance = distance_tile(queries, references, row, n, column, m, dim, METRIC, FP64, N, M)
    excluded = (row[:, None] == column[None, :]) & (exclude_self != 0)
    distance = tl.where(excluded, float("nan"), distance)
    to = distances + place.to(tl.int64)[:, None] * m + column[None, :]
    tl.store(to, distance, mask=(row < n)[:, None] & (column < m)[None, :])


def knn(
    queries: Tensor, references: Tensor, k: int, metric: int, exclude_self: bool, block_rows: int, method: int
) -> tuple[Tensor, Tensor]:
    """As the op ``gmkern::knn``; block_rows and method, which change no result, are the CPU's. Synchronises once."""
    check_finite("queries", queries)
    check_finite("references", references)
    with torch.cuda.device_of(queries):
        if k <= _FUSED and not is_fp64(queries):
            return _fused(queries, references, k, metric, exclude_self)
        return _sorted(queries, references, k, metric, exclude_self)


def _fused(queries: Tensor, references: Tensor, k: int, metric: int, exclude_self: bool) -> tuple[Tensor, Tensor]:
    (batch, n, dim), m = queries.shape, references.shape[1]
    kept = 1 if k == 1 else max(16, triton.next_power_of_2(k))
    columns = max(16, kept)
    rows = _PAIRS // columns
    parts, part = programs(triton.cdiv(n, rows), batch, m, columns)
    keys = queries.new_empty((batch, n, parts, kept), dtype=torch.int64)
    if keys.numel():
        nearest_kernel[(triton.cdiv(n, rows), parts, batch)](
            queries, references, keys, n, m, dim, part, int(exclude_self),
            METRIC=metric, N=rows, M=columns, K=kept, num_warps=_WARPS, enable_fp_fusion=False,
        )  # fmt: skip
    near = keys.flatten(2).sort(2).values[..., :k] if parts > 1 else keys[:, :, 0, :k]
    order = (near >> 32).to(torch.int32)
    return (order ^ ((order >> 31) & 0x7FFFFFFF)).view(torch.float32), near & 0xFFFFFFFF


def _sorted(queries: Tensor, references: Tensor, k: int, metric: int, exclude_self: bool) -> tuple[Tensor, Tensor]:
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
            distances_kernel[(triton.cdiv(count, tile), triton.cdiv(m, tile))](
                queries[b], references[b], block, begin, n, m, dim, int(exclude_self),
                METRIC=metric, FP64=real == torch.float64, N=tile, M=tile,
                num_warps=_WARPS, enable_fp_fusion=False,
            )  # fmt: skip
            value, order = block[:count].sort(dim=1, stable=True)  # NaN comes last
            distances[b, begin : begin + count] = value[:, :k]
            indices[b, begin : begin + count] = order[:, :k]
    return distances, indices
