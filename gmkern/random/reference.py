"""The noise contract in plain PyTorch: the truth that C++, CUDA and Triton equal bit for bit (docs/noise.md).

Only integer steps, +, -, *, / and square roots are used, each rounded on its own, so any IEEE 754 device gives the same
bits. 32-bit words live in int64 tensors, 64-bit words in int64 tensors as bit patterns.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from gmkern._exact import sqrt as exact_sqrt
from gmkern.random.streams import TAIL

_MASK = 0xFFFFFFFF
_TAIL_WORDS = 256  # a Gumbel's word below this takes a second one


def _signed(word: int) -> int:
    """The int64 with the bits of a 64-bit word."""
    return word - (1 << 64) if word >> 63 else word


def _shift_right(x: Tensor, bits: int) -> Tensor:
    """Logical right shift of 64-bit patterns."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _mix64(z: Tensor) -> Tensor:
    z = z + _signed(0x9E3779B97F4A7C15)
    z = (z ^ _shift_right(z, 30)) * _signed(0xBF58476D1CE4E5B9)
    z = (z ^ _shift_right(z, 27)) * _signed(0x94D049BB133111EB)
    return z ^ _shift_right(z, 31)


def noise_key(seed: Tensor, stream: int) -> tuple[Tensor, Tensor]:
    """The two 32-bit words of Philox's key, for seeds of any shape."""
    k = _mix64(_mix64(seed) + stream)
    return k & _MASK, _shift_right(k, 32)


