"""The sampler on a real GPU: the tokens of the CPU, whatever the filters, and inside a CUDA graph."""

from __future__ import annotations

import pytest
import torch

from gmkern.decode import SamplingParams, sample, token_logprobs
from gmkern.decode.sample import ops

pytestmark = pytest.mark.gpu

FILTERS = {
    "none": SamplingParams(),
    "temperature": SamplingParams(temperature=0.7),
    "top-k": SamplingParams(top_k=20),
    "top-p": SamplingParams(top_p=0.8),
    "min-p": SamplingParams(min_p=0.05),
    "typical": SamplingParams(typical_p=0.6),
    "all": SamplingParams(temperature=1.3, top_k=200, top_p=0.95, min_p=0.01, typical_p=0.9),
    "greedy": SamplingParams(temperature=0.0),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("vocabulary", [2, 17, 1000, 50257])
@pytest.mark.parametrize("params", list(FILTERS.values()), ids=list(FILTERS))
def test_the_tokens_of_the_cpu(params, vocabulary, dtype, generator):
    logits = (3 * torch.randn(5, vocabulary, generator=generator)).to(dtype)
    mask = torch.rand(5, vocabulary, generator=generator) < 0.9
    mask[:, 0] = True
    ids = torch.tensor([0, -3, 1 << 40, 7, 8])
    on_cpu = sample(logits, params, seed=11, sample_ids=ids, step=2, mask=mask)
    on_gpu = sample(logits.cuda(), params, seed=11, sample_ids=ids.cuda(), step=2, mask=mask.cuda())
    for name, ours, theirs in zip(on_cpu._fields, on_gpu, on_cpu, strict=True):
        assert ours.is_cuda
        assert torch.equal(ours.cpu(), theirs), name


def test_gradient_is_that_of_the_cpu(generator):
    logits = torch.randn(4, 300, generator=generator)
    tokens = torch.tensor([0, 5, 299, 17])
    grads = []
    for device in ("cpu", "cuda"):
        x = logits.to(device).requires_grad_()
        token_logprobs(x, tokens.to(device), SamplingParams(temperature=0.8, top_k=300)).sum().backward()
        grads.append(x.grad.cpu())
    # one product and one quotient of fp32 an element
    torch.testing.assert_close(grads[1], grads[0], rtol=4 * torch.finfo(torch.float32).eps, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("params", list(FILTERS.values()), ids=list(FILTERS))
def test_scores_of_the_cpu(params, dtype, generator):
    logits = (3 * torch.randn(5, 5000, generator=generator)).to(dtype)
    packed, real = params.packed(5, logits.device, 0.1), torch.promote_types(dtype, torch.float32)
    slopes = [torch.randn(5, generator=generator).to(real) for _ in range(3)]
    tokens = sample(logits, params, seed=1, sample_ids=torch.arange(5), step=0).tokens
    on_cpu = ops.score_tokens(logits, tokens, packed, None, None, True)
    on_gpu = ops.score_tokens(logits.cuda(), tokens.cuda(), packed.cuda(), None, None, True)
    for ours, theirs in zip(on_gpu[:3], on_cpu[:3], strict=True):
        assert torch.equal(ours.cpu(), theirs)
    # sums of 5,000 terms p log p and of products with them, whose magnitudes sum to less than 40
    far = 40 * 5000**0.5 * torch.finfo(real).eps
    torch.testing.assert_close(on_gpu[3].cpu(), on_cpu[3], rtol=0, atol=far)
    there = [x.cuda() for x in (*slopes, logits, tokens, packed)]
    ours = ops.score_tokens_backward(*there, None, None)
    theirs = ops.score_tokens_backward(*slopes, logits, tokens, packed, None, None)
    torch.testing.assert_close(ours.cpu(), theirs, rtol=0, atol=4 * far)


def test_replays_of_a_graph_differ_by_step(generator):
    logits = torch.zeros(64, 1000, device="cuda")
    ids, seed = torch.arange(64, device="cuda"), torch.tensor(3, device="cuda")
    step = torch.tensor(0, device="cuda")
    sample(logits, SamplingParams(), seed=seed, sample_ids=ids, step=step)  # compile before capture
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        tokens = sample(logits, SamplingParams(), seed=seed, sample_ids=ids, step=step).tokens
        step += 1
    step.zero_()
    for at in range(3):
        graph.replay()
        truth = sample(logits.cpu(), SamplingParams(), seed=3, sample_ids=ids.cpu(), step=at)
        assert torch.equal(tokens.cpu(), truth.tokens)
