"""How the Triton kernels of a layer lie in memory: tiles, padded weights, and device functions that all of them share.

H features are padded to P, a multiple of a chunk. The layer's weights lie one after another in the op's ``weights``
and, padded with zeros to matrices [outputs, inputs] of P, in ``Layout``'s order in the kernels' own; gradients come
back the same way.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from gmkern._triton_math import sigmoid

WARPS = 4
BLOCK = 256  # numbers of a program that moves or finds them one by one


class Layout(NamedTuple):
    """Where the padded weights begin, of P features: first what edges meet, then what atoms do."""

    message: int  # [P, P]
    move: int  # [P, P]
    of_square: int  # [P]: the squared distance's column of the first layer
    message_bias: int
    move_bias: int
    move_out: int
    first: int  # [2 P, P]: of the atom that hears, of the one that speaks
    update: int  # [P, 2 P]: of the features, of the sums of messages
    update_out: int  # [P, P]
    first_bias: int  # [2 P], the second half 0
    update_bias: int
    out_bias: int
    size: int

    @classmethod
    def of(cls, padded: int) -> Layout:
        square = padded * padded
        sizes = (square, square, *(padded,) * 4, 2 * square, 2 * square, square, 2 * padded, padded, padded)
        begins = [sum(sizes[:k]) for k in range(len(sizes) + 1)]
        return cls(*begins)


class Tiles(NamedTuple):
    """Sizes of tiles: functions of the width and the dtype alone, or a row's bits would depend on its batch."""

    padded: int  # P
    chunk: int  # features that are computed together
    depth: int  # inputs of a product that are loaded together
    own: int  # atoms of a tile of edges
    others: int  # their neighbours in it
    rows: int  # atoms of a tile of a linear layer
    narrow: bool  # whether a tile's messages fit in registers, and the weights that they meet in shared memory

    @classmethod
    def of(cls, width: int, dtype: torch.dtype) -> Tiles:
        exact = dtype == torch.float64
        chunk = 16 if exact or width <= 16 else 32
        padded = triton.cdiv(width, chunk) * chunk
        return cls(padded, chunk, chunk, 4, 8 if exact else 16, 32 if exact else 64, not exact and padded <= 64)


