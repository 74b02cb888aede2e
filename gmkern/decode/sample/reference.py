"""The choice of a token in plain PyTorch: the truth that C++ and Triton equal bit for bit (docs/sampling.md).

Sorts where the kernels search, so the two share no code but the numbers: the exact exponential, and sums of probability
in whole units of 2^-42 (float64: 2^-84), which no order of addition changes.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from gmkern.random import reference as noise
from gmkern.random.streams import EXPLORE, TOKEN

_EXP_32 = tuple(map(float.fromhex, ("0x1.6d10fep-10", "0x1.120b64p-7", "0x1.55551ap-5", "0x1.5554dep-3", "0x1p-1")))
_EXP_64 = tuple(
    map(
        float.fromhex,
        (
            *("0x1.af38a0d2d962p-26", "0x1.28917e2c43a66p-22", "0x1.71de0db21e27fp-19", "0x1.a019b9133a48ap-16"),
            *("0x1.a01a01a7c327ap-13", "0x1.6c16c1788a49bp-10", "0x1.11111111109b4p-7", "0x1.5555555553d67p-5"),
            *("0x1.5555555555556p-3", "0x1.0000000000001p-1"),
        ),
    )
)
_LOG2_32 = tuple(map(float.fromhex, ("0x1.62e4p-1", "0x1.7f7d1cp-20")))
_LOG2_64 = tuple(map(float.fromhex, ("0x1.62e42feep-1", "0x1.a39ef35793c76p-33")))


def exp_nonpositive(x: Tensor) -> Tensor:
    """e^x for x <= 0 (float32 or float64): csrc/common/elementary.h, operation for operation."""
    single = x.dtype == torch.float32
    magic = noise._const(x, 1.5 * 2.0 ** (23 if single else 52))
    high, low = (noise._const(x, c) for c in (_LOG2_32 if single else _LOG2_64))
    shifted = x * noise._const(x, float.fromhex("0x1.715476p+0" if single else "0x1.71547652b82fep+0")) + magic
    n = shifted - magic
    r = (x - n * high) - n * low
    y = noise._const(x, 1.0) + (r + (r * r) * noise._horner(r, _EXP_32 if single else _EXP_64))
    word, shift = (torch.int32, 23) if single else (torch.int64, 52)
    bits = y.view(word) + (shifted.view(word) << shift)
    return torch.where(x >= (-87.0 if single else -708.0), bits.view(x.dtype), noise._const(x, 0.0))


class Mass(NamedTuple):
    """Probability as whole numbers: high 2^-42 (float32), or high 2^-42 + low 2^-84 with 0 <= low < 2^42 (float64)."""

    high: Tensor
    low: Tensor | None

    def reach(self, other: Mass) -> Tensor:
        """self >= other."""
        if self.low is None or other.low is None:
            return self.high >= other.high
        return (self.high > other.high) | ((self.high == other.high) & (self.low >= other.low))

    def wide(self) -> Tensor:
        """As float64."""
        high = self.high.double() * 2.0**-42
        return high if self.low is None else high + self.low.double() * 2.0**-84

    def real(self) -> Tensor:
        """In the arithmetic's precision."""
        return self.high.float() * 2.0**-42 if self.low is None else self.wide()


def _halves(v: Tensor) -> tuple[Tensor, Tensor]:
    """v in [0, 1] as whole numbers: high 2^-22 + low 2^-42 (float64: high 2^-42 + low 2^-84)."""
    single = v.dtype == torch.float32
    coarse, fine = (noise._const(v, c) for c in ((3.0, 1.5 * 2.0**-19) if single else (1.5 * 2.0**10, 1.5 * 2.0**-32)))
    word = torch.int32 if single else torch.int64
    t = v + coarse
    rest = (v - (t - coarse)) + fine
    return (t.view(word) - coarse.view(word)).long(), (rest.view(word) - fine.view(word)).long()


