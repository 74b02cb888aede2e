"""Masses in Triton: probabilities as sums of whole numbers, exact in any order (docs/sampling.md).

Operation for operation ``csrc/decode/sample_*``; launch with ``enable_fp_fusion=False``. A mass is a pair (high, low)
of int64 in units of 2^-42 and 2^-84; in float32's arithmetic low is 0.
"""

from __future__ import annotations

import triton
import triton.language as tl

from gmkern.decode.sample import reference
from gmkern.random.triton_kernels import horner

_EXP_32 = tl.constexpr(reference._EXP_32)
_EXP_64 = tl.constexpr(reference._EXP_64)
_INVERSE_LOG2_32 = tl.constexpr(float.fromhex("0x1.715476p+0"))
_INVERSE_LOG2_64 = tl.constexpr(float.fromhex("0x1.71547652b82fep+0"))
_HIGH_32, _LOW_32 = map(tl.constexpr, reference._LOG2_32)
_HIGH_64, _LOW_64 = map(tl.constexpr, reference._LOG2_64)
_MAGIC_32 = tl.constexpr(1.5 * 2.0**23)
_MAGIC_64 = tl.constexpr(1.5 * 2.0**52)
_FINE_32 = tl.constexpr(1.5 * 2.0**-19)
_COARSE_64 = tl.constexpr(1.5 * 2.0**10)
_FINE_64 = tl.constexpr(1.5 * 2.0**-32)
_UNIT = tl.constexpr(2.0**-42)
_UNIT_LOW = tl.constexpr(2.0**-84)
_SCALE_42 = tl.constexpr(2.0**42)
_LOW_MASK = tl.constexpr((1 << 42) - 1)


@triton.jit
def exp_nonpositive(x):
    """e^x for x <= 0."""
    if x.dtype == tl.float32:
        shifted = x * _INVERSE_LOG2_32 + _MAGIC_32
        n = shifted - _MAGIC_32
        r = (x - n * _HIGH_32) - n * _LOW_32
        y = 1.0 + (r + (r * r) * horner(r, _EXP_32, 5))
        bits = y.to(tl.int32, bitcast=True) + (shifted.to(tl.int32, bitcast=True) << 23)
        return tl.where(x >= -87.0, bits.to(tl.float32, bitcast=True), 0.0)
    else:
        shifted = x * _INVERSE_LOG2_64 + _MAGIC_64
        n = shifted - _MAGIC_64
        r = (x - n * _HIGH_64) - n * _LOW_64
        y = 1.0 + (r + (r * r) * horner(r, _EXP_64, 10))
        bits = y.to(tl.int64, bitcast=True) + (shifted.to(tl.int64, bitcast=True) << 52)
        return tl.where(x >= -708.0, bits.to(tl.float64, bitcast=True), 0.0)


@triton.jit
def divide(a, b):
    """a / b, rounded to nearest."""
    if a.dtype == tl.float32:
        return tl.div_rn(a, b)
    else:
        return a / b


@triton.jit
def order_bits(x):
    """Signed whole numbers in the order of the reals (-0 as 0)."""
    if x.dtype == tl.float32:
        b = (x + 0.0).to(tl.int32, bitcast=True)
        return b ^ ((b >> 31) & 0x7FFFFFFF)
    else:
        b = (x + 0.0).to(tl.int64, bitcast=True)
        return b ^ ((b >> 63) & 0x7FFFFFFFFFFFFFFF)


@triton.jit
def halves(v):
    """v in [0, 1] as int64 parts: (whole, 0) in units of 2^-42, or (high, low) in 2^-42 and 2^-84."""
    if v.dtype == tl.float32:
        t = v + 3.0
        rest = (v - (t - 3.0)) + _FINE_32
        high = (t.to(tl.int32, bitcast=True) - 0x40400000).to(tl.int64)
        low = (rest.to(tl.int32, bitcast=True) - 0x36400000).to(tl.int64)
        return (high << 20) + low, high * 0
    else:
        t = v + _COARSE_64
        rest = (v - (t - _COARSE_64)) + _FINE_64
        return t.to(tl.int64, bitcast=True) - 0x4098000000000000, rest.to(tl.int64, bitcast=True) - 0x3DF8000000000000


@triton.jit
def settle(high, low):
    """The one form of a mass: 0 <= low < 2^42."""
    return high + (low >> 42), low & _LOW_MASK


@triton.jit
def total(high, low):
    return settle(tl.sum(high, axis=0), tl.sum(low, axis=0))


@triton.jit
def reaches(high, low, other_high, other_low):
    return (high > other_high) | ((high == other_high) & (low >= other_low))


@triton.jit
def wide(high, low, FP64: tl.constexpr):
    """A mass as float64."""
    if FP64:
        return high.to(tl.float64) * _UNIT + low.to(tl.float64) * _UNIT_LOW
    else:
        return high.to(tl.float64) * _UNIT


@triton.jit
def real(high, low, FP64: tl.constexpr):
    """A mass in the arithmetic's precision."""
    if FP64:
        return wide(high, low, FP64)
    else:
        return high.to(tl.float32) * _UNIT


@triton.jit
def share(part, high, low, FP64: tl.constexpr):
    """The least mass that is at least ``part`` of a whole; at least one unit, at most the whole."""
    if FP64:
        scaled = (part * wide(high, low, FP64)) * _SCALE_42
        floor = tl.floor(scaled)
        to_high = floor.to(tl.int64)
        to_low = ((scaled - floor) * _SCALE_42).to(tl.int64)
        to_low = tl.where((to_high == 0) & (to_low == 0), 1, to_low)
        over = reaches(to_high, to_low, high, low)
        return tl.where(over, high, to_high), tl.where(over, low, to_low)
    else:
        target = tl.ceil(part.to(tl.float64) * high.to(tl.float64)).to(tl.int64)
        target = tl.where(target < 1, 1, target)
        return tl.where(target < high, target, high), low * 0
