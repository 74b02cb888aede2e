"""Points as float16 numbers in Triton, for screening by tensor cores, and what is known of the distance that is lost.

The proof is in docs/neighbors-algorithms.md, "Screened on a GPU". Points move by a common centre and scale by a
common power of two; then each coordinate is rounded to float16, and what the rounding took is measured.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from gmkern.neighbors.reference import power_of_2

_ROWS, _CHUNK = 8, 128  # of a tile that is rounded
_MOST_EXTENT = tl.constexpr(1e15)  # of a coordinate: squares beyond may overflow, so that it has no halves
_MOST_HALF = tl.constexpr(32768.0)  # below float16's largest
_MOST = 32768  # coordinates
_UP = 1.0 + 2.0**-20  # above a few roundings of float32
STAGES = 3  # tiles of references in flight
ETA = 2.0**-12  # of the bound's (a + b)^2 <= (1 + eta) a^2 + (1 + 1/eta) b^2
BEYOND = tl.constexpr(1e30)  # above every product: padding, and in the negative points without halves


class Halves(NamedTuple):
    """Rows of points, padded with rows of zeros and coordinates of zeros."""

    values: Tensor
    """[rows, width] float16: X, the point moved, scaled and rounded."""
    half_squares: Tensor
    """[rows] float32: |X|^2 / 2."""
    residuals: Tensor
    """[rows] float32: no less than the distance of X and what it was rounded from; infinite where there is no X."""


class Frame(NamedTuple):
    """The centre [D] and the scale [] of a set of points, on the device: both may be anything finite."""

    centre: Tensor
    scale: Tensor


class Shape(NamedTuple):
    """Of a tile of products: rows, columns, coordinates at a time, warps."""

    n: int
    m: int
    chunk: int
    warps: int


def shape_of(width: int, capability: int) -> Shape:
    """The shape for points of ``width`` on sm_``capability``.

    Up to 128 coordinates the rows stay in shared memory and the references stream past; few coordinates leave room for
    several programs a multiprocessor, whose products and selections overlap. Beyond, both sides are read for each tile,
    so that a tile is as large as the registers allow: two numbers for each of four pairs, and the products.
    """
    if width <= 64:
        return Shape(64, 128, width, 4)
    if width <= 128:
        return Shape(128, 128, width, 8)
    return Shape(128, 256 if capability >= 90 else 128, 64, 8)


def shape_here(points: Tensor) -> Shape:
    """The shape for points [., D] on their device, or in the interpreter."""
    capability = torch.cuda.get_device_capability(points.device) if points.is_cuda else (9, 0)
    return shape_of(width_of(points.shape[-1]), 10 * capability[0] + capability[1])


def width_of(dim: int) -> int:
    """Coordinates that are held: a power of two up to 128, then a multiple of 64."""
    return max(16, triton.next_power_of_2(dim)) if dim <= 128 else triton.cdiv(dim, 64) * 64


def epsilon(width: int) -> float:
    """The share of |X|^2/2 + |Y|^2/2 by which a computed half square of their difference may be off."""
    return width * 2.0**-22 + 2.0**-19


def halves_can(dim: int) -> bool:
    """Whether products of so many coordinates keep within the bound."""
    return dim <= _MOST


def stretch(dim: int) -> float:
    """Above (1 + gamma) (1 + u) between computed distances on both sides of a comparison, with room for roundings."""
    return 1.0 + 4.0 * (triton.cdiv(dim, 16) + 8) * 2.0**-24 + 2.0**-20


@triton.jit
def products(held, x_at, y_at, WIDTH: tl.constexpr, CHUNK: tl.constexpr, N: tl.constexpr, M: tl.constexpr):
    """X.Y of the rows at x_at [N, CHUNK] and y_at [M, CHUNK]; ``held`` is what is at x_at, where that is all."""
    if WIDTH == CHUNK:
        product = tl.dot(held, tl.trans(tl.load(y_at)))
    else:
        product = tl.zeros([N, M], tl.float32)
        for start in range(0, WIDTH, CHUNK):
            product = tl.dot(tl.load(x_at + start), tl.trans(tl.load(y_at + start)), product)
    return product


@triton.jit
def _moved(points, centre, row, n, dim, start, ROWS: tl.constexpr, CHUNK: tl.constexpr):
    """Coordinates start, ..., less the centre's: [ROWS, CHUNK] float64, zeros outside."""
    d = start + tl.arange(0, CHUNK)
    inside = (row < n)[:, None] & (d < dim)[None, :]
    x = tl.load(points + row.to(tl.int64)[:, None] * dim + d[None, :], mask=inside, other=0.0).to(tl.float32)
    c = tl.load(centre + d, mask=d < dim, other=0.0)
    return tl.where(inside, x.to(tl.float64) - c.to(tl.float64)[None, :], 0.0)


