"""A row of logits in Triton, from penalties to the kept set: what drawing a token and scoring one share.

``p`` points at the row's packed parameters (params.py): they are loaded where they are needed, or they would be held in
registers through the searches. Launch with ``enable_fp_fusion=False``.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from gmkern.decode.sample import reference
from gmkern.decode.sample.triton_kept import NO_PLACE, load_tile, mass_inside, mean_depth, search
from gmkern.decode.sample.triton_mass import divide, exp_nonpositive, halves, order_bits, share, total
from gmkern.random.triton_kernels import log_positive

_TINY_32 = tl.constexpr(2.0**-126)
_TINY_64 = tl.constexpr(2.0**-1022)
TILE = 1024  # tokens
WARPS = 8


@triton.jit
def in_range(p):
    """Whether parameters are those of SamplingParams, and epsilon in [0, 1]."""
    infinity = float("inf")
    temperature, top_k, penalty = tl.load(p), tl.load(p + 1), tl.load(p + 5)
    fine = (temperature >= 0) & (temperature < infinity) & (top_k >= 0) & (penalty > 0) & (penalty < infinity)
    for at in tl.static_range(2, 5):  # top_p, min_p, typical_p
        fine = fine & (tl.load(p + at) >= 0) & (tl.load(p + at) <= 1)
    for at in tl.static_range(6, 8):  # presence and frequency penalty
        fine = fine & (tl.load(p + at) > -infinity) & (tl.load(p + at) < infinity)
    return fine & (tl.load(p + 8) >= 0) & (tl.load(p + 8) <= 1) & (tl.load(p + 9) >= 0)


@triton.jit
def processed(
    x_row, z_row, p, mask_row, met_row, vocab, stride, mask_stride,
    number: tl.constexpr, HAS_MASK: tl.constexpr, HAS_MET: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """Writes what penalties, temperature and mask make of logits; the greatest of both, and whether all is finite."""
    infinity = float("inf")
    temperature = tl.load(p).to(number)
    penalty = tl.load(p + 5).to(number)
    presence = tl.load(p + 6).to(number)
    frequency = tl.load(p + 7).to(number)
    divisor = tl.where(temperature == 0, 1.0, temperature)
    x_most = tl.full((TILE,), float("-inf"), number)
    z_most = tl.full((TILE,), float("-inf"), number)
    flaws = tl.zeros((TILE,), tl.int32)
    for start in range(0, vocab, TILE):
        index = start + tl.arange(0, TILE)
        here = index < vocab
        x = tl.load(x_row + index.to(tl.int64) * stride, mask=here, other=float("-inf")).to(number)
        z = x
        if HAS_MET:
            past = tl.load(met_row + index, mask=here, other=0)
            seen = (past & 1) != 0
            z = tl.where(seen, tl.where(x > 0, divide(x, tl.zeros_like(x) + penalty), x * penalty), x)
            z = tl.where(past > 1, (z - frequency * (past >> 1).to(number)) - presence, z)
        z = divide(z, tl.zeros_like(z) + divisor)
        if HAS_MASK:
            legal = tl.load(mask_row + index.to(tl.int64) * mask_stride, mask=here, other=0) != 0
            z = tl.where(legal, z, float("-inf"))
        tl.store(z_row + index, z, mask=here)
        x_most = tl.where(x > x_most, x, x_most)
        z_most = tl.where(z > z_most, z, z_most)
        flaws += tl.where((x < infinity) & (z < infinity), 0, 1)
    x_top = tl.max(x_most, axis=0)
    top = tl.max(z_most, axis=0)
    tl.debug_barrier()  # what was written is read by other threads from now on
    return x_top, top, (tl.max(flaws, axis=0) == 0) & (top > float("-inf"))


@triton.jit
def sums(x_row, z_row, vocab, stride, x_top, top, number: tl.constexpr, RAW: tl.constexpr, TILE: tl.constexpr):
    """The mass of the legal tokens, and, if RAW, of all logits as given; how many are legal; the first greatest."""
    high = tl.zeros((TILE,), tl.int64)
    low = tl.zeros((TILE,), tl.int64)
    raw_high = tl.zeros((TILE,), tl.int64)
    raw_low = tl.zeros((TILE,), tl.int64)
    legal = tl.zeros((TILE,), tl.int32)
    first = tl.zeros((TILE,), tl.int32) + NO_PLACE
    for start in range(0, vocab, TILE):
        z, index = load_tile(z_row, start, vocab, TILE)
        gh, gl = halves(exp_nonpositive(z - top))
        high += gh
        low += gl
        legal += (z > float("-inf")).to(tl.int32)
        first = tl.minimum(first, tl.where(z == top, index, NO_PLACE))
        if RAW:
            x = tl.load(x_row + index.to(tl.int64) * stride, mask=index < vocab, other=float("-inf")).to(number)
            gh, gl = halves(exp_nonpositive(x - x_top))
            raw_high += gh
            raw_low += gl
    all_high, all_low = total(high, low)
    raw_high_sum, raw_low_sum = total(raw_high, raw_low)
    return all_high, all_low, raw_high_sum, raw_low_sum, tl.sum(legal, axis=0), tl.min(first, axis=0)


@triton.jit
def cuts(z_row, p, vocab, top, high, low, legal, FP64: tl.constexpr, TILE: tl.constexpr):
    """What the filters leave of tokens of mass (high, low): the cuts of both orders, the mean, and the kept mass."""
    number: tl.constexpr = tl.float64 if FP64 else tl.float32
    top_k = tl.load(p + 1)
    top_p = tl.load(p + 2).to(number)
    min_p = tl.load(p + 3).to(number)
    typical_p = tl.load(p + 4).to(number)
    cut = order_bits(top * 0.0 + float("-inf"))
    place = tl.cast(-1, tl.int32)
    near = cut
    near_place = place
    mean = top * 0.0
    filtered = False
    if tl.load(p) != 0:
        if (top_k >= 1) & (top_k < legal.to(tl.float64)):
            target = top_k.to(tl.int64)
            cut, place = search(z_row, vocab, top, cut, place, mean, target, target * 0, False, False, TILE)
            high, low = mass_inside(z_row, vocab, top, cut, place, near, near_place, mean, False, TILE)
            filtered = True
        if top_p < 1:
            target, rest = share(top_p, high, low, FP64)
            cut, place = search(z_row, vocab, top, cut, place, mean, target, rest, True, False, TILE)
            filtered = True
        if min_p > 0:
            tiny: tl.constexpr = _TINY_64 if FP64 else _TINY_32
            least = log_positive(tl.where(min_p < tiny, tiny, min_p))
            # w >= least is a cut of the order as well: the lowest z that passes
            lowest = tl.zeros((TILE,), number) + top
            for start in range(0, vocab, TILE):
                z, _index = load_tile(z_row, start, vocab, TILE)
                lowest = tl.where((z - top >= least) & (z < lowest), z, lowest)
            bound = order_bits(tl.min(lowest, axis=0))
            place = tl.where(bound > cut, NO_PLACE, place)
            cut = tl.where(bound > cut, bound, cut)
            filtered = True
        if typical_p < 1:
            high, low = mass_inside(z_row, vocab, top, cut, place, near, near_place, mean, False, TILE)
            mean = mean_depth(z_row, vocab, top, cut, place, high, low, FP64, TILE)
            target, rest = share(typical_p, high, low, FP64)
            near, near_place = search(z_row, vocab, top, cut, place, mean, target, rest, True, True, TILE)
            filtered = True
        if filtered:
            high, low = mass_inside(z_row, vocab, top, cut, place, near, near_place, mean, True, TILE)
    return cut, place, near, near_place, mean, high, low


@triton.jit
def mixed(policy, chance, legal):
    """(1 - epsilon) policy + epsilon / legal, and its share that is the policy's."""
    epsilon = chance.to(policy.dtype)
    mine = (1 - epsilon) * policy
    return mine + divide(epsilon, tl.zeros_like(epsilon) + legal.to(policy.dtype)), mine


