"""Which tokens are kept, in Triton: thresholds found by cutting the order of the reals in four, again and again.

A kept set is a prefix (cut, place) of the order (z descending, index ascending) and, where typical_p cuts, a prefix
(near, near_place) of the order (nearness, index) within it. Sums are of whole numbers (triton_mass.py), so neither
tiles nor warps have an order to keep.
"""

from __future__ import annotations

import triton
import triton.language as tl

from gmkern.decode.sample.triton_mass import exp_nonpositive, halves, order_bits, reaches, settle, total, wide

NO_PLACE = tl.constexpr(1 << 30)  # past every index


@triton.jit
def average(a, b):
    """floor((a + b) / 2), which cannot overflow."""
    return (a & b) + ((a ^ b) >> 1)


@triton.jit
def load_tile(z_row, start, vocab, TILE: tl.constexpr):
    """(z, index) of a tile; -inf past the end."""
    index = start + tl.arange(0, TILE)
    return tl.load(z_row + index, mask=index < vocab, other=float("-inf")), index


@triton.jit
def nearness(w, mean):
    """How near a token's surprise is to the entropy: greater is nearer."""
    off = w - mean
    return -tl.where(off < 0, -off, off)


@triton.jit
def keeps(z, index, top, cut, place, near, near_place, mean, TYPICAL: tl.constexpr):
    """Whether tokens are inside the cut of the order (z, index) and, where TYPICAL, of (nearness, index)."""
    key = order_bits(z)
    kept = (z > float("-inf")) & ((key > cut) | ((key == cut) & (index <= place)))
    if TYPICAL:
        other = order_bits(nearness(z - top, mean))
        kept = kept & ((other > near) | ((other == near) & (index <= near_place)))
    return kept


@triton.jit
def weigh(z, top, inside, MASS: tl.constexpr):
    """What tokens count for in a search: their mass, or one."""
    if MASS:
        high, low = halves(tl.where(inside, exp_nonpositive(z - top), 0.0))
        return high, low
    else:
        one = inside.to(tl.int64)
        return one, one * 0


@triton.jit
def search(
    z_row, vocab, top, cut, place, mean, target_high, target_low,
    MASS: tl.constexpr, BY_NEARNESS: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """The smallest prefix of the tokens inside (cut, place) that weighs at least the target: its own (cut, place).

    The order is (z descending, index ascending), or (nearness, index).
    """
    lowest = order_bits(top * 0.0 + float("-inf"))
    zero = tl.zeros((TILE,), tl.int64)
    # measure(key >= low) reaches the target, measure(key >= high) does not
    low = lowest
    high = (order_bits(top * 0.0) if BY_NEARNESS else order_bits(top)) + 1
    while average(low, high) > low:
        p1 = average(low, high)
        p0 = average(low, p1)
        p2 = average(p1, high)
        h0, l0, h1, l1, h2, l2 = zero, zero, zero, zero, zero, zero
        for start in range(0, vocab, TILE):
            z, index = load_tile(z_row, start, vocab, TILE)
            inside = keeps(z, index, top, cut, place, cut, place, mean, False)
            key = order_bits(nearness(z - top, mean)) if BY_NEARNESS else order_bits(z)
            gh, gl = weigh(z, top, inside, MASS)
            h0 += tl.where(key >= p0, gh, 0)
            l0 += tl.where(key >= p0, gl, 0)
            h1 += tl.where(key >= p1, gh, 0)
            l1 += tl.where(key >= p1, gl, 0)
            h2 += tl.where(key >= p2, gh, 0)
            l2 += tl.where(key >= p2, gl, 0)
        a0, b0 = total(h0, l0)
        a1, b1 = total(h1, l1)
        a2, b2 = total(h2, l2)
        r0 = reaches(a0, b0, target_high, target_low)
        r1 = reaches(a1, b1, target_high, target_low)
        r2 = reaches(a2, b2, target_high, target_low)
        high = tl.where(r2, high, tl.where(r1, p2, tl.where(r0, p1, p0)))
        low = tl.where(r2, p2, tl.where(r1, p1, tl.where(r0, p0, low)))
    # of the tokens at `low`, as many as are needed, by index
    above_high, above_low = zero, zero
    for start in range(0, vocab, TILE):
        z, index = load_tile(z_row, start, vocab, TILE)
        inside = keeps(z, index, top, cut, place, cut, place, mean, False)
        key = order_bits(nearness(z - top, mean)) if BY_NEARNESS else order_bits(z)
        gh, gl = weigh(z, top, inside & (key > low), MASS)
        above_high += gh
        above_low += gl
    run_high, run_low = total(above_high, above_low)
    last = tl.zeros((TILE,), tl.int32) + NO_PLACE
    for start in range(0, vocab, TILE):
        z, index = load_tile(z_row, start, vocab, TILE)
        inside = keeps(z, index, top, cut, place, cut, place, mean, False)
        key = order_bits(nearness(z - top, mean)) if BY_NEARNESS else order_bits(z)
        tie = inside & (key == low)
        gh, gl = weigh(z, top, tie, MASS)
        to_high, to_low = settle(run_high + tl.cumsum(gh, axis=0), run_low + tl.cumsum(gl, axis=0))
        reached = tie & reaches(to_high, to_low, target_high, target_low)
        last = tl.minimum(last, tl.where(reached, index, NO_PLACE))
        run_high, run_low = settle(run_high + tl.sum(gh, axis=0), run_low + tl.sum(gl, axis=0))
    return low, tl.min(last, axis=0)


@triton.jit
def mass_inside(z_row, vocab, top, cut, place, near, near_place, mean, TYPICAL: tl.constexpr, TILE: tl.constexpr):
    high = tl.zeros((TILE,), tl.int64)
    low = tl.zeros((TILE,), tl.int64)
    for start in range(0, vocab, TILE):
        z, index = load_tile(z_row, start, vocab, TILE)
        inside = keeps(z, index, top, cut, place, near, near_place, mean, TYPICAL)
        gh, gl = weigh(z, top, inside, True)
        high += gh
        low += gl
    return total(high, low)


@triton.jit
def mean_depth(z_row, vocab, top, cut, place, whole_high, whole_low, FP64: tl.constexpr, TILE: tl.constexpr):
    """The mean of z - top over the tokens inside: minus the entropy, up to the log of their mass."""
    high = tl.zeros((TILE,), tl.int64)
    low = tl.zeros((TILE,), tl.int64)
    for start in range(0, vocab, TILE):
        z, index = load_tile(z_row, start, vocab, TILE)
        inside = keeps(z, index, top, cut, place, cut, place, top, False)
        e = exp_nonpositive(z - top)
        gh, gl = halves(tl.where(inside, e * (top - z), 0.0))
        high += gh
        low += gl
    high_sum, low_sum = total(high, low)
    mean = -(wide(high_sum, low_sum, FP64) / wide(whole_high, whole_low, FP64))
    return mean.to(top.dtype)
