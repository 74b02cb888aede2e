"""The noise contract in Triton: device functions for every kernel that draws, and the kernel of ``gmkern::noise``.

Operation for operation ``csrc/common/{philox,elementary,noise}.h``. Launch with ``enable_fp_fusion=False``: a
contracted multiply-add would change bits. In float32 ``/`` and ``tl.sqrt`` compile to approximations whatever that flag
says, so ``tl.div_rn`` and ``tl.sqrt_rn`` stand for them; in float64 both are correctly rounded.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from gmkern.random import reference
from gmkern.random.streams import TAIL

_TAIL = tl.constexpr(TAIL)
_TAIL_WORDS = tl.constexpr(256)
_BLOCK = 256  # Philox blocks a program takes at once: 1024 elements in float32


def _constants(values: tuple[float, ...]) -> tl.constexpr:
    return tl.constexpr(tuple(values))


_LOG1P_32 = _constants(reference._LOG1P_32)
_LOG1P_64 = _constants(reference._LOG1P_64)
_SIN_32 = _constants(reference._SIN_32)
_COS_32 = _constants(reference._COS_32)
_SIN_64 = _constants(reference._SIN_64)
_COS_64 = _constants(reference._COS_64)
_LN2_HIGH_32 = tl.constexpr(float.fromhex("0x1.62e4p-1"))
_LN2_LOW_32 = tl.constexpr(float.fromhex("0x1.7f7d1cp-20"))
_LN2_HIGH_64 = tl.constexpr(float.fromhex("0x1.62e42feep-1"))
_LN2_LOW_64 = tl.constexpr(float.fromhex("0x1.a39ef35793c76p-33"))
_ANGLE_32 = tl.constexpr(float.fromhex("0x1.921fb6p-30"))
_ANGLE_64 = tl.constexpr(float.fromhex("0x1.921fb54442d18p-62"))


@triton.jit
def mix64(z):
    """SplitMix64's finaliser of a uint64."""
    z = z + 0x9E3779B97F4A7C15
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB
    return z ^ (z >> 31)


@triton.jit
def noise_key(seed, stream):
    """(k0, k1) uint32 of an int64 seed and a uint32 stream."""
    k = mix64(mix64(seed.to(tl.uint64, bitcast=True)) + stream)
    return k.to(tl.uint32), (k >> 32).to(tl.uint32)


@triton.jit
def philox(c0, c1, c2, c3, k0, k1):
    """Philox4x32-10 of uint32 counters and keys."""
    for _ in tl.static_range(10):
        high0 = tl.umulhi(c0, 0xD2511F53)
        low0 = c0 * 0xD2511F53
        high1 = tl.umulhi(c2, 0xCD9E8D57)
        low1 = c2 * 0xCD9E8D57
        c0 = high1 ^ c1 ^ k0
        c1 = low1
        c2 = high0 ^ c3 ^ k1
        c3 = low0
        k0 = k0 + 0x9E3779B9
        k1 = k1 + 0xBB67AE85
    return c0, c1, c2, c3


@triton.jit
def noise_block(k0, k1, sample_id, step, block):
    """The four words of uint32 blocks ``block`` [...]; sample_id and step are int64 scalars."""
    zero = block * 0
    bits = sample_id.to(tl.uint64, bitcast=True)
    return philox(
        block,
        zero + step.to(tl.uint32),
        zero + bits.to(tl.uint32),
        zero + (bits >> 32).to(tl.uint32),
        zero + k0,
        zero + k1,
    )


@triton.jit
def horner(x, coefficients: tl.constexpr, COUNT: tl.constexpr):
    p = x * 0.0 + coefficients[0]
    for i in tl.static_range(1, COUNT):
        p = p * x + coefficients[i]
    return p


@triton.jit
def log_from(e, r):
    """e log(2) + log(1 + r)."""
    if r.dtype == tl.float32:
        z = r * r
        log1p = r + ((r * z) * horner(r, _LOG1P_32, 8) - 0.5 * z)
        return e * _LN2_HIGH_32 + (log1p + e * _LN2_LOW_32)
    else:
        s = r / (2.0 + r)  # float64: div.rn
        z = s * s
        log1p = (s + s) + (s * z) * horner(z, _LOG1P_64, 7)
        return e * _LN2_HIGH_64 + (log1p + e * _LN2_LOW_64)