def _whole(high: Tensor, low: Tensor, dtype: torch.dtype) -> Mass:
    if dtype == torch.float32:
        return Mass((high << 20) + low, None)
    return Mass(high + (low >> 42), low & ((1 << 42) - 1))


def mass(v: Tensor) -> Mass:
    """The sum of v [B, V] along its rows: [B, 1]."""
    high, low = _halves(v)
    return _whole(high.sum(1, keepdim=True), low.sum(1, keepdim=True), v.dtype)


def _running(v: Tensor) -> Mass:
    high, low = _halves(v)
    return _whole(high.cumsum(1), low.cumsum(1), v.dtype)


def _share(part: Tensor, whole: Mass) -> Mass:
    """The least mass that is at least part [B, 1] of the whole; at least one unit, at most the whole."""
    if whole.low is None:
        target = torch.ceil(part.double() * whole.high.double()).long().clamp_min(1)
        return Mass(torch.minimum(target, whole.high), None)
    scaled = (part * whole.wide()) * 2.0**42
    floor = torch.floor(scaled)
    high, low = floor.long(), ((scaled - floor) * 2.0**42).long()
    share = Mass(high, torch.where((high == 0) & (low == 0), 1, low))
    above = share.reach(whole)
    assert share.low is not None
    return Mass(torch.where(above, whole.high, high), torch.where(above, whole.low, share.low))


class Params(NamedTuple):
    """The columns of ``params`` [1 or B, 10] float64, each [B or 1, 1] in the arithmetic's precision."""

    temperature: Tensor
    top_k: Tensor
    top_p: Tensor
    min_p: Tensor
    typical_p: Tensor
    repetition_penalty: Tensor
    presence_penalty: Tensor
    frequency_penalty: Tensor
    epsilon: Tensor
    prompt: Tensor

    @staticmethod
    def of(params: Tensor, dtype: torch.dtype) -> Params:
        return Params(*(params[:, i : i + 1].to(torch.float64 if i in (1, 9) else dtype) for i in range(10)))

    def valid(self) -> Tensor:
        fractions = torch.cat((self.top_p, self.min_p, self.typical_p, self.epsilon), 1)
        return (
            ((fractions >= 0) & (fractions <= 1)).all(1, keepdim=True)
            & torch.isfinite(self.temperature)
            & (self.temperature >= 0)
            & (self.top_k >= 0)
            & torch.isfinite(self.repetition_penalty)
            & (self.repetition_penalty > 0)
            & torch.isfinite(self.presence_penalty)
            & torch.isfinite(self.frequency_penalty)
            & (self.prompt >= 0)
        )


def processed(x: Tensor, p: Params, mask: Tensor | None, history: Tensor | None) -> Tensor:
    """Logits x [B, V] (float32 or float64) after penalties, temperature and mask; -inf where illegal."""
    if history is not None:
        met = met_before(history, x.shape[1])
        x = torch.where(met, torch.where(x > 0, x / p.repetition_penalty, x * p.repetition_penalty), x)
        drawn = drawn_before(history, p.prompt, x.shape[1]).to(x.dtype)
        x = (x - p.frequency_penalty * drawn) - torch.where(drawn > 0, p.presence_penalty, 0.0)
    x = x / torch.where(p.temperature == 0, 1.0, p.temperature).to(x.dtype)
    return x if mask is None else torch.where(mask, x, float("-inf"))


def met_before(history: Tensor, vocab: int) -> Tensor:
    """[B, V] bool: the tokens of history [B, H]; those outside [0, V) are padding."""
    inside = (history >= 0) & (history < vocab)
    met = torch.zeros(history.shape[0], vocab + 1, dtype=torch.bool, device=history.device)
    return met.scatter_(1, torch.where(inside, history, vocab), True)[:, :vocab]


def drawn_before(history: Tensor, prompt: Tensor, vocab: int) -> Tensor:
    """[B, V] int64: how often each token stands in history [B, H] past its first ``prompt`` [1 or B, 1] columns."""
    past = torch.arange(history.shape[1], device=history.device) >= prompt
    inside = (history >= 0) & (history < vocab) & past
    counts = torch.zeros(history.shape[0], vocab + 1, dtype=torch.int64, device=history.device)
    return counts.scatter_add_(1, torch.where(inside, history, vocab), inside.long())[:, :vocab]


