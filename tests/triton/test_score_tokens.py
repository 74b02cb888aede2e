"""The Triton kernels that score given tokens, in the interpreter: the reference's values to the bit, its gradients."""

from __future__ import annotations

import pytest
import torch

from gmkern.decode import SamplingParams
from gmkern.decode.sample import reference
from gmkern.decode.sample import triton_kernels as kernels
from gmkern.testing import relative_error, tolerance

VOCAB = 1100  # two tiles
WAYS = {
    "plain": (SamplingParams(), 0.0, False),
    "greedy and cold": (SamplingParams(torch.tensor([0.0, 0.4, 0.0])), torch.tensor([0.0, 0.1, 0.2]), False),
    "all": (SamplingParams(0.8, 40, 0.9, 0.02, 0.9, 1.3, 0.4, 0.3), torch.tensor([0.0, 0.3, 1.0]), True),
}


@pytest.mark.parametrize(
    ("way", "dtype"), [("plain", torch.float32), ("greedy and cold", torch.float64), ("all", torch.float32)]
)
def test_values_and_gradients(way, dtype, generator):
    params, epsilon, crowded = WAYS[way]
    logits = 3 * torch.randn(3, VOCAB, generator=generator, dtype=torch.float64).to(dtype)
    mask = torch.rand(3, VOCAB, generator=generator) < 0.5 if crowded else None
    history = torch.randint(-1, 9, (3, 20), generator=generator) if crowded else None
    packed = params.packed(3, logits.device, epsilon, 6)
    noise = torch.tensor(3), torch.arange(3), torch.tensor(2)
    drawn = kernels.sample(logits, packed, mask, history, *noise)
    given = drawn[0], packed, mask, history
    ours, truth = (module.score_tokens(logits, *given, True) for module in (kernels, reference))
    for name, a, b in zip(("logprobs", "raw", "kept"), ours, truth, strict=False):
        assert torch.equal(a, b), name
    assert all(torch.equal(a, b) for a, b in zip(ours, drawn[1:], strict=False))  # what the sampler said
    # sums of p log p, p <= 1 and |log p| < 20
    assert relative_error(ours[3], truth[3], magnitude=20.0) < tolerance(dtype, VOCAB)
    assert not kernels.score_tokens(logits, *given, False)[3].any()
    slopes = [torch.randn(3, generator=generator, dtype=torch.float64).to(dtype) for _ in range(3)]
    ours, truth = (module.score_tokens_backward(*slopes, logits, *given) for module in (kernels, reference))
    # products of a slope (< 4), a probability and a log-probability, over the temperature and the penalty
    assert relative_error(ours, truth, magnitude=4 * 20 * 1.3 / 0.4) < tolerance(dtype, VOCAB)
    assert float(truth.abs().max()) > 1e-3
    alone = slopes[0], None, None
    ours, truth = (module.score_tokens_backward(*alone, logits, *given) for module in (kernels, reference))
    assert relative_error(ours, truth, magnitude=4 * 1.3 / 0.4) < tolerance(dtype, VOCAB)
    other = kernels.score_tokens(logits, (drawn[0] + 1) % VOCAB, *given[1:], False)
    assert not torch.equal(other[1], drawn[2])  # the comparison can fail


def test_what_cannot_be_scored():
    logits = torch.zeros(4, 8)
    logits[1, 2] = torch.nan
    tokens, params = torch.tensor([0, 1, 8, -1]), SamplingParams().packed(4, logits.device)
    served = [False, True, True, True]
    for out in kernels.score_tokens(logits, tokens, params, None, None, True):
        assert torch.isnan(out).tolist() == served
    ones = torch.ones(4)
    gradient = kernels.score_tokens_backward(ones, ones, ones, logits, tokens, params, None, None)
    assert torch.isnan(gradient).all(1).tolist() == torch.isnan(gradient).any(1).tolist() == served