@triton.jit
def reduce_positive(x):
    """(e, r) with x = 2^e (1 + r), for positive normal x."""
    if x.dtype == tl.float32:
        bits = x.to(tl.int32, bitcast=True)
        e = (bits - 0x3F3504F3) >> 23
        return e.to(tl.float32), (bits - (e << 23)).to(tl.float32, bitcast=True) - 1.0
    else:
        bits = x.to(tl.int64, bitcast=True)
        e = (bits - 0x3FE6A09E667F3BCD) >> 52
        return e.to(tl.float64), (bits - (e << 52)).to(tl.float64, bitcast=True) - 1.0


@triton.jit
def log_positive(x):
    e, r = reduce_positive(x)
    return log_from(e, r)


@triton.jit
def unit_from_word(w, tail):
    """w / 2^bits + tail: float32 of a uint32, float64 of a uint64."""
    if w.dtype == tl.uint32:
        return w.to(tl.float32) * 2.3283064365386963e-10 + tail
    else:
        return w.to(tl.float64) * 5.421010862427522e-20 + tail


@triton.jit
def half_word(w):
    """Half a word's width, in the shape and precision of w."""
    if w.dtype == tl.uint32:
        return (w * 0).to(tl.float32) + 1.1641532182693481e-10
    else:
        return (w * 0).to(tl.float64) + 2.710505431213761e-20


@triton.jit
def uniform_from_word(w):
    u = unit_from_word(w, half_word(w))
    if w.dtype == tl.uint32:
        return tl.where(u < 0.9999999403953552, u, 0.9999999403953552)
    else:
        return tl.where(u < 0.9999999999999999, u, 0.9999999999999999)


@triton.jit
def exponential_from_word(w, tail):
    """-log(1 - u); ``tail`` is what is added to w / 2^bits (half_word(w) where not refined)."""
    u = unit_from_word(w, tail)
    ones: tl.constexpr = 0xFFFFFFFF if w.dtype == tl.uint32 else 0xFFFFFFFFFFFFFFFF
    e, r = reduce_positive(unit_from_word(w ^ ones, half_word(w)))
    split: tl.constexpr = 0x4AFB0CCC if w.dtype == tl.uint32 else 0x4AFB0CCC06219B7B  # u = 1 - sqrt(1/2)
    near_zero = w < split
    return -log_from(tl.where(near_zero, 0.0, e), tl.where(near_zero, -u, r))


@triton.jit
def gumbel_from_word(w):
    """-log(-log(1 - u)) of words that need no refinement (>= 256, or 64-bit)."""
    return -log_positive(exponential_from_word(w, half_word(w)))


@triton.jit
def gumbel_from_words(w, second):
    """The same for uint32 words of any value, with the second words that refine those below 256."""
    fine = (second.to(tl.float32) + 0.5) * 5.421010862427522e-20
    return -log_positive(exponential_from_word(w, tl.where(w < _TAIL_WORDS, fine, half_word(w))))


@triton.jit
def normals_from_words(w0, w1):
    """Two normals from two words (Box and Muller)."""
    if w1.dtype == tl.uint32:
        quadrant = (w1 + 0x20000000) >> 30
        d = (w1 - (quadrant << 30)).to(tl.int32, bitcast=True)
        x = (d.to(tl.float32) + 0.5) * _ANGLE_32
        z = x * x
        sin = x + (x * z) * horner(z, _SIN_32, 3)
        cos = (1.0 - 0.5 * z) + (z * z) * horner(z, _COS_32, 3)
    else:
        quadrant = (w1 + 0x2000000000000000) >> 62
        d = (w1 - (quadrant << 62)).to(tl.int64, bitcast=True)
        x = (d.to(tl.float64) + 0.5) * _ANGLE_64
        z = x * x
        sin = x + (x * z) * horner(z, _SIN_64, 6)
        cos = (1.0 - 0.5 * z) + (z * z) * horner(z, _COS_64, 6)
    e = exponential_from_word(w0, half_word(w0))
    radius = tl.sqrt_rn(e + e) if w0.dtype == tl.uint32 else tl.sqrt(e + e)  # float64: sqrt.rn
    odd = (quadrant & 1) == 1
    c = tl.where(odd, sin, cos)
    s = tl.where(odd, cos, sin)
    c = tl.where(((quadrant + 1) & 2) == 2, -c, c)
    s = tl.where((quadrant & 2) == 2, -s, s)
    return radius * c, radius * s


