"""The choice of a token in Triton: one launch, one program a row (docs/sampling.md).

Operation for operation ``csrc/decode/sample_*``; launch with ``enable_fp_fusion=False``.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from gmkern.decode.sample import reference
from gmkern.decode.sample.triton_kept import NO_PLACE, keeps, load_tile, mass_inside, mean_depth, search
from gmkern.decode.sample.triton_mass import divide, exp_nonpositive, halves, order_bits, real, share, total
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
_TINY_32 = tl.constexpr(2.0**-126)
_TINY_64 = tl.constexpr(2.0**-1022)
_WORD = tl.constexpr(2.0**-32)
_SLACK = tl.constexpr(2.0**-20)

SAMPLE, SCORE, GRADIENT = 0, 1, 2
_TILE = 1024  # tokens
_WARPS = 8


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
    logits, params, mask, met, seeds, sample_ids, steps, scratch,
    tokens, logprobs, raw_logprobs, log_kept_mass, slopes, gradient,
    vocab, row_stride, stride, params_stride, mask_row_stride, mask_stride, seed_stride, step_stride,
    HAS_MASK: tl.constexpr, HAS_MET: tl.constexpr, FP64: tl.constexpr, MODE: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """A row a program. MODE: draw a token, score a given one, or write the gradient of its score."""
    row = tl.program_id(0).to(tl.int64)
    number: tl.constexpr = tl.float64 if FP64 else tl.float32
    p = params + row * params_stride
    temperature = tl.load(p).to(number)
    top_k = tl.load(p + 1)
    top_p = tl.load(p + 2).to(number)
    min_p = tl.load(p + 3).to(number)
    typical_p = tl.load(p + 4).to(number)
    penalty = tl.load(p + 5).to(number)
    presence = tl.load(p + 6).to(number)
    frequency = tl.load(p + 7).to(number)
    infinity = float("inf")
    fine = (temperature >= 0) & (temperature < infinity) & (top_k >= 0) & (penalty > 0) & (penalty < infinity)
    fine = fine & (top_p >= 0) & (top_p <= 1) & (min_p >= 0) & (min_p <= 1) & (typical_p >= 0) & (typical_p <= 1)
    fine = fine & (tl.load(p + 8) >= 0) & (tl.load(p + 8) <= 1) & (tl.load(p + 9) >= 0)
    fine = fine & (presence > -infinity) & (presence < infinity) & (frequency > -infinity) & (frequency < infinity)
    greedy = temperature == 0
    divisor = tl.where(greedy, 1.0, temperature)
    x_row = logits + row * row_stride
    z_row = scratch + row * vocab

    # 1: processed logits, and the greatest of both kinds
    x_most = tl.full((TILE,), float("-inf"), number)
    z_most = tl.full((TILE,), float("-inf"), number)
    flaws = tl.zeros((TILE,), tl.int32)
    for start in range(0, vocab, TILE):
        index = start + tl.arange(0, TILE)
        here = index < vocab
        x = tl.load(x_row + index.to(tl.int64) * stride, mask=here, other=float("-inf")).to(number)
        z = x
        if HAS_MET:
            past = tl.load(met + row * vocab + index, mask=here, other=0)
            seen = (past & 1) != 0
            z = tl.where(seen, tl.where(x > 0, divide(x, tl.zeros_like(x) + penalty), x * penalty), x)
            z = tl.where(past > 1, (z - frequency * (past >> 1).to(number)) - presence, z)
        z = divide(z, tl.zeros_like(z) + divisor)
        if HAS_MASK:
            legal = tl.load(mask + row * mask_row_stride + index.to(tl.int64) * mask_stride, mask=here, other=0) != 0
            z = tl.where(legal, z, float("-inf"))
        tl.store(z_row + index, z, mask=here)
        x_most = tl.where(x > x_most, x, x_most)
        z_most = tl.where(z > z_most, z, z_most)
        flaws += tl.where((x < infinity) & (z < infinity), 0, 1)
    x_top = tl.max(x_most, axis=0)
    top = tl.max(z_most, axis=0)
    fine = fine & (tl.max(flaws, axis=0) == 0) & (top > float("-inf"))
    token = tl.cast(0, tl.int32)
    if MODE != 0:
        given = tl.load(tokens + row)
        fine = fine & (given >= 0) & (given < vocab)
        token = tl.where(fine, given, 0).to(tl.int32)
    tl.debug_barrier()

    if fine:
        # 2: sums, and the first of the greatest
        high = tl.zeros((TILE,), tl.int64)
        low = tl.zeros((TILE,), tl.int64)
        raw_high = tl.zeros((TILE,), tl.int64)
        raw_low = tl.zeros((TILE,), tl.int64)
        legal_count = tl.zeros((TILE,), tl.int32)
        first = tl.zeros((TILE,), tl.int32) + NO_PLACE
        for start in range(0, vocab, TILE):
            z, index = load_tile(z_row, start, vocab, TILE)
            gh, gl = halves(exp_nonpositive(z - top))
            high += gh
            low += gl
            legal_count += (z > float("-inf")).to(tl.int32)
            first = tl.minimum(first, tl.where(z == top, index, NO_PLACE))
            if MODE == 0:
                x = tl.load(x_row + index.to(tl.int64) * stride, mask=index < vocab, other=float("-inf")).to(number)
                gh, gl = halves(exp_nonpositive(x - x_top))
                raw_high += gh
                raw_low += gl
        all_high, all_low = total(high, low)
        kept_high, kept_low = all_high, all_low
        legal_tokens = tl.sum(legal_count, axis=0)
        count = legal_tokens.to(tl.float64)

        # 3: the cuts
        cut = order_bits(top * 0.0 + float("-inf"))
        place = tl.cast(-1, tl.int32)
        near = cut
        near_place = place
        mean = top * 0.0
        filtered = False
        if not greedy:
            if (top_k >= 1) & (top_k < count):
                target = top_k.to(tl.int64)
                cut, place = search(z_row, vocab, top, cut, place, mean, target, target * 0, False, False, TILE)
                kept_high, kept_low = mass_inside(z_row, vocab, top, cut, place, near, near_place, mean, False, TILE)
                filtered = True
            if top_p < 1:
                target, rest = share(top_p, kept_high, kept_low, FP64)
                cut, place = search(z_row, vocab, top, cut, place, mean, target, rest, True, False, TILE)
                filtered = True
            if min_p > 0:
                tiny: tl.constexpr = _TINY_64 if FP64 else _TINY_32
                least = log_positive(tl.where(min_p < tiny, tiny, min_p))
                # w >= least is a cut of the order as well: the lowest z that passes
                lowest = tl.zeros((TILE,), number) + top
                for start in range(0, vocab, TILE):
                    z, index = load_tile(z_row, start, vocab, TILE)
                    lowest = tl.where((z - top >= least) & (z < lowest), z, lowest)
                bound = order_bits(tl.min(lowest, axis=0))
                place = tl.where(bound > cut, NO_PLACE, place)
                cut = tl.where(bound > cut, bound, cut)
                filtered = True
            if typical_p < 1:
                kept_high, kept_low = mass_inside(z_row, vocab, top, cut, place, near, near_place, mean, False, TILE)
                mean = mean_depth(z_row, vocab, top, cut, place, kept_high, kept_low, FP64, TILE)
                target, rest = share(typical_p, kept_high, kept_low, FP64)
                near, near_place = search(z_row, vocab, top, cut, place, mean, target, rest, True, True, TILE)
                filtered = True
            if filtered:
                kept_high, kept_low = mass_inside(z_row, vocab, top, cut, place, near, near_place, mean, True, TILE)

        # 4: the token and what is said of it
        if MODE == 0:
            if greedy:
                token = tl.min(first, axis=0)
            else:
                token = draw(
                    z_row, vocab, top, cut, place, near, near_place, mean,
                    tl.load(seeds + row * seed_stride), tl.load(sample_ids + row), tl.load(steps + row * step_stride),
                    FP64, TILE,
                )  # fmt: skip
            if tl.load(p + 8) > 0:
                token = explore(
                    z_row, vocab, token, tl.load(p + 8), legal_tokens,
                    tl.load(seeds + row * seed_stride), tl.load(sample_ids + row), tl.load(steps + row * step_stride),
                    TILE,
                )  # fmt: skip
        chance = tl.load(p + 8)  # not before: it would be held in registers through the searches and the draw
        z_token = tl.load(z_row + token)
        inside = keeps(z_token, token, top, cut, place, near, near_place, mean, True)
        kept = real(kept_high, kept_low, FP64)
        logprob = (z_token - top) - log_positive(kept)
        if greedy:
            inside = token == tl.min(first, axis=0)
            logprob = top * 0.0
        policy = exp_nonpositive(logprob)
        epsilon = chance.to(number)
        uniform = divide(epsilon, tl.zeros_like(epsilon) + legal_tokens.to(number))
        if MODE == 2:
            slope = tl.where(inside & (temperature > 0), tl.load(slopes + row), 0.0)
            slope = divide(slope, divisor)
            if chance > 0:
                slope *= divide((1 - epsilon) * policy, (1 - epsilon) * policy + uniform)
            for start in range(0, vocab, TILE):
                z, index = load_tile(z_row, start, vocab, TILE)
                weight = tl.where(
                    keeps(z, index, top, cut, place, near, near_place, mean, True), exp_nonpositive(z - top), 0.0
                )
                d = tl.where(index == token, slope, 0.0) - slope * divide(weight, tl.zeros_like(weight) + kept)
                d = tl.where(slope == 0, 0.0, d)
                if HAS_MET:
                    x = tl.load(x_row + index.to(tl.int64) * stride, mask=index < vocab, other=0.0).to(number)
                    seen = (tl.load(met + row * vocab + index, mask=index < vocab, other=0) & 1) != 0
                    shrunk = divide(d, tl.zeros_like(d) + penalty)
                    d = tl.where(seen, tl.where(x > 0, shrunk, d * penalty), d)
                tl.store(gradient + row * vocab + index, d, mask=index < vocab)
        else:
            logprob = tl.where(inside, logprob, float("-inf"))
            if chance > 0:
                mixed = log_positive((1 - epsilon) * tl.where(inside, policy, 0.0) + uniform)
                logprob = tl.where(z_token > float("-inf"), mixed, float("-inf"))
            tl.store(logprobs + row, logprob)
        if MODE == 0:
            raw_high_sum, raw_low_sum = total(raw_high, raw_low)
            x_token = tl.load(x_row + token.to(tl.int64) * stride).to(number)
            tl.store(tokens + row, token.to(tl.int64))
            tl.store(raw_logprobs + row, (x_token - x_top) - log_positive(real(raw_high_sum, raw_low_sum, FP64)))
            shared = log_positive(divide(kept, real(all_high, all_low, FP64)))
            tl.store(log_kept_mass + row, tl.where(greedy, 0.0, shared))
    else:
        if MODE == 2:
            for start in range(0, vocab, TILE):
                index = start + tl.arange(0, TILE)
                nothing = tl.full((TILE,), float("nan"), number)
                tl.store(gradient + row * vocab + index, nothing, mask=index < vocab)
        else:
            tl.store(logprobs + row, float("nan"))
        if MODE == 0:
            tl.store(tokens + row, -1)
            tl.store(raw_logprobs + row, float("nan"))
            tl.store(log_kept_mass + row, float("nan"))


def _launch(
    mode: int,
    logits: Tensor,
    params: Tensor,
    mask: Tensor | None,
    history: Tensor | None,
    noise: tuple[Tensor, Tensor, Tensor] | None,
    outs: tuple[Tensor | None, ...],
) -> None:
    rows, vocab = logits.shape
    if rows == 0:
        return
    fp64 = logits.dtype == torch.float64
    met = None  # 2 * (how often drawn) + (whether met)
    if history is not None and history.shape[1] > 0:
        seen = reference.met_before(history, vocab).to(torch.int32)
        met = (2 * reference.drawn_before(history, params[:, 9:], vocab).to(torch.int32) + seen).contiguous()
    scratch = logits.new_empty((rows, vocab), dtype=torch.float64 if fp64 else torch.float32)
    seed, ids, step = noise or (None, None, None)
    masked = None if mask is None else mask.view(torch.uint8)
    with torch.cuda.device_of(logits):
        sample_kernel[(rows,)](
            logits, params, masked, met, seed, ids, step, scratch, *outs,
            vocab, logits.stride(0), logits.stride(1), 0 if params.shape[0] == 1 else params.stride(0),
            0 if mask is None else mask.stride(0), 0 if mask is None else mask.stride(1),
            int(seed is not None and seed.numel() > 1), int(step is not None and step.numel() > 1),
            HAS_MASK=mask is not None, HAS_MET=met is not None, FP64=fp64, MODE=mode, TILE=_TILE,
            num_warps=_WARPS, enable_fp_fusion=False,
        )  # fmt: skip


def _real(logits: Tensor) -> torch.dtype:
    return torch.float64 if logits.dtype == torch.float64 else torch.float32


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
    logprobs, raw, kept = (logits.new_empty(rows, dtype=_real(logits)) for _ in range(3))
    outs = (tokens, logprobs, raw, kept, None, None)
    _launch(SAMPLE, logits, params, mask, history, (seed, sample_ids, step), outs)
    return tokens, logprobs, raw, kept


def token_logprobs(
    logits: Tensor, tokens: Tensor, params: Tensor, mask: Tensor | None, history: Tensor | None
) -> Tensor:
    """As the op ``gmkern::token_logprobs``; NaN for a row that cannot be served."""
    out = logits.new_empty(logits.shape[0], dtype=_real(logits))
    _launch(SCORE, logits, params, mask, history, None, (tokens, out, None, None, None, None))
    return out


def token_logprobs_backward(
    grad: Tensor, logits: Tensor, tokens: Tensor, params: Tensor, mask: Tensor | None, history: Tensor | None
) -> Tensor:
    """As the op ``gmkern::token_logprobs_backward``."""
    out = logits.new_empty(logits.shape, dtype=_real(logits))
    _launch(GRADIENT, logits, params, mask, history, None, (tokens, None, None, None, grad, out))
    return out
