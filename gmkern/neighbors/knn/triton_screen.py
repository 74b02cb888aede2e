"""The k nearest in Triton, screened by tensor cores: one pass of products, then exact distances of a few candidates.

Distances that are cheap and a bound on their error leave out nearly every reference; those left are decided by the
written order of sums, so that the result is the direct search's, to the bit. Proof:
docs/neighbors-algorithms.md, "Screened on a GPU".

1. Points become float16 numbers with measured residuals (``triton_halves.py``).
2. ``lanes_kernel`` runs over products of tiles and keeps two numbers for each lane of each part of the references,
   the least and the second least of one value per reference; the least carries its tile's number in its low bits.
3. ``sieve_kernel`` bounds the k-th distance from above by the lanes' nearest, and lists the references that may be
   within it: a lane's nearest alone, or all of a lane whose second may be within it too.
4. ``rerank_kernel`` computes their distances and sorts them. A row whose list has no room goes to the direct search.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from gmkern.neighbors.triton_distances import distance_tile, key_of, lanes_of
from gmkern.neighbors.triton_halves import (
    BEYOND,
    ETA,
    STAGES,
    Frame,
    Halves,
    Shape,
    common_residual,
    epsilon,
    frame_of,
    halves_can,
    halves_of,
    products,
    reference_terms,
    shape_here,
    stretch,
    width_of,
)

MOST_NEAR = 256  # neighbours that a program sorts in registers
_LANES = 4096  # at most, of one row: they stand in the registers of one program
_MEMBERS = 256  # at most, of a lane: eight bits of a value name one
_FEWEST_LANES, _LANES_PER_NEIGHBOR = 512, 16
_CELLS = 1 << 25  # lanes of all rows that are written together
_HALVES = 1 << 29  # numbers of the references that are rounded together
_SMALL = 4  # warps of the programs that a row has for itself

PER_NEIGHBOR = 32  # references to each neighbour wanted, for screening to pay; by reckoning, not measured


def screening_can(k: int, dim: int, metric: int, fp64: bool) -> bool:
    """Whether a search can be screened: euclidean and squared distances in float32."""
    return metric <= 1 and not fp64 and k <= MOST_NEAR and halves_can(dim)


class Plan(NamedTuple):
    """How references are cut: ``columns`` tiles, ``tiles`` of them to a part, a quarter of a tile's columns lanes."""

    shape: Shape
    columns: int
    tiles: int
    lanes: int
    """Of a row, in all parts."""
    capacity: int
    """Candidates that a row has room for."""


