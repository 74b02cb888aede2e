"""Distances of a tile of points in Triton, in the written order of sums (docs/neighbors.md).

Operation for operation ``gmkern/neighbors/reference.py``; launch with ``enable_fp_fusion=False``.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from gmkern.neighbors.reference import LANES

SKIPPED = tl.constexpr(-2)  # instead of the reference that a row leaves out: the row has no part in a search
# The numbers of the op's metrics; 1 is the squared distance.
_EUCLIDEAN, _MANHATTAN, _CHEBYSHEV, _INNER_PRODUCT = map(tl.constexpr, (0, 2, 3, 4))


@triton.jit
def _fold(lanes, N: tl.constexpr, M: tl.constexpr, HALF: tl.constexpr, MAXIMUM: tl.constexpr):
    """Lanes i and i + HALF of [N, M, 2 HALF], added or compared."""
    low, high = tl.split(tl.permute(tl.reshape(lanes, [N, M, 2, HALF]), [0, 1, 3, 2]))
    return tl.maximum(low, high) if MAXIMUM else low + high


@triton.jit
def distance_tile(
    queries, references, row, n, column, m, dim,
    METRIC: tl.constexpr, FP64: tl.constexpr, LANES: tl.constexpr, N: tl.constexpr, M: tl.constexpr,
):  # fmt: skip
    """Distances [N, M] of queries ``row`` [N] and references ``column`` [M]; those outside of n and m are of zeros.

    LANES is :func:`lanes_of` dim: lanes that no coordinate falls to are zeros, and adding them changes nothing.
    """
    real: tl.constexpr = tl.float64 if FP64 else tl.float32
    lane = tl.arange(0, LANES)
    sums = tl.zeros([N, M, LANES], real)
    for start in range(0, dim, LANES):
        inside = start + lane < dim
        x_at = queries + row.to(tl.int64)[:, None] * dim + (start + lane)[None, :]
        y_at = references + column.to(tl.int64)[:, None] * dim + (start + lane)[None, :]
        x = tl.load(x_at, mask=(row < n)[:, None] & inside[None, :], other=0.0).to(real)[:, None, :]
        y = tl.load(y_at, mask=(column < m)[:, None] & inside[None, :], other=0.0).to(real)[None, :, :]
        if METRIC == _INNER_PRODUCT:
            sums += x * y
        elif METRIC == _CHEBYSHEV:
            sums = tl.maximum(sums, tl.abs(x - y))
        elif METRIC == _MANHATTAN:
            sums += tl.abs(x - y)
        else:
            e = x - y
            sums += e * e
    if LANES >= 16:
        sums = _fold(sums, N, M, 8, METRIC == _CHEBYSHEV)
    if LANES >= 8:
        sums = _fold(sums, N, M, 4, METRIC == _CHEBYSHEV)
    if LANES >= 4:
        sums = _fold(sums, N, M, 2, METRIC == _CHEBYSHEV)
    if LANES >= 2:
        sums = _fold(sums, N, M, 1, METRIC == _CHEBYSHEV)
    distance = tl.reshape(sums, [N, M])
    if METRIC == _INNER_PRODUCT:
        distance = 0.0 - distance
        distance = tl.where(distance == distance, distance, float("inf"))  # a sum of infinities of both signs
    if METRIC == _EUCLIDEAN:
        distance = tl.sqrt(distance) if FP64 else tl.sqrt_rn(distance)
    return distance


@triton.jit
def rows_of_batch(n, N: tl.constexpr):
    """(batch, rows [N]) of program_id(0), which counts tiles of n rows, batch by batch: other axes end at 65,535."""
    tiles = tl.cdiv(n, N)
    batch = (tl.program_id(0) // tiles).to(tl.int64)
    return batch, tl.program_id(0) % tiles * N + tl.arange(0, N)


@triton.jit
def key_of(distance, index):
    """One integer of a float32 distance and an index below 2^32: their order, by distance and then by index."""
    bits = distance.to(tl.int32, bitcast=True)
    order = bits ^ ((bits >> 31) & 0x7FFFFFFF)
    return (order.to(tl.int64) << 32) | index.to(tl.int64)


def from_keys(keys: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The distances and indices that :func:`key_of` joined."""
    order = (keys >> 32).to(torch.int32)
    return (order ^ ((order >> 31) & 0x7FFFFFFF)).view(torch.float32), keys & 0xFFFFFFFF


def lanes_of(dim: int) -> int:
    """Lanes of a tile of points: sixteen, or as many as there are coordinates, up to a power of two."""
    return min(LANES, triton.next_power_of_2(dim))


def programs(rows: int, batch: int, references: int, tile: int) -> tuple[int, int]:
    """Into how many parts the references are cut for ``rows`` programs a batch, and how many each part has.

    Enough programs for a large GPU, each part a multiple of ``tile``; where the cuts lie changes no result.
    """
    wanted = max(1, 2048 // max(1, rows * batch))
    part = max(64 * tile, triton.cdiv(references, wanted * tile) * tile)
    return triton.cdiv(references, part), part


def is_fp64(points: torch.Tensor) -> bool:
    """Whether sums are float64: for points of float64 alone."""
    return points.dtype == torch.float64
