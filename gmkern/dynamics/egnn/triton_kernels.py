"""A layer of an equivariant graph network in Triton: edges in tiles, summed before they reach memory.

A tile is a few atoms, whatever systems they are of, with some neighbours of each, counted from its system's first atom.
Its messages go through the network in registers, or, where they are wide or float64, between two rooms of the
program's own, which stay in the cache, in chunks of features, so that any width fits. An atom's sums run over its
neighbours in their order, tile by tile: its bits are its system's alone. Products are of three TF32 terms, as accurate
as float32; those of float64 are float64's.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from gmkern._triton_math import brief_silu, silu
from gmkern.dynamics.egnn import reference
from gmkern.dynamics.egnn.triton_layout import (
    WARPS,
    Layout,
    Tiles,
    edges,
    linear_kernel,
    opened,
    over_others,
    prepare,
    product,
    shrink_of,
)

NARROW_PROGRAMS = 264  # of a large GPU, two a multiprocessor
PROGRAMS = 396  # three
REGISTERS = 168  # of a thread, in float32: with all that it would take, two programs were a multiprocessor's most


@triton.jit(do_not_specialize=["atoms", "box_stride"], do_not_specialize_on_alignment=["positions", "cell", "inverse"])
def messages_kernel(
    positions, cell, inverse, owners, halves, weights, rooms, state, moved, atoms, box_stride,
    MOVES: tl.constexpr, LIMIT: tl.constexpr, SCALE: tl.constexpr, BOXED: tl.constexpr, DIM: tl.constexpr,
    D: tl.constexpr, P: tl.constexpr, C: tl.constexpr, K: tl.constexpr, I: tl.constexpr, J: tl.constexpr,
):  # fmt: skip
    """Adds the sums of messages to state's second half [atoms, 2 P], and writes the positions moved [atoms, D].

    For any width, by way of two rooms [I J, P] in memory. ``halves`` [atoms, 2 P] are the first layer's two products,
    of an atom that hears and of one that speaks.
    """
    E: tl.constexpr = I * J
    room = rooms + tl.program_id(0).to(tl.int64) * 2 * E * P
    second_room = room + E * P
    message, move = weights, weights + P * P
    of_square = weights + 2 * P * P
    message_bias, move_bias, move_out = of_square + P, of_square + 2 * P, of_square + 3 * P
    e = tl.arange(0, E)
    every = e >= 0
    feature = tl.arange(0, C)
    a = tl.arange(0, D)
    for each in range(tl.program_id(0), tl.cdiv(atoms, I), tl.num_programs(0)):
        tile, row, real, most = opened(owners, each, atoms, I)
        walked = tl.zeros([I, D], positions.dtype.element_ty)
        for start in range(0, most, J):
            own, other, kept, r, square, within = edges(
                positions, cell, inverse, owners, tile, start, atoms, box_stride, LIMIT, BOXED, DIM, D, I, J
            )
            if tl.max(kept.to(tl.int32), 0) > 0:
                weight = within * within * within
                tl.debug_barrier()  # the rooms have been read, by whichever thread
                for begin in range(0, P, C):
                    c = begin + feature
                    x = tl.load(halves + own[:, None] * 2 * P + c[None, :], mask=kept[:, None], other=0.0)
                    x += tl.load(halves + other[:, None] * 2 * P + (P + c)[None, :], mask=kept[:, None], other=0.0)
                    x += square[:, None] * tl.load(of_square + c)[None, :]
                    tl.store(room + e[:, None] * P + c[None, :], silu(x))
                tl.debug_barrier()
                for begin in range(0, P, C):
                    c = begin + feature
                    x = product(room, e, every, P, P, message, c, 1, P, P, E, C, K)
                    x = silu(x + tl.load(message_bias + c)[None, :])
                    if MOVES:
                        tl.store(second_room + e[:, None] * P + c[None, :], x)
                    part = over_others(tl.where(kept[:, None], weight[:, None] * x, 0.0), I, J, C)
                    to = state + row[:, None] * 2 * P + (P + c)[None, :]
                    part = tl.load(to, mask=real[:, None], other=0.0) + SCALE * part
                    tl.store(to, part, mask=real[:, None])
                if MOVES:
                    tl.debug_barrier()
                    out = tl.zeros([E], positions.dtype.element_ty)
                    for begin in range(0, P, C):
                        c = begin + feature
                        x = product(second_room, e, every, P, P, move, c, 1, P, P, E, C, K)
                        x = silu(x + tl.load(move_bias + c)[None, :])
                        out += tl.sum(x * tl.load(move_out + c)[None, :], 1)
                    shrink, _ = shrink_of(square)
                    pull = tl.where(kept, weight * out * shrink, 0.0)
                    walked += over_others(pull[:, None] * r, I, J, D)
        mask = real[:, None] & (a < DIM)[None, :]
        at = row[:, None] * DIM + a[None, :]
        tl.store(moved + at, tl.load(positions + at, mask=mask, other=0.0) + SCALE * walked, mask=mask)


@triton.jit
def in_two(x):
    """float32 numbers as a TF32 number each, and what is left of it."""
    whole = (x.to(tl.int32, bitcast=True) & -8192).to(tl.float32, bitcast=True)
    return whole, x - whole


@triton.jit
def three_terms(x, weight, rest):
    """A product of float32 numbers, the second's in two, as tensor cores take it: the smallest terms first."""
    x, x_rest = in_two(x)
    total = tl.dot(x_rest, weight, input_precision="tf32")
    total = tl.dot(x, rest, total, input_precision="tf32")
    return tl.dot(x, weight, total, input_precision="tf32")


