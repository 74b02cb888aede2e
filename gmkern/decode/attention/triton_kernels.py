"""Attention over a cache in Triton: splits of ``SPLIT`` positions, each by online softmax, folded in order.

A tile is 16 query rows of one key-value head, (position, head of the group) pairs side by side, whatever is asked for.
So a row's bits depend on that row alone: positions that it does not see, and splits without any, change no state. Where
rows are many, one program folds all splits of its tile; where they are few, each split has a program, and a second
launch folds them: the same operations, the same bits.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from gmkern._triton_math import row_sum, tanh

SPLIT = 256  # positions
ROWS = tl.constexpr(16)  # of a tile: the least that tensor cores take
WARPS = 8
_FULL = 264  # programs that fill a large GPU twice
SPLIT_SIZE = tl.constexpr(SPLIT)
NOTHING = tl.constexpr(float("-inf"))
_CHUNK = tl.constexpr(32)  # of a head's numbers, in products with the queries


@triton.jit
def _level(peak):
    """What exponents are taken relative to: the peak, if anything is seen."""
    return tl.where(peak == NOTHING, 0.0, peak)


@triton.jit
def fold(out, mass, peak, other_out, other_mass, other_peak):
    """Two sets of positions as one: weighted values [..., ROWS, D], masses and peaks [..., ROWS]."""
    top = tl.maximum(peak, other_peak)
    a, b = tl.exp(peak - _level(top)), tl.exp(other_peak - _level(top))
    return out * tl.expand_dims(a, -1) + other_out * tl.expand_dims(b, -1), mass * a + other_mass * b, top


@triton.jit
def filled(value, GROUP: tl.constexpr, SHAPE: tl.constexpr):
    """[ROWS, ...] of a tile, or [GROUP, ROWS, ...] of GROUP tiles that go together."""
    if GROUP == 0:
        return tl.full(SHAPE, value, tl.float32)
    else:
        return tl.full([GROUP] + SHAPE, value, tl.float32)  # noqa: RUF005  Triton unpacks no list


@triton.jit
def split_of(
    queries, there, keys, values, table, key_scale, value_scale, slope, position, batch, head, length, start, end, dim,
    pages, page_size, window, softcap, scale,
    k_page, k_slot, k_head, v_page, v_slot, v_head, ks_page, ks_slot, ks_head, vs_page, vs_slot, vs_head,
    PAGED: tl.constexpr, SCALED: tl.constexpr, ALIBI: tl.constexpr, CAPPED: tl.constexpr,
    D: tl.constexpr, T: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    """Weighted values [ROWS, D], masses and peaks [ROWS] of the positions start ... start + SPLIT - 1, before end.

    With a GROUP each of these is [GROUP, ...], and batch, head and length, numbers otherwise, are [GROUP, 1]. A sum
    takes the same course either way: dot products on tensor cores, a mass for each place in a step, added at the end.
    """
    out = filled(0.0, GROUP, [ROWS, D])
    mass = filled(0.0, GROUP, [ROWS, T])
    peak = filled(NOTHING, GROUP, [ROWS])
    d = tl.arange(0, D)
    for first in range(start, tl.minimum(start + SPLIT_SIZE, end), T):
        place = first + tl.arange(0, T)
        held = place < length
        page, slot = batch + tl.zeros([T], tl.int64), place.to(tl.int64)
        if PAGED:
            page = tl.load(table + place // page_size, mask=held, other=0).to(tl.int64)
            wrong = held & ((page < 0) | (page >= pages))
            mass += tl.expand_dims(tl.where(wrong, float("nan"), 0.0), -2)
            held &= ~wrong
            slot = (place % page_size).to(tl.int64)
        seen = tl.expand_dims(held, -2) & (place <= tl.expand_dims(position, -1))
        seen &= (window <= 0) | (place > tl.expand_dims(position, -1) - window)
        held &= tl.max(seen.to(tl.int32), -2) > 0  # what nobody sees may hold anything
        v_at = values + tl.expand_dims(page * v_page + slot * v_slot + head * v_head, -1) + d
        v = tl.load(v_at, mask=tl.expand_dims(held, -1) & (d < dim), other=0.0).to(tl.float32)
        score = filled(0.0, GROUP, [ROWS, T])
        for chunk in range(0, dim, _CHUNK):  # all of the queries' numbers, in each warp, would be too many to hold
            c = chunk + tl.arange(0, _CHUNK)
            k_at = keys + tl.expand_dims(page * k_page + slot * k_slot + head * k_head, -1) + c
            k = tl.load(k_at, mask=tl.expand_dims(held, -1) & (c < dim), other=0.0).to(tl.float32)
            q = tl.load(queries + c, mask=tl.expand_dims(there, -1) & (c < dim), other=0.0)
            score = tl.dot(q, tl.trans(k), score, input_precision="tf32x3")
        score *= scale
        if SCALED:
            of_key = tl.load(key_scale + page * ks_page + slot * ks_slot + head * ks_head, mask=held, other=0.0)
            score *= tl.expand_dims(of_key, -2)
        if CAPPED:
            score = softcap * tanh(score / softcap)
        if ALIBI:
            score += tl.expand_dims(slope, -1) * (place - tl.expand_dims(position, -1)).to(tl.float32)
        score = tl.where(seen, score, NOTHING)
        top = tl.maximum(peak, tl.max(score, -1))
        shrink = tl.exp(peak - _level(top))
        weight = tl.exp(score - tl.expand_dims(_level(top), -1))
        mass = mass * tl.expand_dims(shrink, -1) + weight
        if SCALED:
            of_value = tl.load(value_scale + page * vs_page + slot * vs_slot + head * vs_head, mask=held, other=0.0)
            weight *= tl.expand_dims(of_value, -2)
        out = out * tl.expand_dims(shrink, -1) + tl.dot(weight, v, input_precision="tf32x3")
        peak = top
    return out, row_sum(mass), peak


@triton.jit
def mean_of(out, mass, peak):
    """The weighted values' mean; 0 where nothing is seen, and NaN where a mass is, of a page that is not there."""
    nothing = tl.expand_dims(peak == NOTHING, -1)
    return tl.where(nothing, tl.expand_dims(mass, -1), out / tl.expand_dims(tl.where(mass == 0.0, 1.0, mass), -1))


