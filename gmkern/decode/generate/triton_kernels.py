"""What follows the draw of a token, in Triton: it is kept, and each lane moves on or ends, on the device."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

IDLE, RUNS, ENDED, CUT, FLAWED = range(5)  # states of a lane
_RUNS, _ENDED, _CUT, _FLAWED = map(tl.constexpr, (RUNS, ENDED, CUT, FLAWED))
_LANES = tl.constexpr(64)  # that a program moves


@triton.jit
def move(
    lane, runs, new, logprob, raw, kept, ends, state, step, token, position, tokens, logprobs, raws, kepts, history,
    room, end_count, most, history_width, history_begin, SIDES: tl.constexpr, REMEMBERS: tl.constexpr,
):  # fmt: skip
    """Lanes that run, of ``room``, keep what was drawn. tokens ... kepts [room, most]; history [room, history_width];
    token and position [SIDES, room]."""
    now = tl.load(step + lane, mask=runs, other=0)
    at = lane.to(tl.int64) * most + now
    tl.store(tokens + at, new, mask=runs)
    tl.store(logprobs + at, logprob, mask=runs)
    tl.store(raws + at, raw, mask=runs)
    tl.store(kepts + at, kept, mask=runs)
    if REMEMBERS:
        tl.store(history + lane.to(tl.int64) * history_width + history_begin + now, new, mask=runs)
    ended = lane < 0
    for e in range(end_count):
        ended = ended | (new == tl.load(ends + e))
    flawed = new < 0  # the sampler's word for a row that it could not draw for
    following = tl.where(now + 1 >= most, _CUT, _RUNS)
    following = tl.where(flawed, _FLAWED, tl.where(ended, _ENDED, following))
    tl.store(state + lane, following, mask=runs)
    tl.store(step + lane, now + 1, mask=runs)
    goes_on = runs & (following == _RUNS)  # a lane that has ended stays where it is
    for side in tl.static_range(SIDES):
        here = side * room + lane
        tl.store(token + here, new, mask=goes_on)
        tl.store(position + here, tl.load(position + here, mask=goes_on, other=0) + 1, mask=goes_on)


@triton.jit(do_not_specialize=["lanes"])
def advance_kernel(
    drawn, drawn_logprob, drawn_raw, drawn_kept, ends, state, step, token, position, tokens, logprobs, raws, kepts,
    history, lanes, room, end_count, most, history_width, history_begin, SIDES: tl.constexpr, REMEMBERS: tl.constexpr,
):  # fmt: skip
    """:func:`move` of those of the first ``lanes`` that run."""
    lane = tl.program_id(0) * _LANES + tl.arange(0, _LANES)
    runs = lane < lanes
    runs = runs & (tl.load(state + lane, mask=runs, other=0) == _RUNS)
    move(
        lane, runs, tl.load(drawn + lane, mask=runs, other=0), tl.load(drawn_logprob + lane, mask=runs, other=0.0),
        tl.load(drawn_raw + lane, mask=runs, other=0.0), tl.load(drawn_kept + lane, mask=runs, other=0.0), ends, state,
        step, token, position, tokens, logprobs, raws, kepts, history, room, end_count, most, history_width,
        history_begin, SIDES, REMEMBERS,
    )  # fmt: skip


def advance(
    drawn: tuple[Tensor, ...],
    ends: Tensor,
    state: Tensor,
    step: Tensor,
    token: Tensor,
    position: Tensor,
    kept: tuple[Tensor, ...],
    history: Tensor | None,
    history_begin: int,
) -> None:
    """See :func:`advance_kernel`; ``drawn`` is the sampler's answer, ``kept`` where it goes."""
    lanes, (sides, room), most = drawn[0].shape[0], token.shape, kept[0].shape[1]
    with torch.cuda.device_of(state):
        advance_kernel[(triton.cdiv(lanes, _LANES.value),)](
            *drawn, ends, state, step, token, position, *kept, state if history is None else history, lanes, room,
            ends.shape[0], most, 0 if history is None else history.shape[1], history_begin, SIDES=sides,
            REMEMBERS=history is not None, num_warps=2,
        )  # fmt: skip