@triton.jit
def logprob_of(z_token, token, top, kept, first, inside, legal, p):
    """A token's log-probability and that of the policy alone, which is 0 for T = 0; whether the token is kept."""
    chance = tl.load(p + 8)
    policy = (z_token - top) - log_positive(kept)
    greedy = tl.load(p) == 0
    inside = tl.where(greedy, token == first, inside)
    policy = tl.where(greedy, top * 0.0, policy)
    logprob = tl.where(inside, policy, float("-inf"))
    if chance > 0:
        whole, _mine = mixed(tl.where(inside, exp_nonpositive(policy), 0.0), chance, legal)
        logprob = tl.where(z_token > float("-inf"), log_positive(whole), float("-inf"))
    return logprob, policy, inside


def arguments(
    logits: Tensor, params: Tensor, mask: Tensor | None, history: Tensor | None
) -> tuple[tuple[Tensor | None, ...], tuple[int, ...], dict[str, Any]]:
    """What a kernel of rows is launched with: logits, params, mask, met and scratch; sizes and strides; constants."""
    rows, vocab = logits.shape
    met = None  # 2 * (how often drawn) + (whether met)
    if history is not None and history.shape[1] > 0:
        seen = reference.met_before(history, vocab).to(torch.int32)
        met = (2 * reference.drawn_before(history, params[:, 9:], vocab).to(torch.int32) + seen).contiguous()
    scratch = logits.new_empty((rows, vocab), dtype=real_of(logits))
    of_mask = (0, 0) if mask is None else mask.stride()
    sizes = (vocab, *logits.stride(), 0 if params.shape[0] == 1 else params.stride(0), *of_mask)
    constants = {
        "HAS_MASK": mask is not None, "HAS_MET": met is not None, "FP64": logits.dtype == torch.float64, "TILE": TILE,
        "num_warps": WARPS, "enable_fp_fusion": False,
    }  # fmt: skip
    return (logits, params, None if mask is None else mask.view(torch.uint8), met, scratch), sizes, constants


def real_of(logits: Tensor) -> torch.dtype:
    return torch.float64 if logits.dtype == torch.float64 else torch.float32