@triton.jit
def extents_kernel(points, centre, extents, n, dim, ROWS: tl.constexpr, CHUNK: tl.constexpr):
    """extents [n]: the largest coordinate of each point from the centre on."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    extent = tl.zeros([ROWS], tl.float64)
    for start in range(0, dim, CHUNK):
        extent = tl.maximum(extent, tl.max(tl.abs(_moved(points, centre, row, n, dim, start, ROWS, CHUNK)), 1))
    tl.store(extents + row, extent.to(tl.float32), mask=row < n)


@triton.jit
def halves_kernel(
    points, centre, scale, values, half_squares, residuals, n, dim, rows, width, ROWS: tl.constexpr, CHUNK: tl.constexpr
):
    """Halves of the n points, and of ``rows`` - n rows of zeros."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    factor = tl.load(scale).to(tl.float64)
    extent = tl.zeros([ROWS], tl.float64)
    for start in range(0, dim, CHUNK):
        extent = tl.maximum(extent, tl.max(tl.abs(_moved(points, centre, row, n, dim, start, ROWS, CHUNK)), 1))
    has = (extent <= _MOST_EXTENT) & (extent * factor <= _MOST_HALF)  # not of NaN
    square = tl.zeros([ROWS], tl.float64)
    lost = tl.zeros([ROWS], tl.float64)
    for start in range(0, width, CHUNK):
        x = _moved(points, centre, row, n, dim, start, ROWS, CHUNK) * factor
        x = tl.where(has[:, None], x, 0.0)
        half = x.to(tl.float32).to(tl.float16)
        d = start + tl.arange(0, CHUNK)
        to = values + row.to(tl.int64)[:, None] * width + d[None, :]
        tl.store(to, half, mask=(row < rows)[:, None] & (d < width)[None, :])
        back = half.to(tl.float32).to(tl.float64)
        square += tl.sum(back * back, 1)
        lost += tl.sum((x - back) * (x - back), 1)
    residual = (tl.sqrt(lost) * 1.00000095367431640625).to(tl.float32)  # 1 + 2^-20: above the roundings
    tl.store(half_squares + row, (0.5 * square).to(tl.float32), mask=row < rows)
    tl.store(residuals + row, tl.where(has, residual, float("inf")), mask=row < rows)


def frame_of(references: Tensor) -> Frame:
    """Amid the references [M, D]: medians of up to 2,047 of them, and a scale by the median of their extents.

    Medians, so that a few points far out neither move the centre nor spoil the scale.
    """
    m, dim = references.shape
    few = references[:: max(1, m // 1024)].float().sort(0).values
    centre = few[len(few) // 2].nan_to_num(0.0, 0.0, 0.0).contiguous()
    extents = references.new_empty(m, dtype=torch.float32)
    extents_kernel[(triton.cdiv(m, _ROWS),)](
        references, centre, extents, m, dim, ROWS=_ROWS, CHUNK=_CHUNK, enable_fp_fusion=False
    )
    ordered = extents.sort().values
    middle = torch.where(ordered[m // 2] > 0.0, ordered[m // 2], ordered[-1])
    # The middle extent goes to [8, 16): float16 is precise from 2^-14 to 2^15, for all but points far out.
    exponent = torch.frexp(middle.nan_to_num(1.0, 1.0, 1.0)).exponent.clamp(-100, 100)
    return Frame(centre, power_of_2(4 - exponent, torch.float32))


def halves_of(points: Tensor, frame: Frame, multiple: int) -> Halves:
    """The points [n, D] in a frame, with rows up to a multiple."""
    n, dim = points.shape
    rows, width = triton.cdiv(n, multiple) * multiple, width_of(dim)
    values = points.new_empty((rows, width), dtype=torch.float16)
    half_squares = points.new_empty(rows, dtype=torch.float32)
    residuals = torch.empty_like(half_squares)
    halves_kernel[(triton.cdiv(rows, _ROWS),)](
        points, frame.centre, frame.scale, values, half_squares, residuals, n, dim, rows, width,
        ROWS=_ROWS, CHUNK=_CHUNK, enable_fp_fusion=False,
    )  # fmt: skip
    return Halves(values, half_squares, residuals)


def common_residual(of: Halves, n: int) -> Tensor:
    """[]: what nearly all of the n rows' residuals are within, finite; a row's own may be larger."""
    middle = 1.5 * of.residuals[:n].sort().values[n // 2]
    return torch.where(torch.isfinite(middle), middle, 0.0)


def reference_terms(of: Halves, n: int, common: Tensor) -> Tensor:
    """[rows] float32: what the product X.Y is taken from, so that the least difference may be the nearest reference.

    |Y|^2/2, lowered by its share of the error, and by what a residual above the common one can take from a distance.
    """
    excess = (of.residuals - common).clamp(min=0.0)
    lowered = of.half_squares * (1.0 - epsilon(of.values.shape[1])) - excess.square() * (0.5 * (1.0 + 1.0 / ETA) * _UP)
    terms = torch.where(torch.isfinite(of.residuals), lowered, -BEYOND.value)
    terms[n:] = BEYOND.value
    return terms