@triton.jit(do_not_specialize=["atoms", "box_stride"], do_not_specialize_on_alignment=["positions", "cell", "inverse"])
def narrow_messages_kernel(
    positions, cell, inverse, owners, halves, weights, state, sums, moved, atoms, box_stride,
    H: tl.constexpr, MOVES: tl.constexpr, LIMIT: tl.constexpr, SCALE: tl.constexpr, BOXED: tl.constexpr,
    DIM: tl.constexpr, D: tl.constexpr, P: tl.constexpr, I: tl.constexpr, J: tl.constexpr,
):  # fmt: skip
    """As ``messages_kernel``, of float32 and a width that a tile's messages fit in registers, and both weights, split
    into their terms once for all of a program's tiles, in shared memory. P is a power of two. Writes sums of messages
    [atoms, H] besides."""
    dtype = positions.dtype.element_ty
    of_square = weights + 2 * P * P
    message_bias, move_bias, move_out = of_square + P, of_square + 2 * P, of_square + 3 * P
    c = tl.arange(0, P)
    a = tl.arange(0, D)
    of_own = tl.arange(0, I * J)[:, None] // J * 2 * P + c[None, :]  # of edges, in halves from a tile's first atom on
    place = c[:, None] + c[None, :] * P  # of input and output
    message, message_rest = in_two(tl.load(weights + place))
    if MOVES:
        move, move_rest = in_two(tl.load(weights + P * P + place))
    for each in range(tl.program_id(0), tl.cdiv(atoms, I), tl.num_programs(0)):
        tile, row, real, most = opened(owners, each, atoms, I)
        heard = tl.zeros([I, P], dtype)
        walked = tl.zeros([I, D], dtype)
        for start in range(0, most, J):
            _, other, kept, r, square, within = edges(
                positions, cell, inverse, owners, tile, start, atoms, box_stride, LIMIT, BOXED, DIM, D, I, J
            )
            if tl.max(kept.to(tl.int32), 0) > 0:
                weight = tl.where(kept, within * within * within, 0.0)
                x = tl.load(halves + tile * I * 2 * P + of_own, mask=kept[:, None], other=0.0)
                x += tl.load(halves + other[:, None] * 2 * P + (P + c)[None, :], mask=kept[:, None], other=0.0)
                x = brief_silu(x + square[:, None] * tl.load(of_square + c)[None, :])
                x = three_terms(x, message, message_rest)
                x = brief_silu(x + tl.load(message_bias + c)[None, :])
                heard += over_others(weight[:, None] * x, I, J, P)
                if MOVES:
                    x = three_terms(x, move, move_rest)
                    x = brief_silu(x + tl.load(move_bias + c)[None, :])
                    out = tl.sum(x * tl.load(move_out + c)[None, :], 1)
                    shrink, _root = shrink_of(square)
                    pull = weight * out * shrink
                    walked += over_others(pull[:, None] * r, I, J, D)
        heard *= SCALE
        tl.store(state + row[:, None] * 2 * P + (P + c)[None, :], heard, mask=real[:, None])
        tl.store(sums + row[:, None] * H + c[None, :], heard, mask=real[:, None] & (c < H)[None, :])
        mask = real[:, None] & (a < DIM)[None, :]
        at = row[:, None] * DIM + a[None, :]
        tl.store(moved + at, tl.load(positions + at, mask=mask, other=0.0) + SCALE * walked, mask=mask)


