"""The head and the draw in three launches, in the interpreter: the bits of head, sampler and what follows it."""

from __future__ import annotations

import pytest
import torch

from gmkern.decode import SamplingParams, generate
from gmkern.decode.generate import device, triton_head
from gmkern.decode.generate.triton_kernels import ENDED, FLAWED, IDLE, RUNS, advance
from gmkern.decode.sample import ops
from gmkern.decode.transformer import triton_kernels as layers
from gmkern.decode.transformer.device_weights import Linear
from tests.decode.small_models import build, prompts, same

ROWS, WIDTH, LANES = 18, 24, 20  # two tiles of rows, two lanes more


def lanes():
    """ends, state, step, token, position; tokens, logprobs, raw_logprobs, log_kept_mass."""
    state = torch.full((LANES,), RUNS, dtype=torch.int32)
    state[5] = IDLE
    moving = torch.arange(300), state, torch.arange(LANES) % 3, torch.zeros(1, LANES, dtype=torch.int64)
    kept = torch.full((LANES, 4), -7), *(torch.full((LANES, 4), -7.0) for _ in range(3))
    return (*moving, torch.arange(LANES, dtype=torch.int32)[None].clone()), kept


@pytest.mark.parametrize(("cap", "vocab"), [(0.0, 70), (1.5, 1030)])  # one part of the vocabulary, or two
def test_bits_of_the_sampler(cap, vocab, generator):
    normed = 2 * torch.randn(ROWS, WIDTH, generator=generator)
    scale = torch.rand(vocab, generator=generator) / 64 if cap else None
    weight = torch.randint(-127, 128, (vocab, WIDTH), generator=generator).to(torch.int8)
    head = Linear(weight if cap else weight / 127, None, scale)
    normed[3, 0] = torch.nan
    heat = torch.rand(ROWS, generator=generator)
    heat[7], heat[8], heat[9] = 0.0, -1.0, 1e-40  # the greatest; out of range; logits past float32
    params = SamplingParams(temperature=heat).packed(ROWS, heat.device)
    noise = (
        torch.arange(ROWS) // 2,
        torch.randint(-9, 1 << 40, (ROWS,), generator=generator),
        torch.arange(LANES)[:ROWS],
    )
    ours, theirs = lanes(), lanes()
    triton_head.draw(normed, head, cap, params, noise, *ours)

    options = {"norm": None, "eps": 0.0, "gate": None, "activation": "none", "added": False}
    logits = layers.linear(normed, head, torch.empty(ROWS, vocab), cap=cap, **options)
    fine = [row for row in range(ROWS) if row not in (3, 8, 9)]
    drawn = [torch.full((ROWS,), -1), *(torch.full((ROWS,), torch.nan) for _ in range(3))]
    given = logits[fine], params[fine], None, None, *(x[fine] for x in noise)
    for out, values in zip(drawn, ops.sample(*given), strict=True):
        out[fine] = values
    advance(tuple(drawn), *theirs[0], theirs[1], None, 0)
    for mine, right in zip((*ours[0], *ours[1]), (*theirs[0], *theirs[1]), strict=True):
        torch.testing.assert_close(mine, right, rtol=0, atol=0, equal_nan=True)
    states = ours[0][1].tolist()
    assert [states[row] for row in (3, 8, 9)] == [FLAWED] * 3
    assert states[5] == IDLE
    assert ENDED in states
    assert RUNS in states


def test_generates_bits(monkeypatch, generator):
    monkeypatch.setattr(device, "takes", lambda *_: False)
    monkeypatch.setattr(device.sampler, "sample", ops.sample)  # its bits, and sooner
    model, drawn = build("llama", n_layers=1), []
    run = triton_head.draw
    monkeypatch.setattr(device, "draw", lambda *args: (drawn.append(len(args[0])), run(*args)))
    given = prompts(generator, (3, 1, 6))
    asked = {"max_new_tokens": 3, "seed": 3, "end_token": [4, 5], "backend": "triton"}
    ours = generate(model, given, **asked)
    assert drawn
    monkeypatch.setattr(device, "FEW", 2)
    count = len(drawn)
    assert same(ours, generate(model, given, **asked))
    assert len(drawn) == count
