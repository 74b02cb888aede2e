"""The Triton kernel that chooses tokens, in the interpreter, against the reference: every output to the bit."""

from __future__ import annotations

import pytest
import torch

from gmkern.decode import SamplingParams, sample, token_logprobs
from gmkern.testing import relative_error, tolerance

ROWS = 2
CASES = {
    "plain": SamplingParams(),
    "greedy and cold": SamplingParams(temperature=torch.tensor([0.0, 0.4])),
    "top-k": SamplingParams(top_k=torch.tensor([3, 1])),
    "top-p": SamplingParams(temperature=1.5, top_p=0.8),
    "min-p": SamplingParams(min_p=0.1),
    "typical": SamplingParams(typical_p=0.6),
    "all": SamplingParams(0.8, 40, 0.9, 0.02, 0.9, 1.3),
}


def _inputs(vocab, dtype, generator, *, ties):
    logits = 3 * torch.randn(ROWS, vocab, generator=generator, dtype=torch.float64)
    return (logits.round() if ties else logits).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("case", CASES)
def test_equals_reference(case, dtype, generator):
    """One tile that is not full, ties, masks and history; the second tile is reached below."""
    logits = _inputs(90, dtype, generator, ties=True)
    mask = torch.rand(ROWS, 90, generator=generator) < 0.8
    mask[:, 0] = True
    history = torch.randint(-1, 90, (ROWS, 5), generator=generator)
    given = {"mask": mask, "history": history}
    for extra in ({}, given):
        drawn = {
            backend: sample(logits, CASES[case], seed=3, sample_ids=[4, -7], step=2, backend=backend, **extra)
            for backend in ("triton", "reference")
        }
        for name, ours, truth in zip(drawn["triton"]._fields, drawn["triton"], drawn["reference"], strict=True):
            assert torch.equal(ours, truth), name
        again = token_logprobs(logits, drawn["triton"].tokens, CASES[case], backend="triton", **extra)
        assert torch.equal(again, drawn["triton"].logprobs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_exploration_and_counted_penalties(dtype, generator):
    """Two tiles, so that the uniform choice is found in either; the gradient, too."""
    logits = _inputs(1100, dtype, generator, ties=False)
    params = SamplingParams(0.8, 40, repetition_penalty=1.2, presence_penalty=0.4, frequency_penalty=0.3)
    mask = torch.rand(ROWS, 1100, generator=generator) < 0.5
    given = {
        "mask": mask,
        "history": torch.randint(0, 9, (ROWS, 20), generator=generator),
        "history_prompt": 6,
        "epsilon": torch.tensor([0.9, 0.4]),
    }
    for seed in range(4):
        ours, truth = (
            sample(logits, params, seed=seed, sample_ids=[4, -7], step=2, backend=backend, **given)
            for backend in ("triton", "reference")
        )
        assert all(torch.equal(a, b) for a, b in zip(ours, truth, strict=True))
    assert torch.equal(token_logprobs(logits, ours.tokens, params, backend="triton", **given), ours.logprobs)
    grads = []
    for backend in ("triton", "reference"):
        x = logits.clone().requires_grad_()
        score = token_logprobs(x, ours.tokens, params, backend=backend, **given)
        grads.append(torch.autograd.grad(score.sum(), x)[0])
    assert relative_error(grads[0], grads[1], magnitude=1.2 / 0.8) < tolerance(dtype, 1100)


@pytest.mark.parametrize("case", ["plain", "all"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
def test_two_tiles(case, dtype, generator):
    logits = _inputs(1100, dtype, generator, ties=False)
    ours = sample(logits, CASES[case], seed=5, sample_ids=[0, 1], step=0, backend="triton")
    truth = sample(logits, CASES[case], seed=5, sample_ids=[0, 1], step=0, backend="reference")
    assert all(torch.equal(a, b) for a, b in zip(ours, truth, strict=True))


def test_gradient(generator):
    logits = _inputs(70, torch.float64, generator, ties=False)
    history = torch.tensor([[1, 2, 2], [5, -1, -1]])
    params = SamplingParams(0.7, 9, 0.95, repetition_penalty=1.2)
    tokens = sample(logits, params, seed=1, sample_ids=[0, 1], step=0, history=history).tokens
    grads = []
    for backend in ("triton", "reference"):
        x = logits.clone().requires_grad_()
        score = token_logprobs(x, tokens, params, history=history, backend=backend)
        grads.append(torch.autograd.grad(score, x, torch.tensor([1.5, -2.0], dtype=torch.float64))[0])
    # elements are single products of numbers of size <= slope / temperature / penalty
    assert relative_error(grads[0], grads[1], magnitude=2.0 / 0.7 * 1.2) < tolerance(torch.float64, 70)


def test_a_row_that_cannot_be_served():
    """The kernel marks it, and on a CPU the public function turns the mark into an error."""
    from gmkern.decode.sample import triton_kernels

    logits = torch.zeros(3, 8)
    logits[1, 2] = float("nan")
    params = SamplingParams().packed(3, logits.device)
    zero = torch.zeros(3, dtype=torch.int64)
    out = triton_kernels.sample(logits, params, None, None, zero, zero, zero)
    assert (out[0] == -1).tolist() == [False, True, False]
    assert all(torch.isnan(o).tolist() == [False, True, False] for o in out[1:])
    with pytest.raises(ValueError, match="logits: got row 1"):
        sample(logits, seed=0, sample_ids=[0, 1, 2], step=0, backend="triton")
