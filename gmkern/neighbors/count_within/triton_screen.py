"""Counts within radii in Triton, screened by tensor cores: a product and a bound on its error decide most pairs.

A pair is surely beyond the radius where its product X.Y is below one threshold, surely within it where it is not below
another; each is a number of the row plus a number of the column. Pairs between are listed, and decided by the written
order of sums; a row with more of them than room goes to the direct count. Proof:
docs/neighbors-algorithms.md, "Screened on a GPU".
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from gmkern.neighbors.triton_distances import distance_tile, lanes_of, programs
from gmkern.neighbors.triton_halves import (
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
    shape_here,
    stretch,
    width_of,
)

_ROOM = 256  # pairs of a row that are listed
_NUMBERS = 1 << 29  # of the points that are rounded together
_NEVER, _PADDING, _MOST = 1e30, 4e30, 1e29  # no lattice; no point; what a threshold is clipped to: each above the next
_MARGIN = 2.0**-21  # of a threshold: its rounding and that of the sum of two
_WARPS = 4


def screening_can(n: int, m: int, dim: int, fp64: bool) -> bool:
    """Whether a count can be screened: in float32, of points whose halves are held at once."""
    return not fp64 and halves_can(dim) and max(n, m) * width_of(dim) <= _NUMBERS


@triton.jit
def decide_kernel(
    x, y, out_rows, out_columns, in_rows, in_columns, counts, listed, places, n, tiles, part,
    WIDTH: tl.constexpr, CHUNK: tl.constexpr, EXCLUDE: tl.constexpr, ROOM: tl.constexpr, N: tl.constexpr,
    M: tl.constexpr,
):  # fmt: skip
    """Adds the pairs that are surely within to counts [n], and lists those in doubt: listed [n, ROOM], places [n].

    A program has N rows and ``part`` of the ``tiles`` tiles of M columns. Whole numbers, so in any order.
    """
    row = tl.program_id(0) * N + tl.arange(0, N)
    d = tl.arange(0, CHUNK)
    x_at = x + row.to(tl.int64)[:, None] * WIDTH + d[None, :]
    held = tl.load(x_at) if WIDTH == CHUNK else x_at
    out_row = tl.load(out_rows + row)[:, None]
    in_row = tl.load(in_rows + row)[:, None]
    total = tl.zeros([N], tl.int32)
    first = tl.program_id(1) * part
    for tile in range(first, tl.minimum(first + part, tiles)):
        column = tile * M + tl.arange(0, M)
        y_at = y + column.to(tl.int64)[:, None] * WIDTH + d[None, :]
        product = products(held, x_at, y_at, WIDTH, CHUNK, N, M)
        within = product >= in_row + tl.load(in_columns + column)[None, :]
        doubt = ~(product < out_row + tl.load(out_columns + column)[None, :]) & ~within
        if EXCLUDE:
            within &= row[:, None] != column[None, :]
            doubt &= row[:, None] != column[None, :]
        total += tl.sum(within.to(tl.int32), 1)
        # Of whole tiles: Triton 3.6 fails on sm_100 where what products' rows were reduced to is reduced once more.
        if tl.max(doubt.to(tl.int32)) > 0:
            some = tl.sum(doubt.to(tl.int32), 1)
            place = tl.atomic_add(places + row, some, mask=(row < n) & (some > 0))
            doubt &= ((row < n) & (place < ROOM))[:, None]  # of a row without room no more is listed
            to = listed + row.to(tl.int64) * ROOM
            while tl.max(doubt.to(tl.int32)) > 0:  # the rows' first pairs in doubt, then their second, ...
                at = tl.min(tl.where(doubt, column[None, :], 2147483647), 1)
                tl.store(to + place, at, mask=(at < 2147483647) & (place < ROOM))
                doubt &= column[None, :] > at[:, None]
                place += 1
    tl.atomic_add(counts + row, total.to(tl.int64), mask=row < n)


@triton.jit
def doubts_kernel(
    queries, references, radii, listed, places, counts, n, m, dim,
    PER_REFERENCE: tl.constexpr, STRICT: tl.constexpr, ROOM: tl.constexpr, LANES: tl.constexpr, M: tl.constexpr,
):  # fmt: skip
    """Adds to counts [n] those of the listed pairs that are within."""
    row = tl.program_id(0) + tl.arange(0, 1)
    count = tl.load(places + tl.program_id(0))
    total = tl.zeros([1], tl.int64)
    for start in range(0, tl.where(count <= ROOM, count, 0), M):
        at = start + tl.arange(0, M)
        column = tl.load(listed + tl.program_id(0).to(tl.int64) * ROOM + at, mask=at < count, other=m)
        distance = distance_tile(queries, references, row, n, column, m, dim, 0, False, LANES, 1, M)
        if PER_REFERENCE:
            bound = tl.load(radii + column, mask=column < m, other=-1.0)[None, :]
        else:
            bound = tl.load(radii + row)[:, None]
        within = distance < bound if STRICT else distance <= bound
        total += tl.sum((within & (column < m)[None, :]).to(tl.int64), 1)
    tl.store(counts + row, tl.load(counts + row) + total)


def screened(
    queries: Tensor, references: Tensor, radii: Tensor, per_reference: bool, strict: bool, exclude_self: bool
) -> tuple[Tensor, Tensor]:
    """Counts [n] of queries [n, D] and references [M, D], and [n] whether a row had room. Nothing waits."""
    (n, dim), m = queries.shape, references.shape[0]
    shape, width = tile_here(queries), width_of(dim)
    frame = frame_of(references)
    x, y = halves_of(queries, frame, shape.n), halves_of(references, frame, shape.m)
    owner, other = ((y, m), (x, n)) if per_reference else ((x, n), (y, m))
    own, theirs = thresholds(*owner, *other, radii, frame, dim)
    rows, columns = (theirs, own) if per_reference else (own, theirs)
    counts = torch.zeros(n, dtype=torch.int64, device=queries.device)
    places = torch.zeros(n, dtype=torch.int32, device=queries.device)
    listed = places.new_empty((n, _ROOM))
    blocks, tiles = len(x.values) // shape.n, len(y.values) // shape.m
    parts, part = programs(blocks, 1, tiles, 1)
    decide_kernel[(blocks, parts)](
        x.values, y.values, rows[0], columns[0], rows[1], columns[1], counts, listed, places, n, tiles, part,
        WIDTH=width, CHUNK=shape.chunk, EXCLUDE=exclude_self, ROOM=_ROOM, N=shape.n, M=shape.m,
        num_warps=shape.warps, num_stages=STAGES, enable_fp_fusion=False,
    )  # fmt: skip
    doubts_kernel[(n,)](
        queries, references, radii, listed, places, counts, n, m, dim,
        PER_REFERENCE=per_reference, STRICT=strict, ROOM=_ROOM, LANES=lanes_of(dim), M=64,
        num_warps=_WARPS, enable_fp_fusion=False,
    )  # fmt: skip
    return counts, places <= _ROOM


def tile_here(points: Tensor) -> Shape:
    """Of at most 128 columns: what is in doubt stands beside the products."""
    shape = shape_here(points)
    return shape._replace(m=min(128, shape.m))


def thresholds(
    own: Halves, owners: int, other: Halves, others: int, radii: Tensor, frame: Frame, dim: int
) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """(out, in) of the points that have radii, and (out, in) of the others, float32.

    With P the product as computed, P < out + out' means surely beyond the radius, P >= in + in' surely within.
    """
    scale, common = frame.scale.double(), common_residual(other, others).double()
    share = epsilon(own.values.shape[1])
    # |x - y| is within the residuals of |X - Y|, whose half square is h + h' - P within the share of h + h'.
    radius = torch.full_like(own.residuals, -1.0).double()
    radius[:owners] = radii.double()
    farthest = radius * stretch(dim) * scale + 1e-19 * scale
    nearest = radius * (2.0 - stretch(dim)) * scale - 1e-19 * scale
    h, r = own.half_squares.double(), own.residuals.double()
    shell = (farthest + r + common).clamp(max=_MOST**0.5)
    ball = (nearest - r - common).clamp(max=_MOST**0.5)
    out = torch.where(radius < 0.0, _MOST, h * (1.0 - share) - 0.5 * (1.0 + ETA) * shell.square())
    own_in = torch.where(ball > 0.0, h * (1.0 + share) - 0.5 * ball.square(), _NEVER)
    mine = _finished(out, own_in, own.residuals, owners)
    h, excess = other.half_squares.double(), (other.residuals.double() - common).clamp(min=0.0)
    out = h * (1.0 - share) - 0.5 * (1.0 + 1.0 / ETA) * excess.square()
    return mine, _finished(out, torch.where(excess > 0.0, _NEVER, h * (1.0 + share)), other.residuals, others)


def _finished(out: Tensor, within: Tensor, residuals: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """Thresholds lowered and raised by their roundings; points without halves are in doubt, and padding is beyond."""
    lattice = torch.isfinite(residuals)
    out = torch.where(lattice, (out - _MARGIN * out.abs()).clamp(-_MOST, _MOST), -_NEVER)
    within = torch.where(lattice, within + _MARGIN * within.abs(), _NEVER)
    out[n:], within[n:] = _PADDING, _PADDING
    return out.float(), within.float()