class Call(NamedTuple):
    """A checked call of the op, with its weights padded and its atoms' systems found."""

    tiles: Tiles
    layout: Layout
    weights: Tensor  # padded
    state: Tensor  # [M, 2 P]: features, sums of messages
    geometry: tuple[Tensor, ...]  # what `edges` reads
    atoms: int
    box_stride: int
    moves: bool
    settings: dict[str, object]  # constants of a kernel of edges
    width: int

    def weight(self, name: str) -> Tensor:
        """The padded weights from a field of the layout on."""
        return self.weights[getattr(self.layout, name) :]

    @property
    def chunks(self) -> dict[str, int]:
        """Constants of a kernel whose products are of chunks."""
        return {"C": self.tiles.chunk, "K": self.tiles.depth}

    def programs(self, most: int) -> int:
        return min(triton.cdiv(self.atoms, self.tiles.own), most)

    def rooms(self, programs: int, count: int) -> Tensor:
        t = self.tiles
        return self.state.new_empty((programs, count, t.own * t.others, t.padded))

    def linear(
        self,
        x: Tensor,
        weight: str,
        inputs: int,
        outputs: int,
        *,
        bias: str | None = None,
        transposed: bool = False,
        active: bool = False,
        times: Tensor | None = None,
        added: Tensor | None = None,
        slopes: Tensor | None = None,
        width: int | None = None,
    ) -> Tensor:
        """A linear of x, which may be narrower than ``inputs``; [M, width], or [M, outputs] without."""
        out = x.new_empty((self.atoms, outputs if width is None else width))
        t = self.tiles
        linear_kernel[(triton.cdiv(self.atoms, t.rows), outputs // t.chunk)](
            x, self.weight(weight), self.weight(bias) if bias else x, x if added is None else added,
            x if times is None else times, out, x if slopes is None else slopes, self.atoms,
            X_STRIDE=x.shape[1], X_WIDTH=min(x.shape[1], inputs), ADDED_STRIDE=0 if added is None else added.shape[1],
            ADDED_WIDTH=0 if added is None else min(added.shape[1], outputs), OUT_STRIDE=out.shape[1],
            OUT_WIDTH=out.shape[1], INPUTS=inputs, OUTPUTS=outputs, TRANSPOSED=transposed, BIASED=bias is not None,
            ACTIVE=active, SLOPES=slopes is not None, TIMES=times is not None, ADDED=added is not None,
            ROWS=t.rows, C=t.chunk, K=t.depth, num_warps=WARPS, enable_fp_fusion=False,
        )  # fmt: skip
        return out

    def halves(self) -> Tensor:
        """[M, 2 P]: the first layer's products, of an atom that hears and of one that speaks."""
        p = self.tiles.padded
        return self.linear(self.state, "first", p, 2 * p, bias="first_bias")


def _check(tensors: dict[str, tuple[Tensor, tuple[int, ...], torch.dtype]], device: torch.device) -> None:
    for name, (t, shape, dtype) in tensors.items():
        if tuple(t.shape) != shape or t.dtype != dtype or t.device != device:
            raise ValueError(
                f"{name}: got {t.dtype} {list(t.shape)} on {t.device}; takes {dtype} {list(shape)} on {device}"
            )


def prepared(
    positions: Tensor,
    features: Tensor,
    weights: Tensor,
    system_ptr: Tensor,
    cell: Tensor,
    inverse: Tensor,
    moves: bool,
    cutoff: float,
    neighbors: float,
    **others: Tensor,
) -> Call:
    """The arguments of the op, and ``sums`` and gradients of its results: checked so far as no value need be read,
    which would synchronise."""
    dtype, device = positions.dtype, positions.device
    if positions.ndim != 2 or dtype not in (torch.float32, torch.float64) or not 1 <= positions.shape[1] <= 8:
        raise ValueError(f"positions: got {dtype} {list(positions.shape)}; takes float32 or float64 [M, 1 to 8]")
    if features.ndim != 2 or features.shape[1] < 1:
        raise ValueError(f"features: got shape {list(features.shape)}; takes [M, H]")
    if system_ptr.ndim != 1 or len(system_ptr) < (2 if len(positions) else 1):
        raise ValueError(f"system_ptr: got shape {list(system_ptr.shape)}; takes S + 1 offsets")
    if not cutoff > 0.0:
        raise ValueError(f"cutoff: got {cutoff}; takes a number above 0")
    if not neighbors > 0.0:
        raise ValueError(f"neighbors: got {neighbors}; takes a number above 0")
    (atoms, dim), width, systems = positions.shape, features.shape[1], len(system_ptr) - 1
    layout_size = sum(torch.Size(shape).numel() for shape in reference.shapes(width, moves))
    boxes = cell.shape[0] if cell.ndim == 3 and cell.shape[0] in (0, 1, systems) else systems
    box = (boxes, dim, dim)
    given = {
        "features": (features, (atoms, width), dtype),
        "weights": (weights, (layout_size,), dtype),
        "system_ptr": (system_ptr, (systems + 1,), torch.int64),
        "cell": (cell, box, torch.float64),
        "inverse": (inverse, box, torch.float64),
    }
    for name, t in others.items():
        given[name] = (t, (atoms, dim if name == "grad_positions" else width), dtype)
    _check(given, device)
    tiles = Tiles.of(width, dtype)
    layout = Layout.of(tiles.padded)
    padded, state, owners = prepare(weights, features, others.get("sums"), system_ptr, tiles.padded, layout.size)
    limit = max(cutoff * cutoff, torch.finfo(dtype).tiny)  # in the dtype's range, or inf
    limit = limit if limit <= torch.finfo(dtype).max else math.inf
    settings = {
        "MOVES": moves, "LIMIT": limit, "SCALE": 1.0 / neighbors, "BOXED": boxes > 0, "DIM": dim,
        "D": triton.next_power_of_2(dim), "P": tiles.padded, "I": tiles.own, "J": tiles.others,
    }  # fmt: skip
    geometry = (positions.contiguous(), cell.contiguous(), inverse.contiguous(), owners)
    return Call(tiles, layout, padded, state, geometry, atoms, dim * dim if boxes > 1 else 0, moves, settings, width)


def egnn_layer(
    positions: Tensor,
    features: Tensor,
    weights: Tensor,
    system_ptr: Tensor,
    cell: Tensor,
    inverse: Tensor,
    moves: bool,
    cutoff: float,
    neighbors: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """As the op ``gmkern::egnn_layer``."""
    with torch.cuda.device_of(positions):
        call = prepared(positions, features, weights, system_ptr, cell, inverse, moves, cutoff, neighbors)
        moved, width, p = torch.empty_like(call.geometry[0]), call.width, call.tiles.padded
        if not call.atoms:
            return moved, torch.empty_like(features), torch.empty_like(features)
        if call.tiles.narrow:
            sums = torch.empty_like(features, memory_format=torch.contiguous_format)
            narrow_messages_kernel[(call.programs(NARROW_PROGRAMS),)](
                *call.geometry, call.halves(), call.weights, call.state, sums, moved, call.atoms, call.box_stride,
                H=width, **call.settings, num_warps=WARPS, enable_fp_fusion=False,
            )  # fmt: skip
        else:
            programs = call.programs(PROGRAMS)
            messages_kernel[(programs,)](
                *call.geometry, call.halves(), call.weights, call.rooms(programs, 2), call.state, moved, call.atoms,
                call.box_stride, **call.settings, **call.chunks, num_warps=WARPS, enable_fp_fusion=False,
                maxnreg=REGISTERS if moved.dtype == torch.float32 else None,
            )  # fmt: skip
            sums = call.state[:, p : p + width].contiguous()
        active = call.linear(call.state, "update", 2 * p, p, bias="update_bias", active=True)
        updated = call.linear(active, "update_out", p, p, bias="out_bias", added=features.contiguous(), width=width)
        return moved, updated, sums