def philox4x32_10(counter: tuple[Tensor, ...], key: tuple[Tensor, Tensor]) -> tuple[Tensor, ...]:
    """Philox4x32-10 of four counter words and two key words (int64 tensors that broadcast)."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        p0 = c0 * 0xD2511F53  # the low 64 bits of the product, as a pattern: all of them, as both factors have 32
        p1 = c2 * 0xCD9E8D57
        c0, c1, c2, c3 = (
            _shift_right(p1, 32) ^ c1 ^ k0,
            p1 & _MASK,
            _shift_right(p0, 32) ^ c3 ^ k1,
            p0 & _MASK,
        )
        k0 = (k0 + 0x9E3779B9) & _MASK
        k1 = (k1 + 0xBB67AE85) & _MASK
    return c0, c1, c2, c3


def words(seed: Tensor, sample_ids: Tensor, step: Tensor, n: int, stream: int) -> Tensor:
    """Words 0 to n - 1 of each row: [B, n] int64 in [0, 2^32). Word e is word e % 4 of block e // 4."""
    ids = sample_ids[:, None]
    blocks = torch.arange((n + 3) // 4, dtype=torch.int64, device=sample_ids.device)[None, :]
    rows = (sample_ids.shape[0], blocks.shape[1])
    counter = (
        blocks.expand(rows),
        (step.reshape(-1, 1) & _MASK).expand(rows),
        (ids & _MASK).expand(rows),
        _shift_right(ids, 32).expand(rows),
    )
    out = torch.stack(philox4x32_10(counter, noise_key(seed.reshape(-1, 1), stream)), dim=2)
    return out.flatten(1)[:, :n]


def _words64(seed: Tensor, sample_ids: Tensor, step: Tensor, n: int, stream: int) -> tuple[Tensor, Tensor]:
    """64-bit words 0 to n - 1 as (high, low) halves [B, n]: word e is words 2e (low) and 2e + 1 (high) of the row."""
    halves = words(seed, sample_ids, step, 2 * n, stream).reshape(sample_ids.shape[0], n, 2)
    return halves[..., 1], halves[..., 0]


# --- exact elementary functions: csrc/common/elementary.h, operation for operation ------------------------------------

_LOG1P_32 = tuple(
    map(
        float.fromhex,
        (
            *("-0x1.38b4ccp-4", "0x1.055b46p-3", "-0x1.0d8552p-3", "0x1.22da22p-3"),
            *("-0x1.547244p-3", "0x1.99a008p-3", "-0x1.000228p-2", "0x1.555554p-2"),
        ),
    )
)
_LOG1P_64 = tuple(
    map(
        float.fromhex,
        (
            *("0x1.2f056cb22126ep-3", "0x1.39a1b9d71d6f7p-3", "0x1.74663ef0ca291p-3", "0x1.c71c520935ce1p-3"),
            *("0x1.24924941f153ep-2", "0x1.999999997fdb4p-2", "0x1.5555555555592p-1"),
        ),
    )
)
_SIN_32 = (-1.9517297e-4, 8.332178e-3, -1.6666655e-1)
_COS_32 = (2.4433156e-5, -1.3887316e-3, 4.1666646e-2)
_SIN_64 = (
    1.589683020336625e-10,
    -2.5050758694593416e-08,
    2.7557313695499526e-06,
    -0.0001984126982981774,
    0.008333333333322425,
    -0.16666666666666632,
)
_COS_64 = (
    -1.135851906068831e-11,
    2.087570047816009e-09,
    -2.7557314176412275e-07,
    2.4801587288841004e-05,
    -0.0013888888888873038,
    0.041666666666666595,
)


def _const(x: Tensor, value: float) -> Tensor:
    """A constant of x's dtype: a Python number would be multiplied in double precision on some paths."""
    return torch.tensor(value, dtype=x.dtype, device=x.device)


def _horner(x: Tensor, coefficients: tuple[float, ...]) -> Tensor:
    p = _const(x, coefficients[0])
    for c in coefficients[1:]:
        p = p * x + _const(x, c)
    return p


def _log1p_reduced(r: Tensor) -> Tensor:
    """log(1 + r) for r in [sqrt(1/2) - 1, sqrt(2) - 1]."""
    if r.dtype == torch.float32:
        z = r * r
        return r + ((r * z) * _horner(r, _LOG1P_32) - _const(r, 0.5) * z)
    s = r / (_const(r, 2.0) + r)
    z = s * s
    return (s + s) + (s * z) * _horner(z, _LOG1P_64)


def _reduce(x: Tensor) -> tuple[Tensor, Tensor]:
    """e and r with x = 2^e (1 + r), 1 + r in [sqrt(1/2), sqrt(2)), for positive normal x."""
    if x.dtype == torch.float32:
        bits = x.view(torch.int32)
        e = (bits - 0x3F3504F3) >> 23
        return e.to(x.dtype), (bits - (e << 23)).view(x.dtype) - _const(x, 1.0)
    bits = x.view(torch.int64)
    e = (bits - 0x3FE6A09E667F3BCD) >> 52
    return e.to(x.dtype), (bits - (e << 52)).view(x.dtype) - _const(x, 1.0)


def _log_from(e: Tensor, r: Tensor) -> Tensor:
    high, low = (
        ("0x1.62e4p-1", "0x1.7f7d1cp-20") if r.dtype == torch.float32 else ("0x1.62e42feep-1", "0x1.a39ef35793c76p-33")
    )
    return e * _const(r, float.fromhex(high)) + (_log1p_reduced(r) + e * _const(r, float.fromhex(low)))


def log_positive(x: Tensor) -> Tensor:
    """log(x) for positive normal x (float32 or float64)."""
    return _log_from(*_reduce(x))


def _sincos_reduced(x: Tensor) -> tuple[Tensor, Tensor]:
    """sin and cos of x in [-pi/4, pi/4]."""
    sin, cos = (_SIN_32, _COS_32) if x.dtype == torch.float32 else (_SIN_64, _COS_64)
    z = x * x
    return (
        x + (x * z) * _horner(z, sin),
        (_const(x, 1.0) - _const(x, 0.5) * z) + (z * z) * _horner(z, cos),
    )


# --- words to numbers: csrc/common/noise.h -------------------------------------------------------------------------


def _real(word: Tensor | tuple[Tensor, Tensor]) -> Tensor:
    """The value of a word, rounded to nearest: float32 of a 32-bit word, float64 of a (high, low) pair."""
    if isinstance(word, Tensor):
        return word.to(torch.float32)
    high, low = word
    return high.to(torch.float64) * 2.0**32 + low.to(torch.float64)  # both terms exact: one rounding


def _complement(word: Tensor | tuple[Tensor, Tensor]) -> Tensor | tuple[Tensor, Tensor]:
    return word ^ _MASK if isinstance(word, Tensor) else (word[0] ^ _MASK, word[1] ^ _MASK)


def _unit(word: Tensor | tuple[Tensor, Tensor], tail: Tensor | None = None) -> Tensor:
    """word / 2^bits + tail; half a word's width where no tail is given."""
    x = _real(word)
    bits = 32 if x.dtype == torch.float32 else 64
    return x * _const(x, 2.0**-bits) + (_const(x, 2.0 ** -(bits + 1)) if tail is None else tail)


def uniform_from_word(word: Tensor | tuple[Tensor, Tensor]) -> Tensor:
    u = _unit(word)
    return torch.minimum(u, _const(u, 1 - 2.0**-24 if u.dtype == torch.float32 else 1 - 2.0**-53))


def exponential_from_word(word: Tensor | tuple[Tensor, Tensor], tail: Tensor | None = None) -> Tensor:
    """-log(1 - u)."""
    u = _unit(word, tail)
    e, r = _reduce(_unit(_complement(word)))
    if isinstance(word, Tensor):
        near_zero = word < 0x4AFB0CCC  # u < 1 - sqrt(1/2)
    else:
        near_zero = (word[0] < 0x4AFB0CCC) | ((word[0] == 0x4AFB0CCC) & (word[1] < 0x06219B7B))
    return -_log_from(torch.where(near_zero, 0.0, e), torch.where(near_zero, -u, r))


def gumbel_from_word(word: Tensor | tuple[Tensor, Tensor], second: Tensor | None = None) -> Tensor:
    """-log(-log(1 - u)); ``second`` refines the words below 256 (float32 only)."""
    tail = None
    if second is not None and isinstance(word, Tensor):
        fine = (_real(second) + 0.5) * 2.0**-64
        tail = torch.where(word < _TAIL_WORDS, fine, _const(fine, 2.0**-33))
    return -log_positive(exponential_from_word(word, tail))


def _angle(word: Tensor | tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """The quadrant (0 to 3) and the angle within it, in [-pi/4, pi/4], of 2 pi (word + 1/2) / 2^bits."""
    if isinstance(word, Tensor):
        quadrant = ((word + 0x20000000) & _MASK) >> 30
        d = (word - (quadrant << 30)) & _MASK
        d = torch.where(d >= 1 << 31, d - (1 << 32), d).to(torch.float32)
        return quadrant, (d + 0.5) * _const(d, float.fromhex("0x1.921fb6p-30"))
    bits = (word[0] << 32) | word[1]
    quadrant = _shift_right(bits + (1 << 61), 62)
    d = (bits - (quadrant << 62)).to(torch.float64)
    return quadrant, (d + 0.5) * (math.pi / 2 * 2.0**-62)


def normals_from_words(
    first: Tensor | tuple[Tensor, Tensor], second: Tensor | tuple[Tensor, Tensor]
) -> tuple[Tensor, Tensor]:
    """Two normals from two words (Box and Muller)."""
    quadrant, angle = _angle(second)
    sin, cos = _sincos_reduced(angle)
    e = exponential_from_word(first)
    radius = exact_sqrt(e + e)
    odd = (quadrant & 1) == 1
    c = torch.where(odd, sin, cos)
    s = torch.where(odd, cos, sin)
    c = torch.where(((quadrant + 1) & 2) == 2, -c, c)
    s = torch.where((quadrant & 2) == 2, -s, s)
    return radius * c, radius * s


# --- rows: [B, n] ----------------------------------------------------------------------------------------------------


def uniform(seed: Tensor, sample_ids: Tensor, step: Tensor, n: int, stream: int, dtype: torch.dtype) -> Tensor:
    """[B, n] uniforms in (0, 1)."""
    if dtype == torch.float64:
        return uniform_from_word(_words64(seed, sample_ids, step, n, stream))
    return uniform_from_word(words(seed, sample_ids, step, n, stream))


def normal(seed: Tensor, sample_ids: Tensor, step: Tensor, n: int, stream: int, dtype: torch.dtype) -> Tensor:
    """[B, n] standard normals; elements 2i and 2i + 1 share words 2i and 2i + 1."""
    even = n + n % 2
    if dtype == torch.float64:
        high, low = _words64(seed, sample_ids, step, even, stream)
        pair = normals_from_words((high[:, 0::2], low[:, 0::2]), (high[:, 1::2], low[:, 1::2]))
    else:
        w = words(seed, sample_ids, step, even, stream)
        pair = normals_from_words(w[:, 0::2], w[:, 1::2])
    return torch.stack(pair, dim=2).flatten(1)[:, :n]


def gumbel(seed: Tensor, sample_ids: Tensor, step: Tensor, n: int, stream: int, dtype: torch.dtype) -> Tensor:
    """[B, n] standard Gumbels."""
    if dtype == torch.float64:
        return gumbel_from_word(_words64(seed, sample_ids, step, n, stream))
    w = words(seed, sample_ids, step, n, stream)
    return gumbel_from_word(w, words(seed, sample_ids, step, n, stream | TAIL))