def _prefix(key: Tensor, e: Tensor, kept: Tensor, part: Tensor) -> Tensor:
    """Of ``kept``, the smallest prefix in the order (key descending, index ascending) with ``part`` of their mass."""
    e = torch.where(kept, e, 0.0)
    order = torch.where(kept, key, float("-inf")).sort(dim=1, descending=True, stable=True).indices
    target = _share(part, mass(e))
    reached = _running(e.gather(1, order)).reach(target)
    before = torch.cat((torch.zeros_like(reached[:, :1]), reached[:, :-1]), 1)  # reached without this token
    return torch.where(part < 1, kept & torch.zeros_like(kept).scatter_(1, order, ~before), kept)


def keep(z: Tensor, top: Tensor, p: Params) -> Tensor:
    """[B, V] bool: the tokens that survive top-k, top-p, min-p and typical; z processed, top its greatest [B, 1]."""
    legal = z > float("-inf")
    w = z - top
    e = exp_nonpositive(torch.where(legal, w, float("-inf")))
    order = z.sort(dim=1, descending=True, stable=True).indices
    rank = torch.empty_like(order).scatter_(1, order, torch.arange(z.shape[1], device=z.device).expand_as(order))
    kept = legal & ((p.top_k < 1) | (rank < p.top_k))
    kept = _prefix(z, e, kept, p.top_p)
    least = noise.log_positive(p.min_p.clamp_min(torch.finfo(z.dtype).tiny))
    kept = kept & ((p.min_p == 0) | (w >= least))
    rest = torch.where(kept, e, 0.0)
    depth = mass(torch.where(kept, e * (top - z), 0.0))
    mean = (-(depth.wide() / mass(rest).wide())).to(z.dtype)
    return _prefix(-(w - mean).abs(), e, kept, p.typical_p)


class Parts(NamedTuple):
    """What a row's log-probabilities are made of. Rows [B, 1] with ``fine`` False have neither."""

    x: Tensor
    z: Tensor
    x_top: Tensor
    top: Tensor
    kept: Tensor
    log_raw: Tensor
    log_kept: Tensor
    log_kept_mass: Tensor
    greedy: Tensor
    fine: Tensor
    legal: Tensor
    epsilon: Tensor


def parts(logits: Tensor, params: Tensor, mask: Tensor | None, history: Tensor | None) -> Parts:
    x = logits.to(torch.float64 if logits.dtype == torch.float64 else torch.float32)
    p = Params.of(params, x.dtype)
    z = processed(x, p, mask, history)
    x_top, top = x.amax(1, keepdim=True), z.amax(1, keepdim=True)
    # NaN passes through amax
    fine = (x_top < float("inf")) & (top < float("inf")) & (top > float("-inf")) & p.valid()
    x, z = torch.where(fine, x, 0.0), torch.where(fine, z, 0.0)
    x_top, top = torch.where(fine, x_top, 0.0), torch.where(fine, top, 0.0)
    greedy = p.temperature == 0
    first = first_greatest(z)
    kept = torch.where(greedy, torch.arange(z.shape[1], device=z.device) == first, keep(z, top, p))
    e = exp_nonpositive(z - top)
    whole, part = mass(e).real(), mass(torch.where(kept, e, 0.0)).real()
    return Parts(
        x, z, x_top, top, kept,
        noise.log_positive(mass(exp_nonpositive(x - x_top)).real()),
        noise.log_positive(part),
        torch.where(greedy, 0.0, noise.log_positive(part / whole)),
        greedy, fine.expand(x.shape[0], 1), z > float("-inf"), p.epsilon,
    )  # fmt: skip


