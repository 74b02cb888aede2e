"""Scores of given tokens in Triton, and their gradient: the sampler's row, and a pass over it for what is asked.

Values are ``sample``'s to the bit, by the same functions; entropy and gradients are sums of floats, in one order.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from gmkern.decode.sample.triton_kept import keeps, load_tile
from gmkern.decode.sample.triton_mass import divide, exp_nonpositive, real
from gmkern.decode.sample.triton_row import arguments, cuts, in_range, logprob_of, mixed, processed, real_of, sums
from gmkern.random.triton_kernels import log_positive


@triton.jit
def policy_of(z, index, top, cut, place, near, near_place, mean, log_kept, first, greedy):
    """The policy's p and log p of a tile; 0 and 0 for tokens that are not kept."""
    inside = keeps(z, index, top, cut, place, near, near_place, mean, True)
    inside = tl.where(greedy, index == first, inside)
    log = tl.where(greedy, tl.zeros_like(z), (z - top) - log_kept)
    return tl.where(inside, exp_nonpositive(log), 0.0), tl.where(inside, log, 0.0)


@triton.jit
def behaviour_of(z, prob, log, chance, legal):
    """q and log q of what a token is drawn from, and d entropy / d p, up to what all tokens have in common."""
    whole, _mine = mixed(prob, chance, legal)
    q = tl.where(z > float("-inf"), whole, 0.0)
    log_q = tl.where(chance > 0, log_positive(tl.where(q > 0, q, 1.0)), log)
    return q, log_q, -(1 - chance.to(z.dtype)) * log_q


@triton.jit
def spread(
    z_row, vocab, top, cut, place, near, near_place, mean, log_kept, first, greedy, chance, legal, TILE: tl.constexpr
):
    """The entropy of what a token is drawn from, and the policy's mean of its slopes."""
    entropy = tl.zeros((TILE,), top.dtype)
    slope = tl.zeros((TILE,), top.dtype)
    for start in range(0, vocab, TILE):
        z, index = load_tile(z_row, start, vocab, TILE)
        prob, log = policy_of(z, index, top, cut, place, near, near_place, mean, log_kept, first, greedy)
        q, log_q, by_p = behaviour_of(z, prob, log, chance, legal)
        entropy -= q * log_q
        slope += prob * by_p
    return tl.sum(entropy, axis=0), tl.sum(slope, axis=0)


@triton.jit
def token_of(
    x_row, z_row, p, token, vocab, stride, x_top, top, number: tl.constexpr, FP64: tl.constexpr, WHOLE: tl.constexpr,
    TILE: tl.constexpr,
):  # fmt: skip
    """What a row's kept set is, and what it gives a token: its log-probability, the policy's, whether it is kept."""
    all_high, all_low, raw_high, raw_low, legal, first = sums(
        x_row, z_row, vocab, stride, x_top, top, number, WHOLE, TILE
    )
    cut, place, near, near_place, mean, kept_high, kept_low = cuts(
        z_row, p, vocab, top, all_high, all_low, legal, FP64, TILE
    )
    z_token = tl.load(z_row + token)
    inside = keeps(z_token, token, top, cut, place, near, near_place, mean, True)
    kept = real(kept_high, kept_low, FP64)
    logprob, policy, inside = logprob_of(z_token, token, top, kept, first, inside, legal, p)
    total, raw = real(all_high, all_low, FP64), real(raw_high, raw_low, FP64)
    return total, raw, kept, legal, first, cut, place, near, near_place, mean, logprob, policy, inside


