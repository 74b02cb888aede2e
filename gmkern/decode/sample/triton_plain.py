"""The choice of a token without filters, in Triton, for rows side by side: the bits of ``sample_kernel``.

A tile of logits leaves each row a candidate, the greatest sum of a tempered logit and its Gumbel, and its greatest
logit. Candidates and masses of tiles come together in any order: the former are maxima, the latter whole numbers.
Launch with ``enable_fp_fusion=False``. Everything is float32, rows are vectors [R].
"""

from __future__ import annotations

import triton
import triton.language as tl

from gmkern.decode.sample.triton_kept import NO_PLACE
from gmkern.decode.sample.triton_mass import exp_nonpositive, halves, real
from gmkern.random.streams import TOKEN
from gmkern.random.triton_kernels import gumbels, interleave4, log_positive, noise_block, noise_key

_TOKEN = tl.constexpr(TOKEN)
_INFINITY = tl.constexpr(float("inf"))


@triton.jit
def tempered(x, temperature):
    """Logits [R, T] over temperatures [R]; as they are for 0, which stands for the greatest."""
    return tl.div_rn(x, tl.where(temperature == 0.0, 1.0, temperature)[:, None] + tl.zeros_like(x))


@triton.jit
def nobody(R: tl.constexpr):
    """What :func:`better` begins with: no greatest logit, no candidate."""
    nothing = tl.full([R], float("-inf"), tl.float32)
    return nothing, nothing, tl.full([R], NO_PLACE, tl.int32)


@triton.jit
def best_of(most, score, token):
    """Of sets side by side [R, T] one a row: the greatest logit, the greatest score, the first token that has it."""
    best = tl.max(score, 1)
    return tl.max(most, 1), best, tl.min(tl.where(score == best[:, None], token, NO_PLACE), 1)


@triton.jit
def candidates(x, start, inside, temperature, seed, sample_id, step, T: tl.constexpr):
    """Of logits x [R, T] of tokens start ... start + T - 1, of which some are ``inside``: the greatest (infinity where
    one is not finite), the greatest score, and the first token that has it. ``start`` and T are multiples of 4."""
    index = start + tl.arange(0, T)
    z = tempered(x, temperature)
    k0, k1 = noise_key(seed[:, None], _TOKEN)
    zero = tl.zeros([x.shape[0], T // 4], tl.int32)
    block = ((start // 4 + tl.arange(0, T // 4))[None, :] + zero).to(tl.uint32)
    w0, w1, w2, w3 = noise_block(k0, k1, sample_id[:, None], step[:, None], block)
    g0, g1, g2, g3 = gumbels(w0, w1, w2, w3, seed[:, None], _TOKEN, sample_id[:, None], step[:, None], block)
    score = tl.where((temperature == 0.0)[:, None], z, z + interleave4(g0, g1, g2, g3))
    score = tl.where(inside, score, float("-inf"))
    fine = (x < _INFINITY) & (z < _INFINITY)
    return best_of(tl.where(inside, tl.where(fine, x, _INFINITY), float("-inf")), score, index[None, :])


@triton.jit
def better(most, best, token, other_most, other_best, other_token):
    """Of two sets of tokens as one; among equal scores the lower token."""
    wins = (other_best > best) | ((other_best == best) & (other_token < token))
    return tl.maximum(most, other_most), tl.where(wins, other_best, best), tl.where(wins, other_token, token)


@triton.jit
def masses(x, inside, temperature, most):
    """exp(logit - greatest) and exp(tempered - greatest tempered) of a tile [R, T], as whole numbers, 0 outside."""
    top = tempered(most[:, None], temperature)
    raw, _rest = halves(tl.where(inside, exp_nonpositive(x - most[:, None]), 0.0))
    mass, _rest = halves(tl.where(inside, exp_nonpositive(tempered(x, temperature) - top), 0.0))
    return raw, mass


@triton.jit
def spoken(x_token, token, temperature, most, raw, mass):
    """Token (-1 for a row that cannot be served), logprob, raw logprob and log of the kept mass, of sums [R]."""
    fine = (most < _INFINITY) & (most > float("-inf")) & (temperature >= 0.0) & (temperature < _INFINITY)
    divisor = tl.where(temperature == 0.0, 1.0, temperature)
    z_token, top = tl.div_rn(x_token, divisor), tl.div_rn(most, divisor)
    logprob = (z_token - top) - log_positive(real(mass, mass, False))
    logprob = tl.where(temperature == 0.0, 0.0, logprob)
    raw_logprob = (x_token - most) - log_positive(real(raw, raw, False))
    nan = float("nan")
    return (
        tl.where(fine, token, -1).to(tl.int64),
        tl.where(fine, logprob, nan),
        tl.where(fine, raw_logprob, nan),
        tl.where(fine, 0.0, nan),
    )
