"""Uniform exploration, presence and frequency penalties, entropy: closed forms in float64, every backend alike."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gmkern.decode import SamplingParams, sample, token_logprobs
from gmkern.decode.sample import ops, reference
from gmkern.testing import relative_error, tolerance
from tests.decode import sample_truth as truth

BACKENDS = ("cpu", "reference")
FILTERS = {
    "plain": {},
    "cut": {"top_k": 9, "top_p": 0.9},
    "all": {"temperature": 0.8, "top_k": 20, "min_p": 0.01, "typical_p": 0.9},
}


def rows(generator, vocab=40, count=5, dtype=torch.float64):
    logits = 2 * torch.randn(count, vocab, generator=generator, dtype=torch.float64)
    mask = torch.rand(count, vocab, generator=generator) < 0.7
    mask[:, 3] = True
    return logits.to(dtype), mask


def behaviour(logits, mask, epsilon, temperature=1.0, **filters):
    """What a token is drawn from [V], in float64 NumPy."""
    z = truth.processed(logits.double().numpy(), temperature, mask=mask.numpy())
    p = np.exp(truth.logprobs(z, truth.kept(z, **filters)))
    return (1 - epsilon) * p + epsilon * mask.numpy() / mask.sum().item()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("case", FILTERS)
def test_logprobs_are_those_of_the_mixture(case, backend, generator):
    logits, mask = rows(generator)
    epsilon = torch.tensor([0.0, 0.3, 1.0, 0.05, 0.5], dtype=torch.float64)
    params = SamplingParams(**FILTERS[case])
    for token in range(40):
        got = token_logprobs(logits, torch.full((5,), token), params, mask=mask, epsilon=epsilon, backend=backend).exp()
        want = torch.tensor(
            [behaviour(x, m, float(e), **FILTERS[case])[token] for x, m, e in zip(logits, mask, epsilon, strict=True)]
        )
        # sums of 40 probabilities, one exponential, one logarithm
        assert relative_error(got, want, magnitude=1.0) < tolerance(torch.float64, 40)


@pytest.mark.parametrize("backend", BACKENDS)
def test_draws_follow_the_mixture(backend, generator):
    logits, mask = rows(generator, vocab=12, count=1)
    n = 20_000
    params = SamplingParams(top_k=3)
    drawn = sample(
        logits.expand(n, -1), params, mask=mask.expand(n, -1), seed=5, sample_ids=range(n), step=2, epsilon=0.4,
        backend=backend,
    )  # fmt: skip
    q = behaviour(logits[0], mask[0], 0.4, top_k=3)
    seen = np.bincount(drawn.tokens.numpy(), minlength=12)
    assert (seen[q == 0] == 0).all()
    expected = n * q[q > 0]
    # 11 degrees of freedom or fewer pass 37.4 with probability 1e-4
    assert ((seen[q > 0] - expected) ** 2 / expected).sum() < 37.4
    again = token_logprobs(
        logits.expand(n, -1), drawn.tokens, params, mask=mask.expand(n, -1), epsilon=0.4, backend=backend
    )
    assert torch.equal(again, drawn.logprobs)
    # rows that did not explore drew what they draw without it
    without = sample(
        logits.expand(n, -1), params, mask=mask.expand(n, -1), seed=5, sample_ids=range(n), step=2, backend=backend
    )
    same = float((drawn.tokens == without.tokens).double().mean())
    at_least = 0.6 + 0.4 * float((behaviour(logits[0], mask[0], 0.0, top_k=3) * mask[0].numpy()).max()) / mask.sum()
    assert same > at_least - 5 * 0.5 / n**0.5


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_backends_agree_to_the_bit(dtype, generator):
    logits, mask = rows(generator, dtype=dtype)
    history = torch.randint(-1, 40, (5, 12), generator=generator)
    params = SamplingParams(
        0.9, 15, 0.95, repetition_penalty=1.2, presence_penalty=torch.tensor([0.3, 0.0, -1.0, 2.0, 0.0]),
        frequency_penalty=torch.tensor([0.0, 0.7, 0.1, -0.2, 0.0]),
    )  # fmt: skip
    epsilon = torch.tensor([0.0, 0.5, 1.0, 0.9, 0.2])
    given = {"mask": mask, "history": history, "history_prompt": 4, "epsilon": epsilon}
    one, two = (
        sample(logits, params, seed=3, sample_ids=range(5), step=1, backend=backend, **given) for backend in BACKENDS
    )
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))


@pytest.mark.parametrize("backend", BACKENDS)
def test_presence_and_frequency_count_what_was_drawn(backend, generator):
    logits = torch.randn(1, 8, generator=generator, dtype=torch.float64)
    history = torch.tensor([[1, 1, 2, 5, 5, 5, 2, -1, 99]])  # the first three are the prompt
    params = SamplingParams(repetition_penalty=1.5, presence_penalty=0.25, frequency_penalty=0.5)
    z = logits[0].clone()
    for token in (1, 2, 5):
        z[token] = z[token] / 1.5 if z[token] > 0 else z[token] * 1.5
    z[5] -= 0.25 + 3 * 0.5
    z[2] -= 0.25 + 0.5
    got = token_logprobs(
        logits.expand(8, -1), torch.arange(8), params, history=history.expand(8, -1), history_prompt=3, backend=backend
    )
    assert relative_error(got, z.log_softmax(0), magnitude=10.0) < tolerance(torch.float64, 8)


def test_a_neutral_epsilon_and_neutral_penalties_change_no_bit(generator):
    logits, mask = rows(generator, dtype=torch.float32)
    history = torch.randint(0, 40, (5, 6), generator=generator)
    plain = sample(logits, SamplingParams(0.7), seed=3, sample_ids=range(5), step=1, mask=mask)
    other = sample(
        logits, SamplingParams(torch.full((5,), 0.7)), seed=3, sample_ids=range(5), step=1, mask=mask,
        history=history, epsilon=torch.zeros(5),
    )  # fmt: skip
    assert all(torch.equal(a, b) for a, b in zip(plain, other, strict=True))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("case", FILTERS)
def test_gradient_of_an_exploring_score(case, backend, generator):
    logits, mask = rows(generator)
    params = SamplingParams(**FILTERS[case])
    epsilon = torch.tensor([0.0, 0.3, 0.9, 0.05, 0.5], dtype=torch.float64)
    tokens = sample(logits, params, mask=mask, seed=1, sample_ids=range(5), step=0, epsilon=epsilon).tokens
    x = logits.clone().requires_grad_()
    assert torch.autograd.gradcheck(
        lambda z: token_logprobs(z, tokens, params, mask=mask, epsilon=epsilon, backend=backend), x
    )


@pytest.mark.parametrize("module", [ops, reference])
@pytest.mark.parametrize("epsilon", [0.0, 0.3])
@pytest.mark.parametrize("case", FILTERS)
def test_entropy_and_its_gradient(case, epsilon, module, generator):
    logits, mask = rows(generator)
    params = SamplingParams(repetition_penalty=1.3, **FILTERS[case])
    history = torch.randint(0, 40, (5, 3), generator=generator)
    packed = params.packed(5, logits.device, epsilon)
    tokens = sample(logits, params, mask=mask, history=history, seed=1, sample_ids=range(5), step=0).tokens
    given = (tokens, packed, mask, history)
    got = module.score_tokens(logits, *given, True)
    single = token_logprobs(logits, tokens, params, mask=mask, history=history, epsilon=epsilon)
    assert torch.equal(got[0], single)
    assert torch.equal(got[1], token_logprobs(logits, tokens))

    kept = torch.stack(
        [
            torch.isfinite(token_logprobs(x.expand(40, -1), torch.arange(40), params, mask=m, history=h.expand(40, -1)))
            for x, m, h in zip(logits, mask, history, strict=True)
        ]
    )
    met = torch.zeros(5, 40, dtype=torch.bool).scatter_(1, history, True)

    def plain(x):
        z = torch.where(met, torch.where(x > 0, x / 1.3, x * 1.3), x) / params.temperature
        p = torch.where(kept, z, float("-inf")).softmax(1)
        q = (1 - epsilon) * p + epsilon * mask.double() / mask.sum(1, keepdim=True)
        spread = -torch.where(q > 0, q * torch.where(q > 0, q, 1.0).log(), 0.0).sum(1)
        return q.gather(1, tokens[:, None])[:, 0].log(), x.log_softmax(1).gather(1, tokens[:, None])[:, 0], spread

    x = logits.clone().requires_grad_()
    want = plain(x)
    assert relative_error(got[3], want[2].detach(), magnitude=4.0) < tolerance(torch.float64, 40)
    slopes = [torch.randn(5, generator=generator, dtype=torch.float64) for _ in range(3)]
    (gradient,) = torch.autograd.grad(want, x, slopes)
    ours = module.score_tokens_backward(*slopes, logits, *given)
    # products of a slope, a probability and a log-probability, over the temperature
    assert relative_error(ours, gradient, magnitude=40.0) < tolerance(torch.float64, 40)


def test_opcheck(generator):
    logits, mask = rows(generator, dtype=torch.float32)
    tokens, packed = torch.full((5,), 3), SamplingParams(0.7).packed(5, logits.device)
    torch.library.opcheck(torch.ops.gmkern.score_tokens.default, (logits, tokens, packed, mask, None, True))
    one = torch.ones(5)
    torch.library.opcheck(
        torch.ops.gmkern.score_tokens_backward.default, (one, one, one, logits, tokens, packed, mask, None)
    )


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"epsilon": 1.5}, "epsilon"),
        ({"epsilon": "x"}, "epsilon"),
        ({"epsilon": torch.zeros(3)}, "epsilon"),
        ({"epsilon": torch.tensor([0.0, 2.0])}, "params|logits"),
        ({"history_prompt": -1}, "history_prompt"),
    ],
)
@pytest.mark.parametrize("backend", BACKENDS)
def test_bad_input(change, word, backend):
    with pytest.raises((ValueError, TypeError), match=f"^({word})"):
        sample(torch.zeros(2, 5), seed=0, sample_ids=[0, 1], step=0, backend=backend, **change)


@pytest.mark.parametrize("dynamic", [None, True])
def test_compiles_whole_with_numbers_that_vary(dynamic):
    logits, seed = torch.arange(12.0).reshape(3, 4), torch.tensor(1)

    def draw(temperature, top_p):
        given = SamplingParams(temperature=temperature, top_p=top_p, top_k=3)
        return sample(logits, given, seed=seed, sample_ids=torch.arange(3), step=0)

    compiled = torch.compile(draw, fullgraph=True, dynamic=dynamic, backend="aot_eager")
    for temperature in (0.5, 0.7, 0.9):
        for got, want in zip(compiled(temperature, temperature), draw(temperature, temperature), strict=True):
            assert torch.equal(got, want)