@triton.jit
def _store(out, mass, peak, outs, lses, at, there, dim, D: tl.constexpr):
    """The mean and the log of the sum, of rows ``at``; 0 and -infinity where nothing is seen."""
    d = tl.arange(0, D)
    tl.store(outs + at[:, None] * dim + d[None, :], mean_of(out, mass, peak), mask=there[:, None] & (d < dim)[None, :])
    # a mass that is not a number, of a page that is not there, is kept
    log = tl.where(mass == 0.0, NOTHING, _level(peak) + tl.log(tl.where(mass == 0.0, 1.0, mass)))
    tl.store(lses + at, log, mask=there)


@triton.jit
def attention_kernel(
    queries, keys, values, lengths, tables, key_scale, value_scale, slopes, outs, lses, masses,
    asked, heads, group, dim, room, pages, page_size, table_width, splits, window, softcap, scale,
    k_page, k_slot, k_head, v_page, v_slot, v_head, ks_page, ks_slot, ks_head, vs_page, vs_slot, vs_head,
    FOLDED: tl.constexpr, PAGED: tl.constexpr, SCALED: tl.constexpr, ALIBI: tl.constexpr, CAPPED: tl.constexpr,
    D: tl.constexpr, T: tl.constexpr,
):  # fmt: skip
    """FOLDED: outs [B, Tq, Hq, D] and lses [B, Tq, Hq]. Else one split's outs [B, Tq, Hq, splits, D], masses and lses,
    which are peaks then, [B, Tq, Hq, splits]."""
    each = tl.cdiv(asked * group, ROWS) * (1 if FOLDED else splits)  # programs of a row of the batch, on the one axis
    batch = (tl.program_id(0) // each).to(tl.int64)  # that may be longer than 65,535
    place = tl.program_id(0) % each
    head = tl.program_id(1).to(tl.int64)
    row = (place if FOLDED else place // splits) * ROWS + tl.arange(0, ROWS)
    there = row < asked * group
    at = (batch * asked + row // group) * heads + head * group + row % group
    length = tl.load(lengths + batch)
    is_length = (length >= 0) & (length <= room)
    length = tl.where(is_length, length, 0)
    position = length - asked + row // group
    lowest = tl.min(tl.where(there, position, 2147483647), 0)
    highest = tl.max(tl.where(there, position, -1), 0)
    first = tl.maximum(lowest - window + 1, 0) // SPLIT_SIZE if window > 0 else 0
    last = tl.cdiv(tl.minimum(highest + 1, length), SPLIT_SIZE)
    d = tl.arange(0, D)
    slope = tl.zeros([ROWS], tl.float32)
    if ALIBI:
        slope = tl.load(slopes + head * group + row % group, mask=there, other=0.0)
    table = tables + batch * table_width
    if FOLDED:
        out = tl.zeros([ROWS, D], tl.float32)
        mass = tl.where(is_length, 0.0, float("nan")) + tl.zeros([ROWS], tl.float32)
        peak = tl.full([ROWS], NOTHING, tl.float32)
        for split in range(first, last):
            part_out, part_mass, part_peak = split_of(
                queries + at[:, None] * dim, there, keys, values, table, key_scale, value_scale, slope, position,
                batch, head, length, split * SPLIT_SIZE, length, dim, pages, page_size, window, softcap, scale,
                k_page, k_slot, k_head, v_page, v_slot, v_head, ks_page, ks_slot, ks_head, vs_page, vs_slot, vs_head,
                PAGED, SCALED, ALIBI, CAPPED, D, T, 0,
            )  # fmt: skip
            out, mass, peak = fold(out, mass, peak, part_out, part_mass, part_peak)
        _store(out, mass, peak, outs, lses, at, there, dim, D)
    else:
        split = place % splits
        if (split >= first) & (split < last):
            out, mass, peak = split_of(
                queries + at[:, None] * dim, there, keys, values, table, key_scale, value_scale, slope, position,
                batch, head, length, split * SPLIT_SIZE, length, dim, pages, page_size, window, softcap, scale,
                k_page, k_slot, k_head, v_page, v_slot, v_head, ks_page, ks_slot, ks_head, vs_page, vs_slot, vs_head,
                PAGED, SCALED, ALIBI, CAPPED, D, T, 0,
            )  # fmt: skip
            to = at * splits + split
            tl.store(outs + to[:, None] * dim + d[None, :], out, mask=there[:, None] & (d < dim)[None, :])
            tl.store(masses + to, mass, mask=there)
            tl.store(lses + to, peak, mask=there)


@triton.jit
def fold_kernel(
    part_outs, part_masses, part_peaks, lengths, outs, lses, asked, heads, dim, room, splits, window, D: tl.constexpr
):
    """The splits of one query head, folded in order; those that it cannot see were never written."""
    batch = (tl.program_id(0) // (asked * heads)).to(tl.int64)
    query = tl.program_id(0) % (asked * heads) // heads
    length = tl.load(lengths + batch)
    is_length = (length >= 0) & (length <= room)
    length = tl.where(is_length, length, 0)
    position = length - asked + query
    first = tl.maximum(position - window + 1, 0) // SPLIT_SIZE if window > 0 else 0
    last = tl.cdiv(tl.minimum(position + 1, length), SPLIT_SIZE)
    at = tl.program_id(0) + tl.zeros([1], tl.int64)
    d = tl.arange(0, D)
    out = tl.zeros([1, D], tl.float32)
    mass = tl.where(is_length, 0.0, float("nan")) + tl.zeros([1], tl.float32)
    peak = tl.full([1], NOTHING, tl.float32)
    for split in range(first, last):
        part = at * splits + split
        part_out = tl.load(part_outs + part[:, None] * dim + d[None, :], mask=(d < dim)[None, :], other=0.0)
        part_mass, part_peak = tl.load(part_masses + part), tl.load(part_peaks + part)
        out, mass, peak = fold(out, mass, peak, part_out, part_mass, part_peak)
    _store(out, mass, peak, outs, lses, at, at >= 0, dim, D)


def attention(
    q: Tensor,
    keys: Tensor,
    values: Tensor,
    lengths: Tensor,
    page_table: Tensor | None,
    key_scale: Tensor | None,
    value_scale: Tensor | None,
    slopes: Tensor | None,
    window: int,
    softcap: float,
    scale: float,
) -> tuple[Tensor, Tensor]:
    """As the op ``gmkern::attention``, of float32 queries; a row with a length or a page out of range becomes NaN."""
    batch, asked, heads, dim = q.shape
    key_heads, page_size = keys.shape[2], keys.shape[1]
    pages_a_row = 1 if page_table is None else page_table.shape[1]
    room = page_size * pages_a_row
    splits = max(1, triton.cdiv(room, SPLIT))
    tiles = triton.cdiv(asked * (heads // key_heads), ROWS.value)
    folded = splits == 1 or tiles * key_heads * batch >= _FULL
    outs, lses = torch.empty_like(q), q.new_empty(q.shape[:3])
    if not outs.numel():
        return outs, lses
    parts = (outs, lses, lses)  # what the first launch writes: values, peaks, masses
    if not folded:
        rest = q.new_empty((2, *q.shape[:3], splits))
        parts = (q.new_empty((*q.shape[:3], splits, dim)), rest[0], rest[1])
    scales = [keys if x is None else x for x in (key_scale, value_scale)]
    shape = tiles_of(dim)
    with torch.cuda.device_of(q):
        attention_kernel[(tiles * (1 if folded else splits) * batch, key_heads)](
            q, keys, values, lengths, lengths if page_table is None else page_table, *scales,
            q if slopes is None else slopes, *parts, asked, heads, heads // key_heads, dim, room, keys.shape[0],
            page_size, pages_a_row, splits, window, softcap, scale,
            *keys.stride()[:3], *values.stride()[:3], *scales[0].stride()[:3], *scales[1].stride()[:3],
            FOLDED=folded, PAGED=page_table is not None, SCALED=key_scale is not None, ALIBI=slopes is not None,
            CAPPED=softcap > 0, **shape, num_warps=WARPS, enable_fp_fusion=False,
        )  # fmt: skip
        if not folded:
            fold_kernel[(asked * heads * batch,)](
                parts[0], parts[2], parts[1], lengths, outs, lses, asked, heads, dim, room, splits, window,
                D=shape["D"], num_warps=1, enable_fp_fusion=False,
            )  # fmt: skip
    return outs, lses


def tiles_of(dim: int) -> dict[str, int]:
    """A head's numbers, padded, and the positions of a step: what registers hold."""
    padded = max(16, triton.next_power_of_2(dim))
    return {"D": padded, "T": 32 if padded <= 128 else 16}