def plan_of(m: int, shape: Shape, k: int) -> Plan:
    """For m references. About k^2 / 2 L pairs of the k nearest share one of L lanes; all of it are candidates then."""
    columns, each = triton.cdiv(m, shape.m), shape.m // 4
    wanted = max(_FEWEST_LANES, _LANES_PER_NEIGHBOR * k)
    tiles = max(triton.cdiv(columns * each, _LANES), min(_MEMBERS // 4, columns * each // wanted))
    lanes = triton.cdiv(columns, tiles) * each
    return Plan(shape, columns, tiles, lanes, triton.next_power_of_2(4 * k + 256 + 16 * tiles))


@triton.jit
def _halved(tile, N: tl.constexpr, M: tl.constexpr):
    """The first and the second half of the columns of [N, M]."""
    return tl.split(tl.permute(tl.reshape(tile, [N, 2, M // 2]), [0, 2, 1]))


@triton.jit
def _numbered(value, number, MASK: tl.constexpr):
    """float32 values with their low bits given to a number: still in order, to within those bits."""
    return ((value.to(tl.int32, bitcast=True) & ~MASK) | number).to(tl.float32, bitcast=True)


@triton.jit
def lanes_kernel(
    x, y, terms, nearest, second, columns, tiles, lanes, own,
    WIDTH: tl.constexpr, CHUNK: tl.constexpr, MASK: tl.constexpr, EXCLUDE: tl.constexpr, N: tl.constexpr,
    M: tl.constexpr,
):  # fmt: skip
    """nearest, second [rows, lanes]: the least and the second least of terms - X.Y in each lane, numbers within.

    A program has N rows and one part, ``tiles`` of the ``columns`` tiles of M references: M / 4 lanes, reference j of
    the part in lane j % (M / 4), there with number j / (M / 4). Row i leaves out reference i + own with EXCLUDE.
    """
    row = tl.program_id(0) * N + tl.arange(0, N)
    part = tl.program_id(1)
    lane = tl.arange(0, M)
    d = tl.arange(0, CHUNK)
    x_at = x + row.to(tl.int64)[:, None] * WIDTH + d[None, :]
    held = tl.load(x_at) if WIDTH == CHUNK else x_at
    least = tl.full([N, M // 4], BEYOND, tl.float32)
    next_least = tl.full([N, M // 4], BEYOND, tl.float32)
    for tile in range(tl.minimum(tiles, columns - part * tiles)):
        column = (part * tiles + tile) * M + lane
        y_at = y + column.to(tl.int64)[:, None] * WIDTH + d[None, :]
        product = products(held, x_at, y_at, WIDTH, CHUNK, N, M)
        value = tl.load(terms + column)[None, :] - product
        if EXCLUDE:
            value = tl.where(row[:, None] + own == column[None, :], BEYOND, value)
        half_a, half_b = _halved(value, N, M)
        a, b = _halved(half_a, N, M // 2)
        c, d_ = _halved(half_b, N, M // 2)
        a = _numbered(a, 4 * tile, MASK)
        b = _numbered(b, 4 * tile + 1, MASK)
        c = _numbered(c, 4 * tile + 2, MASK)
        d_ = _numbered(d_, 4 * tile + 3, MASK)
        # the least two of four, then of these and the lane's
        low_ab, low_cd = tl.minimum(a, b), tl.minimum(c, d_)
        low = tl.minimum(low_ab, low_cd)
        high = tl.minimum(tl.maximum(low_ab, low_cd), tl.minimum(tl.maximum(a, b), tl.maximum(c, d_)))
        next_least = tl.minimum(tl.minimum(next_least, high), tl.maximum(least, low))
        least = tl.minimum(least, low)
    to = row.to(tl.int64)[:, None] * lanes + (part * (M // 4) + tl.arange(0, M // 4))[None, :]
    tl.store(nearest + to, least)
    tl.store(second + to, next_least)


@triton.jit
def bounds(
    value, row_square, column_square, term, row_residual, column_residual, scatter,
    EPSILON: tl.constexpr,
):  # fmt: skip
    """(L, U): what the scaled distance of a row and a column is at least and at most, by a value of lanes_kernel.

    ``scatter`` is the share of the value that its low bits and roundings may be.
    """
    off = tl.abs(value) * scatter
    low = (value - off) + row_square * (1.0 - EPSILON)
    high = (value + off) + row_square * (1.0 + EPSILON) + (column_square * (1.0 + EPSILON) - term)
    residual = row_residual + column_residual
    lower = tl.sqrt_rn(2.0 * tl.maximum(low, 0.0)) * (1.0 - 9.5367431640625e-07) - residual
    upper = (tl.sqrt_rn(2.0 * tl.maximum(high, 0.0)) + residual) * (1.0 + 1.9073486328125e-06)
    return lower, upper


@triton.jit
def is_beyond(
    value, row_square, row_residual, common, reach, scatter, EPSILON: tl.constexpr, ETA: tl.constexpr
):  # fmt: skip
    """Whether every column with this value or a larger one is farther than ``reach`` from the row."""
    low = (value - tl.abs(value) * scatter) + row_square * (1.0 - EPSILON)
    shell = (reach + row_residual + common) * (1.0 + 1.9073486328125e-06)
    return 2.0 * low > shell * shell * (1.0 + ETA) * (1.0 + 1.9073486328125e-06)


@triton.jit
def sieve_kernel(
    nearest, second, x_squares, x_residuals, y_squares, y_residuals, terms, common, scale, candidates, counts,
    m, members, lanes, k,
    MASK: tl.constexpr, EPSILON: tl.constexpr, STRETCH: tl.constexpr, ETA: tl.constexpr, CAPACITY: tl.constexpr,
    EACH: tl.constexpr, LANES: tl.constexpr,
):  # fmt: skip
    """candidates [rows, CAPACITY] of each row and their counts [rows], -1 where there is no room for them."""
    row = tl.program_id(0).to(tl.int64)
    lane = tl.arange(0, LANES)
    first = tl.load(nearest + row * lanes + lane, mask=lane < lanes, other=BEYOND)
    after = tl.load(second + row * lanes + lane, mask=lane < lanes, other=BEYOND)
    x_square = tl.load(x_squares + row)
    x_residual = tl.load(x_residuals + row)
    scatter: tl.constexpr = (MASK + 1) * 2.384185791015625e-07  # 2^-22: twice what the low bits can say
    begin = (lane // EACH) * members * EACH + lane % EACH  # the lane's first column
    column = begin + (first.to(tl.int32, bitcast=True) & MASK) * EACH
    there = (first < 0.5 * BEYOND) & (column < m)
    y_square = tl.load(y_squares + column, mask=there, other=0.0)
    y_residual = tl.load(y_residuals + column, mask=there, other=0.0)
    term = tl.load(terms + column, mask=there, other=0.0)
    lower, upper = bounds(first, x_square, y_square, term, x_residual, y_residual, scatter, EPSILON)
    # The k-th smallest of the upper bounds, which are not negative, bit by bit from the highest.
    order = tl.where(there & (upper == upper), upper, float("inf")).to(tl.int32, bitcast=True)
    kth = 0
    for bit in tl.static_range(31):
        trial = kth | (1 << (30 - bit))
        kth = tl.where(tl.sum((order < trial).to(tl.int32), 0) < k, trial, kth)
    reach = kth.to(tl.float32, bitcast=True) * STRETCH + 1e-19 * tl.load(scale)
    single = there & ~(lower > reach)
    crowded = (after < 0.5 * BEYOND) & ~is_beyond(
        after, x_square, x_residual, tl.load(common), reach, scatter, EPSILON, ETA
    )
    single = single & ~crowded
    alone = tl.sum(single.to(tl.int32), 0)
    crowds = tl.sum(crowded.to(tl.int32), 0)
    count = alone + crowds * members
    fits = count <= CAPACITY
    tl.store(counts + row, tl.where(fits, count, -1))
    if fits:
        to = candidates + row * CAPACITY
        tl.store(to + tl.cumsum(single.to(tl.int32), 0) - 1, column, mask=single)
        if crowds > 0:
            place = alone + (tl.cumsum(crowded.to(tl.int32), 0) - 1) * members
            for member in range(members):
                tl.store(to + place + member, begin + member * EACH, mask=crowded)


@triton.jit
def rerank_kernel(
    queries, references, candidates, counts, keys, n, m, dim, first, own,
    METRIC: tl.constexpr, EXCLUDE: tl.constexpr, CAPACITY: tl.constexpr, LANES: tl.constexpr, M: tl.constexpr,
    K: tl.constexpr,
):  # fmt: skip
    """keys [n, K]: the K least of the candidates, ascending, their indices from ``first`` on; K is 1 or M."""
    row = tl.program_id(0) + tl.arange(0, 1)
    count = tl.load(counts + tl.program_id(0))
    listed = candidates + tl.program_id(0).to(tl.int64) * CAPACITY
    best = tl.full([1, K], (1 << 63) - 1, tl.int64)
    for start in range(0, count, M):
        at = start + tl.arange(0, M)
        column = tl.load(listed + at, mask=at < count, other=m)
        distance = distance_tile(queries, references, row, n, column, m, dim, METRIC, False, LANES, 1, M)
        key = key_of(distance, column[None, :] + first)
        allowed = (column < m)[None, :]
        if EXCLUDE:
            allowed &= row[:, None] + own != column[None, :]
        key = tl.where(allowed, key, (1 << 63) - 1)
        if K == 1:
            best = tl.minimum(best, tl.min(key, 1)[:, None])
        else:
            both = tl.sort(tl.reshape(tl.join(best, key), [1, 2 * K]), dim=1)
            best, _ = tl.split(tl.permute(tl.reshape(both, [1, 2, K]), [0, 2, 1]))
    tl.store(keys + tl.program_id(0).to(tl.int64) * K + tl.arange(0, K)[None, :], best)


def screened(queries: Tensor, references: Tensor, k: int, metric: int, exclude_self: bool) -> tuple[Tensor, Tensor]:
    """Keys [n, k] of the nearest for queries [n, D] among references [M, D], and the candidates of each row, int64.

    A row with -1 for its candidates was not certified: its keys mean nothing. Nothing waits for the device.
    """
    (n, dim), m = queries.shape, references.shape[0]
    shape = shape_here(queries)
    held = triton.cdiv(m, triton.cdiv(m, min(_HALVES // width_of(dim), _LANES * _MEMBERS)))  # of parts alike
    kept = 1 if k == 1 else max(16, triton.next_power_of_2(k))
    chunks = range(0, m, held)
    keys = torch.empty((len(chunks), n, kept), dtype=torch.int64, device=queries.device)
    counts = torch.empty((len(chunks), n), dtype=torch.int32, device=queries.device)
    for chunk, first in enumerate(chunks):
        part = references[first : first + held]
        frame = frame_of(part)
        y = halves_of(part, frame, shape.m)
        common = common_residual(y, len(part))
        terms = reference_terms(y, len(part), common)
        plan = plan_of(len(part), shape, k)
        rows = max(shape.n, _CELLS // plan.lanes // shape.n * shape.n)
        for begin in range(0, n, rows):
            end = min(n, begin + rows)
            _search(
                queries[begin:end], part, frame, y, common, terms, plan, k, metric, exclude_self, first, begin - first,
                keys[chunk, begin:end], counts[chunk, begin:end],
            )  # fmt: skip
    if len(chunks) == 1:
        return keys[0, :, :k], counts[0].long()
    lost = (counts < 0).any(0)
    return keys.transpose(0, 1).flatten(1).sort(1).values[:, :k], torch.where(lost, -1, counts.long().sum(0))


def _search(
    queries: Tensor,
    references: Tensor,
    frame: Frame,
    y: Halves,
    common: Tensor,
    terms: Tensor,
    plan: Plan,
    k: int,
    metric: int,
    exclude_self: bool,
    first: int,
    own: int,
    keys: Tensor,
    counts: Tensor,
) -> None:
    """Writes keys and counts of some queries among the references from ``first`` on; row i is column i + ``own``."""
    (n, dim), m = queries.shape, len(references)
    shape, width, members = plan.shape, width_of(dim), 4 * plan.tiles
    x = halves_of(queries, frame, shape.n)
    rows = len(x.values)
    nearest = queries.new_empty((rows, plan.lanes), dtype=torch.float32)
    second = torch.empty_like(nearest)
    candidates = queries.new_empty((n, plan.capacity), dtype=torch.int32)
    mask = triton.next_power_of_2(members) - 1
    lanes_kernel[(rows // shape.n, triton.cdiv(plan.columns, plan.tiles))](
        x.values, y.values, terms, nearest, second, plan.columns, plan.tiles, plan.lanes, own,
        WIDTH=width, CHUNK=shape.chunk, MASK=mask, EXCLUDE=exclude_self, N=shape.n, M=shape.m,
        num_warps=shape.warps, num_stages=STAGES, enable_fp_fusion=False,
    )  # fmt: skip
    sieve_kernel[(n,)](
        nearest, second, x.half_squares, x.residuals, y.half_squares, y.residuals, terms, common, frame.scale,
        candidates, counts, m, members, plan.lanes, k,
        MASK=mask, EPSILON=epsilon(width), STRETCH=stretch(dim), ETA=ETA, CAPACITY=plan.capacity,
        EACH=shape.m // 4, LANES=triton.next_power_of_2(plan.lanes), num_warps=sieve_warps(plan.lanes),
        enable_fp_fusion=False,
    )  # fmt: skip
    kept = keys.shape[1]
    rerank_kernel[(n,)](
        queries, references, candidates, counts, keys, n, m, dim, first, own,
        METRIC=metric, EXCLUDE=exclude_self, CAPACITY=plan.capacity, LANES=lanes_of(dim),
        M=max(64, kept) if kept == 1 else kept, K=kept, num_warps=_SMALL, enable_fp_fusion=False,
    )  # fmt: skip


def sieve_warps(lanes: int) -> int:
    """So many that 16 lanes, and their bounds, stand in the registers of a thread."""
    return min(8, max(2, triton.next_power_of_2(lanes) // 512))