def first_greatest(x: Tensor) -> Tensor:
    """[B, 1]: the lowest index of each row's greatest value."""
    at = torch.arange(x.shape[1], device=x.device)
    return torch.where(x == x.amax(1, keepdim=True), at, x.shape[1]).amin(1, keepdim=True)


def _logprob(row: Parts, tokens: Tensor) -> Tensor:
    value = (row.z.gather(1, tokens) - row.top) - row.log_kept
    value = torch.where(row.greedy, 0.0, value)
    value = torch.where(row.kept.gather(1, tokens), value, float("-inf"))
    mixed = torch.where(row.legal.gather(1, tokens), noise.log_positive(_mixture(row, value)), float("-inf"))
    return torch.where(row.epsilon > 0, mixed, value)


def _mixture(row: Parts, logprob: Tensor) -> Tensor:
    """(1 - epsilon) p + epsilon / (number of legal tokens), for tokens of log-probability ``logprob`` in the policy."""
    count = row.legal.sum(1, keepdim=True).to(logprob.dtype)
    return (1 - row.epsilon) * exp_nonpositive(logprob) + row.epsilon / count


def _explored(row: Parts, epsilon: Tensor, seed: Tensor, sample_ids: Tensor, step: Tensor) -> tuple[Tensor, Tensor]:
    """Whether rows choose uniformly, and the legal token that they would choose so: each [B, 1]."""
    words = noise.words(seed, sample_ids, step, 2, EXPLORE)
    place = row.legal.cumsum(1)
    chosen = (words[:, 1:] * place[:, -1:]) >> 32
    token = (place <= chosen).sum(1, keepdim=True).clamp_max(place.shape[1] - 1)
    return words[:, :1].double() < epsilon * 2.0**32, token


