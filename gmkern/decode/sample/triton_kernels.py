"""The choice of a token in Triton: one launch, one program a row (docs/sampling.md).

Operation for operation ``csrc/decode/sample_*``; launch with ``enable_fp_fusion=False``.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from gmkern.decode.sample.triton_kept import NO_PLACE, keeps, load_tile
from gmkern.decode.sample.triton_mass import divide, exp_nonpositive, real
from gmkern.decode.sample.triton_row import arguments, cuts, in_range, logprob_of, processed, real_of, sums
from gmkern.decode.sample.triton_score import (  # noqa: F401  here are all ops' names, as in the reference
    score_tokens,
    score_tokens_backward,
    token_logprobs,
    token_logprobs_backward,
)
from gmkern.random.streams import EXPLORE, TOKEN
from gmkern.random.triton_kernels import (
    gumbel_from_word,
    gumbels,
    interleave4,
    join64,
    log_positive,
    noise_block,
    noise_key,
)

_TOKEN = tl.constexpr(TOKEN)
_EXPLORE = tl.constexpr(EXPLORE)
_WORDS = tl.constexpr(2.0**32)
_WORD = tl.constexpr(2.0**-32)
_SLACK = tl.constexpr(2.0**-20)


@triton.jit
def draw(
    z_row, vocab, top, cut, place, near, near_place, mean, seed, sample_id, step,
    FP64: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """argmax of z + Gumbel over the kept tokens. Logarithms are taken in tiles where a word may win, which is rare."""
    k0, k1 = noise_key(seed, _TOKEN)
    best = top * 0.0 + float("-inf")
    token = tl.cast(-1, tl.int32)
    per_block: tl.constexpr = 2 if FP64 else 4
    slack = tl.where(top < 0, -top, top) * _SLACK + 1e-3
    for start in range(0, vocab, TILE):
        z, index = load_tile(z_row, start, vocab, TILE)
        block = (start // per_block + tl.arange(0, TILE // per_block)).to(tl.uint32)
        w0, w1, w2, w3 = noise_block(k0, k1, sample_id, step, block)
        kept = keeps(z, index, top, cut, place, near, near_place, mean, True)
        room = (top - best) + slack
        scale = tl.where(
            room <= 0,
            exp_nonpositive(tl.where(room <= 0, room, 0.0)),
            divide(room * 0.0 + 1.0, exp_nonpositive(tl.where(room < 80.0, tl.where(room > 0, -room, 0.0), -80.0))),
        )
        # The first words of Gumbels are compared as 32 bits, which is never too strict.
        words = tl.interleave(w1, w3) if FP64 else interleave4(w0, w1, w2, w3)
        may_win = kept & (words.to(top.dtype) * _WORD <= exp_nonpositive(z - top) * scale)
        if (tl.max(may_win.to(tl.int32), axis=0) > 0) | (token < 0):
            if FP64:
                g = tl.interleave(gumbel_from_word(join64(w0, w1)), gumbel_from_word(join64(w2, w3)))
            else:
                g0, g1, g2, g3 = gumbels(w0, w1, w2, w3, seed, _TOKEN, sample_id, step, block)
                g = interleave4(g0, g1, g2, g3)
            score = tl.where(kept, z + g, float("-inf"))
            greatest = tl.max(score, axis=0)
            if greatest > best:  # among equals the lower index, which is an earlier tile's
                best = greatest
                token = tl.min(tl.where(score == greatest, index, NO_PLACE), axis=0)
    return token


@triton.jit
def explore(z_row, vocab, token, chance, legal, seed, sample_id, step, TILE: tl.constexpr):
    """``token``, or with probability ``chance`` a uniform choice among the ``legal`` tokens that are not -inf."""
    k0, k1 = noise_key(seed, _EXPLORE)
    w0, w1, _w2, _w3 = noise_block(k0, k1, sample_id, step, tl.zeros((2,), tl.uint32))
    first = tl.max(w0.to(tl.int64), axis=0)  # the same in both lanes
    chosen = ((tl.max(w1.to(tl.int64), axis=0) * legal.to(tl.int64)) >> 32).to(tl.int32)
    if first.to(tl.float64) < chance * _WORDS:
        before = legal * 0
        for start in range(0, vocab, TILE):
            z, index = load_tile(z_row, start, vocab, TILE)
            here = z > float("-inf")
            count = tl.sum(here.to(tl.int32), axis=0)
            if (before <= chosen) & (chosen < before + count):
                place = before + tl.cumsum(here.to(tl.int32), axis=0) - 1
                token = tl.max(tl.where(here & (place == chosen), index, -1), axis=0)
            before += count
    return token


@triton.jit
def sample_kernel(
    logits, packed, mask, met, scratch, seeds, sample_ids, steps, tokens, logprobs, raw_logprobs, log_kept_mass,
    vocab, row_stride, stride, params_stride, mask_row_stride, mask_stride, seed_stride, step_stride,
    HAS_MASK: tl.constexpr, HAS_MET: tl.constexpr, FP64: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """A row a program: a token, and what is said of it; -1 and NaN for a row that cannot be served."""
    row = tl.program_id(0).to(tl.int64)
    number: tl.constexpr = tl.float64 if FP64 else tl.float32
    p = packed + row * params_stride
    x_row = logits + row * row_stride
    z_row = scratch + row * vocab
    x_top, top, fine = processed(
        x_row, z_row, p, mask + row * mask_row_stride if HAS_MASK else mask, met + row * vocab if HAS_MET else met,
        vocab, stride, mask_stride, number, HAS_MASK, HAS_MET, TILE,
    )  # fmt: skip
    if fine & in_range(p):
        all_high, all_low, raw_high, raw_low, legal, first = sums(
            x_row, z_row, vocab, stride, x_top, top, number, True, TILE
        )
        cut, place, near, near_place, mean, kept_high, kept_low = cuts(
            z_row, p, vocab, top, all_high, all_low, legal, FP64, TILE
        )
        greedy = tl.load(p) == 0
        token = first
        if not greedy:
            token = draw(
                z_row, vocab, top, cut, place, near, near_place, mean,
                tl.load(seeds + row * seed_stride), tl.load(sample_ids + row), tl.load(steps + row * step_stride),
                FP64, TILE,
            )  # fmt: skip
        if tl.load(p + 8) > 0:
            token = explore(
                z_row, vocab, token, tl.load(p + 8), legal,
                tl.load(seeds + row * seed_stride), tl.load(sample_ids + row), tl.load(steps + row * step_stride), TILE,
            )  # fmt: skip
        z_token = tl.load(z_row + token)
        inside = keeps(z_token, token, top, cut, place, near, near_place, mean, True)
        kept = real(kept_high, kept_low, FP64)
        logprob, _policy, _inside = logprob_of(z_token, token, top, kept, first, inside, legal, p)
        x_token = tl.load(x_row + token.to(tl.int64) * stride).to(number)
        shared = log_positive(divide(kept, real(all_high, all_low, FP64)))
        tl.store(tokens + row, token.to(tl.int64))
        tl.store(logprobs + row, logprob)
        tl.store(raw_logprobs + row, (x_token - x_top) - log_positive(real(raw_high, raw_low, FP64)))
        tl.store(log_kept_mass + row, tl.where(greedy, 0.0, shared))
    else:
        tl.store(tokens + row, -1)
        tl.store(logprobs + row, float("nan"))
        tl.store(raw_logprobs + row, float("nan"))
        tl.store(log_kept_mass + row, float("nan"))


def sample(
    logits: Tensor,
    params: Tensor,
    mask: Tensor | None,
    history: Tensor | None,
    seed: Tensor,
    sample_ids: Tensor,
    step: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """As the op ``gmkern::sample``; a row that cannot be served gives token -1 and NaN."""
    rows = logits.shape[0]
    tokens = logits.new_empty(rows, dtype=torch.int64)
    logprobs, raw, kept = (logits.new_empty(rows, dtype=real_of(logits)) for _ in range(3))
    if rows:
        given, sizes, constants = arguments(logits, params, mask, history)
        with torch.cuda.device_of(logits):
            sample_kernel[(rows,)](
                *given, seed, sample_ids, step, tokens, logprobs, raw, kept, *sizes,
                int(seed.numel() > 1), int(step.numel() > 1), **constants,
            )  # fmt: skip
    return tokens, logprobs, raw, kept
