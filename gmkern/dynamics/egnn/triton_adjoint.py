"""The adjoint of a layer in Triton: messages computed again, two passes over the edges, no atomics.

The pass of the atoms that hear sums what their own messages pull on them and on the weights; the pass of the atoms that
speak sums over the same edges the other way round. Gradients of weights are added tile by tile in sums of each
program's own, and these are added in their order: their number depends on the number of atoms alone.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from gmkern.dynamics.egnn.triton_kernels import Call, prepared
from gmkern.dynamics.egnn.triton_layout import (
    BLOCK,
    WARPS,
    edges,
    opened,
    over_others,
    product,
    shrink_of,
    silu_and_slope,
    unpack_kernel,
)

ADJOINT_WARPS = 8  # a tile's gradients and slopes take half of their registers by four
PROGRAMS = 264  # of a large GPU, each with sums of its own for the weights that edges meet
PARTS = 32  # sums over atoms for the weights that atoms meet, each of every 32nd tile
_EDGES = tl.constexpr(16)  # that a product for the weights takes at once


@triton.jit
def _add(to, what):
    """Adds to a sum of the program's own; a barrier is between this and the next to the same place."""
    tl.store(to, tl.load(to) + what)


@triton.jit(
    do_not_specialize=["atoms", "box_stride"],
    do_not_specialize_on_alignment=["positions", "cell", "inverse", "by_positions", "start_from"],
)
def adjoint_kernel(
    positions, cell, inverse, owners, halves, weights, rooms, by_positions, by_state, start_from, to_positions,
    by_halves, partials, atoms, box_stride,
    SPEAKS: tl.constexpr, WEIGHTS: tl.constexpr,
    MOVES: tl.constexpr, LIMIT: tl.constexpr, SCALE: tl.constexpr, BOXED: tl.constexpr, DIM: tl.constexpr,
    D: tl.constexpr, P: tl.constexpr, C: tl.constexpr, K: tl.constexpr, I: tl.constexpr, J: tl.constexpr,
):  # fmt: skip
    """The gradients of the atoms that hear, or of those that speak, through all edges.

    ``by_positions`` [atoms, D] and the second half of ``by_state`` [atoms, 2 P] are the gradients of the moved
    positions and of the sums of messages. Writes to_positions [atoms, D], which start from ``start_from``; adds to the
    first or the second half of by_halves [atoms, 2 P], and with WEIGHTS to partials [programs, 2 P P + 4 P], as the
    layout begins.
    """
    E: tl.constexpr = I * J
    program = tl.program_id(0).to(tl.int64)
    first_room = rooms + program * 6 * E * P
    first_slope, second_room, second_slope = first_room + E * P, first_room + 2 * E * P, first_room + 3 * E * P
    by_third, by_second = first_room + 4 * E * P, first_room + 5 * E * P
    message, move = weights, weights + P * P
    of_square = weights + 2 * P * P
    message_bias, move_bias, move_out = of_square + P, of_square + 2 * P, of_square + 3 * P
    to_message = partials + program * (2 * P * P + 4 * P)
    to_move = to_message + P * P
    to_square = to_message + 2 * P * P
    sign: tl.constexpr = -1.0 if SPEAKS else 1.0
    dtype = positions.dtype.element_ty
    e = tl.arange(0, E)
    every = e >= 0
    at = e[:, None] * P  # of an edge in a room
    feature = tl.arange(0, C)
    a = tl.arange(0, D)
    for each in range(tl.program_id(0), tl.cdiv(atoms, I), tl.num_programs(0)):
        tile, row, real, most = opened(owners, each, atoms, I)
        pulled = tl.zeros([I, D], dtype)
        for start in range(0, most, J):
            own, other, kept, r, square, within = edges(
                positions, cell, inverse, owners, tile, start, atoms, box_stride, LIMIT, BOXED, DIM, D, I, J
            )
            if tl.max(kept.to(tl.int32), 0) > 0:
                hears = other if SPEAKS else own
                speaks = own if SPEAKS else other
                weight = within * within * within
                tl.debug_barrier()  # the rooms have been read, by whichever thread
                for begin in range(0, P, C):
                    c = begin + feature
                    x = tl.load(halves + hears[:, None] * 2 * P + c[None, :], mask=kept[:, None], other=0.0)
                    x += tl.load(halves + speaks[:, None] * 2 * P + (P + c)[None, :], mask=kept[:, None], other=0.0)
                    x += square[:, None] * tl.load(of_square + c)[None, :]
                    x, slope = silu_and_slope(x)
                    tl.store(first_room + at + c[None, :], x)
                    tl.store(first_slope + at + c[None, :], slope)
                tl.debug_barrier()
                by_weight = tl.zeros([E], dtype)
                for begin in range(0, P, C):
                    c = begin + feature
                    x = product(first_room, e, every, P, P, message, c, 1, P, P, E, C, K)
                    x, slope = silu_and_slope(x + tl.load(message_bias + c)[None, :])
                    tl.store(second_room + at + c[None, :], x)
                    tl.store(second_slope + at + c[None, :], slope)
                    by = tl.load(by_state + hears[:, None] * 2 * P + (P + c)[None, :], mask=kept[:, None], other=0.0)
                    by_weight += SCALE * tl.sum(by * x, 1)
                by_square = tl.zeros([E], dtype)
                if MOVES:
                    mask = kept[:, None] & (a < DIM)[None, :]
                    by_walk = SCALE * tl.load(by_positions + hears[:, None] * DIM + a[None, :], mask=mask, other=0.0)
                    along = sign * tl.sum(by_walk * r, 1)
                    shrink, root = shrink_of(square)
                    by_out = tl.where(kept, weight * shrink * along, 0.0)
                    out = tl.zeros([E], dtype)
                    tl.debug_barrier()
                    for begin in range(0, P, C):
                        c = begin + feature
                        x = product(second_room, e, every, P, P, move, c, 1, P, P, E, C, K)
                        x, slope = silu_and_slope(x + tl.load(move_bias + c)[None, :])
                        end = tl.load(move_out + c)[None, :]
                        out += tl.sum(x * end, 1)
                        tl.store(by_third + at + c[None, :], by_out[:, None] * end * slope)
                        if WEIGHTS:
                            _add(to_square + 3 * P + c, tl.sum(by_out[:, None] * x, 0))
                    by_weight += out * shrink * along
                    apart = square > 0.0  # a NaN is not, and is in all else
                    by_length = -weight * out * along * shrink * shrink
                    by_square = tl.where(apart, by_length / (2.0 * tl.where(apart, root, 1.0)), 0.0)
                    pull = sign * tl.where(kept, weight * out * shrink, 0.0)
                    pulled += over_others(pull[:, None] * by_walk, I, J, D)
                by_square -= (3.0 / LIMIT) * within * within * by_weight
                tl.debug_barrier()
                for begin in range(0, P, C):
                    c = begin + feature
                    by = tl.load(by_state + hears[:, None] * 2 * P + (P + c)[None, :], mask=kept[:, None], other=0.0)
                    by *= SCALE * weight[:, None]
                    if MOVES:
                        by += product(by_third, e, every, P, P, move, c, P, 1, P, E, C, K)
                    by = tl.where(kept[:, None], by * tl.load(second_slope + at + c[None, :]), 0.0)
                    tl.store(by_second + at + c[None, :], by)
                    if WEIGHTS:
                        _add(to_square + P + c, tl.sum(by, 0))
                tl.debug_barrier()
                for begin in range(0, P, C):
                    c = begin + feature
                    by = product(by_second, e, every, P, P, message, c, P, 1, P, E, C, K)
                    by = tl.where(kept[:, None], by * tl.load(first_slope + at + c[None, :]), 0.0)
                    by_square += tl.sum(by * tl.load(of_square + c)[None, :], 1)
                    to = by_halves + row[:, None] * 2 * P + ((P if SPEAKS else 0) + c)[None, :]
                    part = tl.load(to, mask=real[:, None], other=0.0) + over_others(by, I, J, C)
                    tl.store(to, part, mask=real[:, None])
                    if WEIGHTS:
                        _add(to_square + c, tl.sum(square[:, None] * by, 0))
                        if MOVES:
                            _add(to_square + 2 * P + c, tl.sum(tl.load(by_third + at + c[None, :]), 0))
                pulled += over_others(tl.where(kept[:, None], 2.0 * by_square[:, None] * r, 0.0), I, J, D)
                if WEIGHTS:
                    for block in range((P // C) * (P // C)):
                        o = block // (P // C) * C + feature
                        c = block % (P // C) * C + feature
                        _outer(to_message, by_second, first_room, o, c, E, P, C)
                        if MOVES:
                            _outer(to_move, by_third, second_room, o, c, E, P, C)
        mask = real[:, None] & (a < DIM)[None, :]
        place = row[:, None] * DIM + a[None, :]
        tl.store(to_positions + place, tl.load(start_from + place, mask=mask, other=0.0) + pulled, mask=mask)


@triton.jit
def _outer(to, by, x, o, c, E: tl.constexpr, P: tl.constexpr, C: tl.constexpr):
    """Adds to the block [o, c] of a matrix [P, P] the sum over edges of by[edge, o] x[edge, c]."""
    dtype = by.dtype.element_ty
    precision: tl.constexpr = "ieee" if dtype == tl.float64 else "tf32x3"
    total = tl.zeros([C, C], dtype)
    for begin in range(0, E, _EDGES):
        e = begin + tl.arange(0, _EDGES)
        left = tl.load(by + e[None, :] * P + o[:, None])
        right = tl.load(x + e[:, None] * P + c[None, :])
        total = tl.dot(left, right, total, input_precision=precision, out_dtype=dtype)
    _add(to + o[:, None] * P + c[None, :], total)


@triton.jit(do_not_specialize=["rows"])
def outer_kernel(
    by, x, weights, biases, rows,
    BY_WIDTH: tl.constexpr, X_STRIDE: tl.constexpr, OUTPUTS: tl.constexpr, INPUTS: tl.constexpr, SIZE: tl.constexpr,
    ROWS: tl.constexpr, C: tl.constexpr,
):  # fmt: skip
    """A linear layer's gradients, from by [rows, BY_WIDTH] and x [rows, X_STRIDE]: of weights [parts, SIZE] a matrix
    [OUTPUTS, INPUTS] is written, of biases [parts, SIZE] a vector. A part takes every parts-th tile of rows."""
    dtype = by.dtype.element_ty
    precision: tl.constexpr = "ieee" if dtype == tl.float64 else "tf32x3"
    part = tl.program_id(0).to(tl.int64)
    o = tl.program_id(1) * C + tl.arange(0, C)
    i = tl.program_id(2) * C + tl.arange(0, C)
    total = tl.zeros([C, C], dtype)
    bias = tl.zeros([C], dtype)
    for tile in range(tl.program_id(0), tl.cdiv(rows, ROWS), tl.num_programs(0)):
        row = tl.cast(tile, tl.int64) * ROWS + tl.arange(0, ROWS)
        there = row < rows
        left = tl.load(
            by + row[None, :] * BY_WIDTH + o[:, None], mask=there[None, :] & (o < BY_WIDTH)[:, None], other=0.0
        )
        right = tl.load(x + row[:, None] * X_STRIDE + i[None, :], mask=there[:, None], other=0.0)
        total = tl.dot(left, right, total, input_precision=precision, out_dtype=dtype)
        bias += tl.sum(left, 1)
    tl.store(weights + part * SIZE + o[:, None] * INPUTS + i[None, :], total)
    if tl.program_id(2) == 0:
        tl.store(biases + part * SIZE + o, bias)


def egnn_layer_backward(
    positions: Tensor,
    features: Tensor,
    weights: Tensor,
    system_ptr: Tensor,
    cell: Tensor,
    inverse: Tensor,
    moves: bool,
    cutoff: float,
    neighbors: float,
    sums: Tensor,
    grad_positions: Tensor,
    grad_features: Tensor,
    with_weights: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """As the op ``gmkern::egnn_layer_backward``."""
    with torch.cuda.device_of(positions):
        call = prepared(
            positions, features, weights, system_ptr, cell, inverse, moves, cutoff, neighbors,
            sums=sums, grad_positions=grad_positions, grad_features=grad_features,
        )  # fmt: skip
        to_weights = weights.new_zeros(weights.shape[0] if with_weights else 0)
        if not call.atoms:
            return torch.empty_like(positions), torch.empty_like(features), to_weights
        p, by_features = call.tiles.padded, grad_features.contiguous()
        slopes = features.new_empty((call.atoms, p))
        active = call.linear(call.state, "update", 2 * p, p, bias="update_bias", active=True, slopes=slopes)
        by_active = call.linear(by_features, "update_out", p, p, transposed=True, times=slopes)
        # of the features as they come to the update, and of the sums of messages
        by_state = call.linear(by_active, "update", p, 2 * p, transposed=True, added=by_features)
        to_positions = torch.empty_like(call.geometry[0])
        by_halves = torch.zeros_like(call.state)
        at = call.layout
        programs = call.programs(PROGRAMS)
        partials = weights.new_zeros((programs if with_weights else 0, at.first))
        halves, rooms, start_from = call.halves(), call.rooms(programs, 6), grad_positions.contiguous()
        for speaks in (False, True):
            adjoint_kernel[(programs,)](
                *call.geometry, halves, call.weights, rooms, grad_positions.contiguous(), by_state, start_from,
                to_positions, by_halves, partials, call.atoms, call.box_stride, SPEAKS=speaks,
                WEIGHTS=with_weights and not speaks, **call.settings, **call.chunks,
                num_warps=ADJOINT_WARPS, enable_fp_fusion=False,
            )  # fmt: skip
            start_from = to_positions
        to_features = call.linear(by_halves, "first", 2 * p, p, transposed=True, added=by_state, width=call.width)
        if with_weights:
            of_atoms = [
                (by_halves, call.state, "first", "first_bias", 2 * p, p),
                (by_active, call.state, "update", "update_bias", p, 2 * p),
                (by_features, active, "update_out", "out_bias", p, p),
            ]
            total = torch.cat([partials.sum(0, dtype=torch.float64), _of_atoms(call, of_atoms)])
            count = len(to_weights)
            unpack_kernel[(triton.cdiv(count, BLOCK),)](
                total, to_weights, count, H=call.width, P=p, BLOCK=BLOCK, enable_fp_fusion=False
            )
        return to_positions, to_features, to_weights


def _of_atoms(call: Call, layers: list[tuple[Tensor, Tensor, str, str, int, int]]) -> Tensor:
    """Gradients, float64, of the padded weights that atoms meet: of each (gradient of its outputs, its inputs, weight,
    bias, outputs, inputs)."""
    t, at = call.tiles, call.layout
    parts = min(PARTS, triton.cdiv(call.atoms, t.rows))
    sums = call.state.new_empty((parts, at.size - at.first))
    for by, x, weight, bias, outputs, inputs in layers:
        outer_kernel[(parts, outputs // t.chunk, inputs // t.chunk)](
            by, x, sums[:, getattr(at, weight) - at.first :], sums[:, getattr(at, bias) - at.first :], call.atoms,
            BY_WIDTH=by.shape[1], X_STRIDE=x.shape[1], OUTPUTS=outputs, INPUTS=inputs, SIZE=sums.shape[1], ROWS=t.rows,
            C=t.chunk, num_warps=WARPS, enable_fp_fusion=False,
        )  # fmt: skip
    return sums.sum(0, dtype=torch.float64)