def sample(
    logits: Tensor,
    params: Tensor,
    mask: Tensor | None,
    history: Tensor | None,
    seed: Tensor,
    sample_ids: Tensor,
    step: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """As the op ``gmkern::sample``; a row without a legal token, or not finite, gives token -1 and NaN."""
    if logits.shape[0] == 0:
        real = torch.float64 if logits.dtype == torch.float64 else torch.float32
        nothing = logits.new_empty(0, dtype=real)
        return sample_ids.new_empty(0), nothing, nothing.clone(), nothing.clone()
    row = parts(logits, params, mask, history)
    gumbel = noise.gumbel(seed, sample_ids, step, logits.shape[1], TOKEN, row.z.dtype)
    tokens = first_greatest(torch.where(row.kept, row.z + gumbel, float("-inf")))
    explores, uniform = _explored(row, params[:, 8:9], seed, sample_ids, step)
    tokens = torch.where(explores, uniform, tokens)
    raw = (row.x.gather(1, tokens) - row.x_top) - row.log_raw
    nan = float("nan")
    return (
        torch.where(row.fine, tokens, -1)[:, 0],
        torch.where(row.fine, _logprob(row, tokens), nan)[:, 0],
        torch.where(row.fine, raw, nan)[:, 0],
        torch.where(row.fine, row.log_kept_mass, nan)[:, 0],
    )


def token_logprobs(
    logits: Tensor, tokens: Tensor, params: Tensor, mask: Tensor | None, history: Tensor | None
) -> Tensor:
    """As the op ``gmkern::token_logprobs``: logits [B, V], tokens [B] -> [B]; NaN where a row or its token has none."""
    if logits.shape[0] == 0:
        return logits.new_empty(0, dtype=torch.float64 if logits.dtype == torch.float64 else torch.float32)
    row = parts(logits, params, mask, history)
    inside = (tokens >= 0) & (tokens < logits.shape[1])
    value = _logprob(row, torch.where(inside, tokens, 0)[:, None])
    return torch.where(row.fine & inside[:, None], value, float("nan"))[:, 0]


def token_logprobs_backward(
    grad: Tensor, logits: Tensor, tokens: Tensor, params: Tensor, mask: Tensor | None, history: Tensor | None
) -> Tensor:
    """As the op ``gmkern::token_logprobs_backward``: d loss / d logits [B, V] at a fixed kept set."""
    return score_tokens_backward(grad, None, None, logits, tokens, params, mask, history)


def score_tokens(
    logits: Tensor, tokens: Tensor, params: Tensor, mask: Tensor | None, history: Tensor | None, entropy: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """As the op ``gmkern::score_tokens``: logprobs, raw_logprobs, log_kept_mass and entropy (0 if not asked for)."""
    if logits.shape[0] == 0:
        real = torch.float64 if logits.dtype == torch.float64 else torch.float32
        a, b, c, d = (logits.new_empty(0, dtype=real) for _ in range(4))
        return a, b, c, d
    row = parts(logits, params, mask, history)
    inside = ((tokens >= 0) & (tokens < logits.shape[1]))[:, None]
    at = torch.where(inside, tokens[:, None], 0)
    raw = (row.x.gather(1, at) - row.x_top) - row.log_raw
    spread = _entropy(row)[0] if entropy else torch.zeros_like(raw)
    fine = row.fine & inside
    a, b, c, d = (
        torch.where(fine, value, float("nan"))[:, 0] for value in (_logprob(row, at), raw, row.log_kept_mass, spread)
    )
    return a, b, c, d


def _policy(row: Parts) -> tuple[Tensor, Tensor]:
    """The policy's p and log p [B, V], 0 and 0 for tokens that are not kept."""
    log = torch.where(row.kept, torch.where(row.greedy, 0.0, (row.z - row.top) - row.log_kept), float("-inf"))
    return torch.exp(log), torch.where(row.kept, log, 0.0)


def _entropy(row: Parts) -> tuple[Tensor, Tensor]:
    """The entropy [B, 1] of what a token is drawn from, and its gradient by processed logits [B, V]."""
    p, log = _policy(row)
    uniform = row.epsilon / row.legal.sum(1, keepdim=True)
    q = torch.where(row.legal, (1 - row.epsilon) * p + uniform, 0.0)
    log_q = torch.where(row.epsilon > 0, torch.log(torch.where(q > 0, q, 1.0)), log)
    slope = -(1 - row.epsilon) * log_q  # up to what all tokens have in common
    gradient = p * (slope - (p * slope).sum(1, keepdim=True))
    return -(q * log_q).sum(1, keepdim=True), torch.where(row.greedy, 0.0, gradient)


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
    """As the op ``gmkern::score_tokens_backward``: d loss / d logits [B, V] at a fixed kept set."""
    if logits.shape[0] == 0:
        return logits.new_empty(logits.shape, dtype=grad_logprobs.dtype)
    row = parts(logits, params, mask, history)
    inside = ((tokens >= 0) & (tokens < logits.shape[1]))[:, None]
    at = torch.where(inside, tokens[:, None], 0)
    p = Params.of(params, row.z.dtype)
    depends = row.fine & inside & ~row.greedy & row.kept.gather(1, at)
    policy = (row.z.gather(1, at) - row.top) - row.log_kept
    weight = torch.where(p.epsilon > 0, (1 - p.epsilon) * exp_nonpositive(policy) / _mixture(row, policy), 1.0)
    slope = torch.where(depends, grad_logprobs[:, None] * weight, 0.0)
    out = (-slope * torch.where(depends, _policy(row)[0], 0.0)).scatter_add(1, at, slope)
    if grad_entropy is not None:
        out = out + grad_entropy[:, None] * _entropy(row)[1]
    out = out / torch.where(row.greedy, 1.0, p.temperature).to(row.z.dtype)
    if history is not None:
        factor = torch.where(row.x > 0, 1.0 / p.repetition_penalty, p.repetition_penalty)
        out = torch.where(met_before(history, row.x.shape[1]), out * factor, out)
    if grad_raw is not None:
        share = torch.exp((row.x - row.x_top) - row.log_raw)
        out = (out - grad_raw[:, None] * share).scatter_add(1, at, grad_raw[:, None])
    return torch.where(row.fine & inside, out, float("nan"))