@triton.jit
def _place(w, H: tl.constexpr, P: tl.constexpr):
    """Where number w of the op's ``weights`` lies in the padded ones: in ``Layout``'s places, field by field."""
    S: tl.constexpr = P * P
    of_edges: tl.constexpr = 2 * S  # vectors
    first: tl.constexpr = 2 * S + 4 * P
    of_atoms: tl.constexpr = first + 5 * S
    row = w // (2 * H + 1)
    column = w % (2 * H + 1)
    to = first + row * P + tl.where(column < H, column, S + column - H)
    to = tl.where(column == 2 * H, of_edges + row, to)
    w -= H * (2 * H + 1)
    to = tl.where(w >= 0, of_atoms + w, to)
    w -= H
    to = tl.where(w >= 0, w // H * P + w % H, to)  # message
    w -= H * H
    to = tl.where(w >= 0, of_edges + P + w, to)
    w -= H
    column = w % (2 * H)
    column += tl.where(column < H, 0, P - H)
    to = tl.where(w >= 0, first + 2 * S + w // (2 * H) * 2 * P + column, to)  # update
    w -= 2 * H * H
    to = tl.where(w >= 0, of_atoms + 2 * P + w, to)
    w -= H
    to = tl.where(w >= 0, first + 4 * S + w // H * P + w % H, to)  # update_out
    w -= H * H
    to = tl.where(w >= 0, of_atoms + 3 * P + w, to)
    w -= H
    to = tl.where(w >= 0, S + w // H * P + w % H, to)  # move
    w -= H * H
    return tl.where(w >= 0, of_edges + 2 * P + w // H * P + w % H, to)  # its bias, and the end's weights


@triton.jit
def _owners(ptr, owners, atom, atoms, systems, steps):
    """Of each atom its system, that system's first atom, and the atom after its last; by bisection."""
    real = atom < atoms
    low = tl.zeros_like(atom)
    high = low + systems
    for _ in range(steps):
        middle = (low + high) // 2
        after = tl.load(ptr + middle) <= atom
        low = tl.where(after, middle, low)
        high = tl.where(after, high, middle)
    first = tl.load(ptr + low)
    last = tl.load(ptr + low + 1)
    tl.store(owners + atom, low, mask=real)
    tl.store(owners + atoms + atom, tl.maximum(first, 0), mask=real)  # whatever ptr holds, nothing outside is read
    tl.store(owners + 2 * atoms + atom, tl.minimum(last, atoms), mask=real)


@triton.jit(do_not_specialize=["count", "atoms", "systems", "steps"])
def prepare_kernel(
    weights, padded, features, sums, state, ptr, owners, count, atoms, systems, steps,
    H: tl.constexpr, P: tl.constexpr, SUMS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """All that a layer needs to begin, in one launch: the op's ``weights``, ``count`` of them, in their places in
    padded ones; features, and with SUMS the sums of messages, in state [atoms, 2 P]; and owners [3, atoms]."""
    at = tl.arange(0, BLOCK)
    program = tl.program_id(0).to(tl.int64)
    of_state = program - tl.cdiv(count, BLOCK)
    of_owners = of_state - tl.cdiv(tl.cast(atoms, tl.int64) * H, BLOCK)
    if of_state < 0:
        w = program.to(tl.int32) * BLOCK + at
        tl.store(padded + _place(w, H, P), tl.load(weights + w, mask=w < count), mask=w < count)
    elif of_owners < 0:
        n = of_state * BLOCK + at
        row = n // H
        to = state + row * 2 * P + n % H
        tl.store(to, tl.load(features + n, mask=row < atoms), mask=row < atoms)
        if SUMS:
            tl.store(to + P, tl.load(sums + n, mask=row < atoms), mask=row < atoms)
    else:
        _owners(ptr, owners, of_owners * BLOCK + at, atoms, systems, steps)


def prepare(
    weights: Tensor, features: Tensor, sums: Tensor | None, ptr: Tensor, padded: int, size: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Padded weights [size], state [M, 2 P] and owners [3, M]."""
    (atoms, width), count, systems = features.shape, len(weights), len(ptr) - 1
    room = weights.new_zeros(size + atoms * 2 * padded)  # one fill for both
    state = room[size:].view(atoms, 2 * padded)
    owners = ptr.new_empty((3, atoms))
    programs = sum(triton.cdiv(n, BLOCK) for n in (count, atoms * width, atoms))
    features = features.contiguous()
    prepare_kernel[(programs,)](
        weights.contiguous(), room, features, features if sums is None else sums.contiguous(), state, ptr.contiguous(),
        owners, count, atoms, systems, systems.bit_length(), H=width, P=padded, SUMS=sums is not None, BLOCK=BLOCK,
        enable_fp_fusion=False,
    )  # fmt: skip
    return room[:size], state, owners


@triton.jit(do_not_specialize=["count"])
def unpack_kernel(padded, weights, count, H: tl.constexpr, P: tl.constexpr, BLOCK: tl.constexpr):
    """Reads the op's weights, ``count`` of them, at their places in padded ones."""
    w = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(weights + w, tl.load(padded + _place(w, H, P), mask=w < count), mask=w < count)


@triton.jit
def silu_and_slope(x):
    gate = sigmoid(x)
    y = x * gate
    return y, gate * (x - y) + gate


@triton.jit
def product(
    x, row, there, x_stride, x_width, weight, o, w_in, w_out,
    INPUTS: tl.constexpr, ROWS: tl.constexpr, C: tl.constexpr, K: tl.constexpr,
):  # fmt: skip
    """[ROWS, C]: rows of x, columns from ``x_width`` on being 0, by a weight whose entry of input i and output o lies
    at i w_in + o w_out."""
    dtype = x.dtype.element_ty
    precision: tl.constexpr = "ieee" if dtype == tl.float64 else "tf32x3"
    total = tl.zeros([ROWS, C], dtype)
    for start in range(0, INPUTS, K):
        i = start + tl.arange(0, K)
        values = tl.load(
            x + row[:, None] * x_stride + i[None, :], mask=there[:, None] & (i < x_width)[None, :], other=0.0
        )
        w = tl.load(weight + i[:, None] * w_in + o[None, :] * w_out)
        total = tl.dot(values, w, total, input_precision=precision, out_dtype=dtype)
    return total


@triton.jit
def opened(owners, each, atoms, I: tl.constexpr):
    """Tile ``each`` in 64 bits, its atoms [I], which of them there are, and the most neighbours that one may have."""
    tile = tl.cast(each, tl.int64)
    row = tile * I + tl.arange(0, I)
    real = row < atoms
    first = tl.load(owners + atoms + row, mask=real, other=0)
    most = tl.max(tl.load(owners + 2 * atoms + row, mask=real, other=0) - first, 0)
    return tile, row, real, most


@triton.jit
def edges(
    positions, cell, inverse, owners, tile, start, atoms, box_stride,
    LIMIT: tl.constexpr, BOXED: tl.constexpr, DIM: tl.constexpr, D: tl.constexpr, I: tl.constexpr, J: tl.constexpr,
):  # fmt: skip
    """A tile's edges, J neighbours from ``start`` on of each of I atoms: own and other atom, which of them are edges,
    x_own - x_other [I J, D], its square, and 1 minus the square in squares of the cutoff."""
    e = tl.arange(0, I * J)
    own = tile * I + e // J
    real = own < atoms
    system = tl.load(owners + own, mask=real, other=0)
    first = tl.load(owners + atoms + own, mask=real, other=0)
    last = tl.load(owners + 2 * atoms + own, mask=real, other=0)
    other = first + start + e % J
    kept = real & (other < last) & (other != own)
    a = tl.arange(0, D)
    there = kept[:, None] & (a < DIM)[None, :]
    r = tl.load(positions + own[:, None] * DIM + a[None, :], mask=there, other=0.0)
    r -= tl.load(positions + other[:, None] * DIM + a[None, :], mask=there, other=0.0)
    if BOXED:
        at = system[:, None, None] * box_stride + a[None, :, None] * DIM + a[None, None, :]
        inside = kept[:, None, None] & (a < DIM)[None, :, None] & (a < DIM)[None, None, :]
        fractions = tl.sum(r[:, :, None] * tl.load(inverse + at, mask=inside, other=0.0).to(r.dtype), 1)
        images = tl.floor(fractions + 0.5)
        r -= tl.sum(images[:, :, None] * tl.load(cell + at, mask=inside, other=0.0).to(r.dtype), 1)
    square = tl.sum(r * r, 1)
    kept = kept & ~(square >= LIMIT)  # a NaN stays in
    square = tl.where(kept, square, 0.0)
    within = 1.0 - square * (1.0 / LIMIT)
    return own, other, kept, r, square, within


@triton.jit
def over_others(values, I: tl.constexpr, J: tl.constexpr, C: tl.constexpr):
    """[I, C]: values [I J, C] of edges, summed over each atom's neighbours."""
    return tl.sum(tl.reshape(values, [I, J, C]), 1)


@triton.jit
def shrink_of(square):
    """1 / (1 + distance)."""
    root = tl.sqrt_rn(square) if square.dtype == tl.float32 else tl.sqrt(square)
    return 1.0 / (1.0 + root), root


@triton.jit(do_not_specialize=["rows"])
def linear_kernel(
    x, weight, bias, added, times, out, slopes, rows,
    X_STRIDE: tl.constexpr, X_WIDTH: tl.constexpr, ADDED_STRIDE: tl.constexpr, ADDED_WIDTH: tl.constexpr,
    OUT_STRIDE: tl.constexpr, OUT_WIDTH: tl.constexpr, INPUTS: tl.constexpr, OUTPUTS: tl.constexpr,
    TRANSPOSED: tl.constexpr, BIASED: tl.constexpr, ACTIVE: tl.constexpr, SLOPES: tl.constexpr, TIMES: tl.constexpr,
    ADDED: tl.constexpr, ROWS: tl.constexpr, C: tl.constexpr, K: tl.constexpr,
):  # fmt: skip
    """out [rows, OUTPUTS]: a linear of x [rows, INPUTS], by weight [OUTPUTS, INPUTS] or, TRANSPOSED, [INPUTS, OUTPUTS];
    then SiLU if ACTIVE (and its SLOPES [rows, OUTPUTS]), times [rows, OUTPUTS] and plus what is given.

    Columns of x and of what is added from their widths on are 0, and of out they are not written.
    """
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    there = row < rows
    o = tl.program_id(1) * C + tl.arange(0, C)
    w_in: tl.constexpr = OUTPUTS if TRANSPOSED else 1
    w_out: tl.constexpr = 1 if TRANSPOSED else INPUTS
    y = product(x, row, there, X_STRIDE, X_WIDTH, weight, o, w_in, w_out, INPUTS, ROWS, C, K)
    at = row[:, None] * OUTPUTS + o[None, :]
    if BIASED:
        y += tl.load(bias + o)[None, :]
    if ACTIVE:
        y, slope = silu_and_slope(y)
        if SLOPES:
            tl.store(slopes + at, slope, mask=there[:, None])
    if TIMES:
        y *= tl.load(times + at, mask=there[:, None], other=0.0)
    if ADDED:
        mask = there[:, None] & (o < ADDED_WIDTH)[None, :]
        y += tl.load(added + row[:, None] * ADDED_STRIDE + o[None, :], mask=mask, other=0.0)
    mask = there[:, None] & (o < OUT_WIDTH)[None, :]
    tl.store(out + row[:, None] * OUT_STRIDE + o[None, :], y, mask=mask)