@triton.jit
def score_kernel(
    logits, packed, mask, met, scratch, tokens, logprobs, raw_logprobs, log_kept_mass, entropies,
    vocab, row_stride, stride, params_stride, mask_row_stride, mask_stride,
    HAS_MASK: tl.constexpr, HAS_MET: tl.constexpr, FP64: tl.constexpr, TILE: tl.constexpr,
    WHOLE: tl.constexpr, ENTROPY: tl.constexpr,
):  # fmt: skip
    """A row a program: its token's log-probability and, if WHOLE, the rest; NaN for a row that cannot be served."""
    row = tl.program_id(0).to(tl.int64)
    number: tl.constexpr = tl.float64 if FP64 else tl.float32
    p = packed + row * params_stride
    x_row = logits + row * row_stride
    z_row = scratch + row * vocab
    x_top, top, fine = processed(
        x_row, z_row, p, mask + row * mask_row_stride if HAS_MASK else mask, met + row * vocab if HAS_MET else met,
        vocab, stride, mask_stride, number, HAS_MASK, HAS_MET, TILE,
    )  # fmt: skip
    given = tl.load(tokens + row)
    if fine & in_range(p) & (given >= 0) & (given < vocab):
        token = given.to(tl.int32)
        total, raw, kept, legal, first, cut, place, near, near_place, mean, logprob, _policy, _inside = token_of(
            x_row, z_row, p, token, vocab, stride, x_top, top, number, FP64, WHOLE, TILE
        )
        tl.store(logprobs + row, logprob)
        if WHOLE:
            greedy = tl.load(p) == 0
            x_token = tl.load(x_row + token.to(tl.int64) * stride).to(number)
            shared = log_positive(divide(kept, total))
            tl.store(raw_logprobs + row, (x_token - x_top) - log_positive(raw))
            tl.store(log_kept_mass + row, tl.where(greedy, 0.0, shared))
            entropy = top * 0.0
            if ENTROPY:
                entropy, _slope = spread(
                    z_row, vocab, top, cut, place, near, near_place, mean, log_positive(kept), first, greedy,
                    tl.load(p + 8), legal, TILE,
                )  # fmt: skip
            tl.store(entropies + row, entropy)
    else:
        tl.store(logprobs + row, float("nan"))
        if WHOLE:
            tl.store(raw_logprobs + row, float("nan"))
            tl.store(log_kept_mass + row, float("nan"))
            tl.store(entropies + row, float("nan"))


@triton.jit
def gradient_kernel(
    logits, packed, mask, met, scratch, tokens, to_logprob, to_raw, to_entropy, gradient,
    vocab, row_stride, stride, params_stride, mask_row_stride, mask_stride,
    HAS_MASK: tl.constexpr, HAS_MET: tl.constexpr, FP64: tl.constexpr, TILE: tl.constexpr, WHOLE: tl.constexpr,
):  # fmt: skip
    """A row a program: d loss / d logits at a fixed kept set, of the slopes of the log-probability and, if WHOLE, of
    the raw one and the entropy; NaN for a row that cannot be served."""
    row = tl.program_id(0).to(tl.int64)
    number: tl.constexpr = tl.float64 if FP64 else tl.float32
    p = packed + row * params_stride
    x_row = logits + row * row_stride
    z_row = scratch + row * vocab
    met_row = met + row * vocab if HAS_MET else met
    x_top, top, fine = processed(
        x_row, z_row, p, mask + row * mask_row_stride if HAS_MASK else mask, met_row,
        vocab, stride, mask_stride, number, HAS_MASK, HAS_MET, TILE,
    )  # fmt: skip
    given = tl.load(tokens + row)
    if fine & in_range(p) & (given >= 0) & (given < vocab):
        token = given.to(tl.int32)
        _total, raw, kept, legal, first, cut, place, near, near_place, mean, _logprob, policy, inside = token_of(
            x_row, z_row, p, token, vocab, stride, x_top, top, number, FP64, WHOLE, TILE
        )
        greedy = tl.load(p) == 0
        chance = tl.load(p + 8)
        slope = tl.where(inside & (tl.load(p) > 0), tl.load(to_logprob + row), 0.0)
        if chance > 0:
            whole, mine = mixed(exp_nonpositive(policy), chance, legal)
            slope *= divide(mine, whole)
        log_kept = log_positive(kept)
        slope_spread = top * 0.0
        slope_mean = top * 0.0
        slope_raw = top * 0.0
        log_raw = top * 0.0
        if WHOLE:
            slope_raw = tl.load(to_raw + row)
            log_raw = log_positive(raw)
            slope_spread = tl.where(greedy, 0.0, tl.load(to_entropy + row))
            if slope_spread != 0:
                _entropy, slope_mean = spread(
                    z_row, vocab, top, cut, place, near, near_place, mean, log_kept, first, greedy, chance, legal, TILE
                )
        temperature = tl.load(p).to(number)
        penalty = tl.load(p + 5).to(number)
        for start in range(0, vocab, TILE):
            z, index = load_tile(z_row, start, vocab, TILE)
            prob, log = policy_of(z, index, top, cut, place, near, near_place, mean, log_kept, first, greedy)
            d = tl.where(index == token, slope, 0.0) - slope * prob
            if WHOLE:
                _q, _log_q, by_p = behaviour_of(z, prob, log, chance, legal)
                d += slope_spread * (prob * (by_p - slope_mean))
            d = divide(d, tl.zeros_like(d) + tl.where(greedy, 1.0, temperature))
            if WHOLE or HAS_MET:
                x = tl.load(x_row + index.to(tl.int64) * stride, mask=index < vocab, other=float("-inf")).to(number)
            if HAS_MET:
                seen = (tl.load(met_row + index, mask=index < vocab, other=0) & 1) != 0
                shrunk = divide(d, tl.zeros_like(d) + penalty)
                d = tl.where(seen, tl.where(x > 0, shrunk, d * penalty), d)
            if WHOLE:
                d += tl.where(index == token, slope_raw, 0.0) - slope_raw * exp_nonpositive((x - x_top) - log_raw)
            tl.store(gradient + row * vocab + index, d, mask=index < vocab)
    else:
        for start in range(0, vocab, TILE):
            index = start + tl.arange(0, TILE)
            tl.store(gradient + row * vocab + index, tl.full((TILE,), float("nan"), number), mask=index < vocab)