@triton.jit
def gumbels(w0, w1, w2, w3, seed, stream, sample_id, step, block):
    """The float32 Gumbels of four words; the second words are drawn only where a word of the tile needs one."""
    least = tl.min(tl.minimum(tl.minimum(w0, w1), tl.minimum(w2, w3)))
    if least < _TAIL_WORDS:
        k0, k1 = noise_key(seed, stream | _TAIL)
        t0, t1, t2, t3 = noise_block(k0, k1, sample_id, step, block)
        g0 = gumbel_from_words(w0, t0)
        g1 = gumbel_from_words(w1, t1)
        g2 = gumbel_from_words(w2, t2)
        g3 = gumbel_from_words(w3, t3)
    else:
        g0 = gumbel_from_word(w0)
        g1 = gumbel_from_word(w1)
        g2 = gumbel_from_word(w2)
        g3 = gumbel_from_word(w3)
    return g0, g1, g2, g3


@triton.jit
def join64(low, high):
    return low.to(tl.uint64) | (high.to(tl.uint64) << 32)


@triton.jit
def interleave4(v0, v1, v2, v3):
    """[4 BLOCK], or rows of them: v0[0], v1[0], v2[0], v3[0], v0[1], ..."""
    four = tl.join(tl.join(v0, v2), tl.join(v1, v3))
    if len(v0.shape) == 1:
        return tl.reshape(four, (4 * v0.shape[0],))
    else:
        return tl.reshape(four, (v0.shape[0], 4 * v0.shape[1]))


@triton.jit
def noise_kernel(
    out, seeds, sample_ids, steps, n, stream, seed_stride, step_stride,
    KIND: tl.constexpr, FP64: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """out [B, n] of one row a program_id(0); chunks of BLOCK Philox blocks, strided over program_id(1)."""
    row = tl.program_id(0).to(tl.int64)
    seed = tl.load(seeds + row * seed_stride)
    step = tl.load(steps + row * step_stride)
    sample_id = tl.load(sample_ids + row)
    stream = tl.cast(stream, tl.uint32)  # a launch makes 1 a constant, which has no method to()
    k0, k1 = noise_key(seed, stream)
    per_block: tl.constexpr = 2 if FP64 else 4
    chunk: tl.constexpr = per_block * BLOCK
    for i in range(tl.program_id(1), tl.cdiv(n, chunk), tl.num_programs(1)):
        start = tl.cast(i, tl.int64) * chunk
        block = (start // per_block + tl.arange(0, BLOCK)).to(tl.uint32)
        w0, w1, w2, w3 = noise_block(k0, k1, sample_id, step, block)
        if FP64:
            a = join64(w0, w1)
            b = join64(w2, w3)
            if KIND == 0:
                v0 = uniform_from_word(a)
                v1 = uniform_from_word(b)
            elif KIND == 1:
                v0, v1 = normals_from_words(a, b)
            else:
                v0 = gumbel_from_word(a)
                v1 = gumbel_from_word(b)
            values = tl.interleave(v0, v1)
        else:
            if KIND == 0:
                v0 = uniform_from_word(w0)
                v1 = uniform_from_word(w1)
                v2 = uniform_from_word(w2)
                v3 = uniform_from_word(w3)
            elif KIND == 1:
                v0, v1 = normals_from_words(w0, w1)
                v2, v3 = normals_from_words(w2, w3)
            else:
                v0, v1, v2, v3 = gumbels(w0, w1, w2, w3, seed, stream, sample_id, step, block)
            values = interleave4(v0, v1, v2, v3)
        element = start + tl.arange(0, chunk)
        tl.store(out + row * n + element, values, mask=element < n)


def noise(seed: Tensor, sample_ids: Tensor, step: Tensor, n: int, stream: int, kind: int, fp64: bool) -> Tensor:
    """Launches :func:`noise_kernel`; arguments as those of the op ``gmkern::noise``."""
    rows = sample_ids.shape[0]
    out = sample_ids.new_empty((rows, n), dtype=torch.float64 if fp64 else torch.float32)
    if out.numel():
        chunks = min(triton.cdiv(n, _BLOCK * (2 if fp64 else 4)), 65535)
        with torch.cuda.device_of(out):
            noise_kernel[(rows, chunks)](
                out, seed, sample_ids, step, n, stream,
                int(seed.numel() > 1), int(step.numel() > 1),
                KIND=kind, FP64=fp64, BLOCK=_BLOCK, enable_fp_fusion=False,
            )  # fmt: skip
    return out