def _score(
    logits: Tensor,
    tokens: Tensor,
    params: Tensor,
    mask: Tensor | None,
    history: Tensor | None,
    whole: bool,
    entropy: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    rows = logits.shape[0]
    a, b, c, d = (logits.new_empty(rows if whole or i == 0 else 0, dtype=real_of(logits)) for i in range(4))
    if rows:
        given, sizes, constants = arguments(logits, params, mask, history)
        with torch.cuda.device_of(logits):
            score_kernel[(rows,)](*given, tokens, a, b, c, d, *sizes, WHOLE=whole, ENTROPY=entropy, **constants)
    return a, b, c, d


def token_logprobs(
    logits: Tensor, tokens: Tensor, params: Tensor, mask: Tensor | None, history: Tensor | None
) -> Tensor:
    """As the op ``gmkern::token_logprobs``; NaN for a row that cannot be served."""
    return _score(logits, tokens, params, mask, history, False, False)[0]


def score_tokens(
    logits: Tensor, tokens: Tensor, params: Tensor, mask: Tensor | None, history: Tensor | None, entropy: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """As the op ``gmkern::score_tokens``; NaN for a row that cannot be served."""
    return _score(logits, tokens, params, mask, history, True, entropy)


def score_tokens_backward(
    grad_logprobs: Tensor,
    grad_raw: Tensor | None,
    grad_entropy: Tensor | None,
    logits: Tensor,
    tokens: Tensor,
    params: Tensor,
    mask: Tensor | None,
    history: Tensor | None,
) -> Tensor:
    """As the op ``gmkern::score_tokens_backward``; of the log-probability alone where the others are None."""
    rows = logits.shape[0]
    out = logits.new_empty(logits.shape, dtype=real_of(logits))
    if rows:
        given, sizes, constants = arguments(logits, params, mask, history)
        with torch.cuda.device_of(logits):
            gradient_kernel[(rows,)](
                *given, tokens, grad_logprobs, grad_raw, grad_entropy, out, *sizes, WHOLE=grad_raw is not None,
                **constants,
            )  # fmt: skip
    return out


def token_logprobs_backward(
    grad: Tensor, logits: Tensor, tokens: Tensor, params: Tensor, mask: Tensor | None, history: Tensor | None
) -> Tensor:
    """As the op ``gmkern::token_logprobs_backward``."""
    return score_tokens_backward(grad, None, None, logits, tokens, params, mask, history)
