"""What survives the filters, and its log-probabilities, against float64 NumPy; exact ties, masks, history."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from gmkern.decode import SamplingParams, sample, token_logprobs
from gmkern.testing import relative_error, tolerance
from tests.decode import sample_truth as truth

pytestmark = pytest.mark.sanitize

BACKENDS = ("cpu", "reference")
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def survivors(logits, params, **rest):
    """Bool [V] of one row: the tokens with a finite score."""
    vocab = logits.shape[-1]
    scores = token_logprobs(logits.expand(vocab, vocab), torch.arange(vocab), params, **rest)
    return torch.isfinite(scores)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("vocab", [2, 17, 64, 333])
@pytest.mark.parametrize(
    "filters",
    [
        {},
        {"top_k": 1},
        {"top_k": 7},
        {"top_p": 0.9},
        {"top_p": 0.3},
        {"min_p": 0.05},
        {"typical_p": 0.7},
        {"top_k": 20, "top_p": 0.95, "min_p": 0.01, "typical_p": 0.9},
    ],
    ids=str,
)
def test_against_numpy(filters, vocab, dtype, backend, generator):
    """No boundary may lie within rounding of a threshold: a gap of 1e-6 is asked of the truth."""
    logits = (2.5 * torch.randn(vocab, generator=generator, dtype=torch.float64)).to(dtype)
    z = truth.processed(logits.double().numpy(), 0.8 if dtype == torch.float64 else float(np.float32(0.8)))
    inside = truth.kept(z, **filters)
    for name in ("top_p", "min_p", "typical_p"):  # the truth must not hang on a rounding
        for factor in (1 - 1e-6, 1 + 1e-6):
            moved = filters | ({name: min(filters[name] * factor, 1.0)} if name in filters else {})
            if not np.array_equal(inside, truth.kept(z, **moved)):
                pytest.skip("the truth itself changes within 1e-6 of this threshold")
    params = SamplingParams(temperature=0.8, **filters)
    rows, every = logits.expand(vocab, vocab), torch.arange(vocab)
    scores = token_logprobs(rows, every, params, backend=backend)
    want = torch.from_numpy(truth.logprobs(z, inside))
    assert np.array_equal(torch.isfinite(scores).numpy(), inside)
    real = torch.float64 if dtype == torch.float64 else torch.float32
    # a difference of logits, a log of a sum of V exact exponentials: each |term| below 1 + max |z| + log V
    size = 1 + np.abs(z).max() + math.log(vocab)
    assert relative_error(scores, want, magnitude=size) < tolerance(real, 4)
    drawn = sample(rows, params, seed=1, sample_ids=every, step=0, backend=backend)
    assert inside[drawn.tokens.numpy()].all()
    held = math.log(truth.softmax(z)[inside].sum())
    assert relative_error(
        drawn.log_kept_mass, torch.full((vocab,), held, dtype=torch.float64), magnitude=size
    ) < tolerance(real, 4)
    raw = torch.log_softmax(logits.double(), -1)[drawn.tokens]
    assert relative_error(drawn.raw_logprobs, raw, magnitude=size) < tolerance(real, 4)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(-3, 3), min_size=1, max_size=40),
    st.integers(0, 12),
    st.sampled_from([1.0, 0.77, 0.51, 0.26, 0.0]),
    st.sampled_from([0.0, 0.3, 1.0]),
)
def test_ties_go_to_the_lower_index(levels, top_k, top_p, min_p):
    """Logits log 2 apart, so that probabilities are whole multiples of one another and ties are many."""
    weights = [2 ** (level + 3) for level in levels]
    order = sorted(range(len(levels)), key=lambda v: (-weights[v], v))[: top_k or None]
    if top_p < 1:
        total, held, length = sum(weights[v] for v in order), 0, 0
        while length == 0 or held < top_p * total:
            held += weights[order[length]]
            length += 1
            assume(abs(held - top_p * total) > 1e-9 * total)  # to rounding, either answer is right
        order = order[:length]
    order = [v for v in order if weights[v] >= min_p * weights[order[0]]]
    logits = torch.tensor(levels, dtype=torch.float64) * math.log(2)
    got = survivors(logits, SamplingParams(top_k=top_k, top_p=top_p, min_p=min_p))
    assert got.nonzero()[:, 0].tolist() == sorted(order)


@pytest.mark.parametrize("backend", BACKENDS)
def test_exactly_k_of_a_flat_row(backend):
    for k in (1, 5, 63, 64, 99):
        got = survivors(torch.zeros(100), SamplingParams(top_k=k), backend=backend)
        assert got.tolist() == [v < k for v in range(100)]
    # -0 and 0 are one number
    logits = torch.tensor([-0.0, 0.0, -0.0, 0.0])
    assert survivors(logits, SamplingParams(top_k=2), backend=backend).tolist() == [True, True, False, False]


@pytest.mark.parametrize("backend", BACKENDS)
def test_top_p_stops_where_the_mass_is_reached(backend):
    """Eight equal tokens: the exact masses are multiples of 1/8, in whole units."""
    for p, held in ((0.125, 1), (0.25, 2), (0.2500001, 3), (0.5, 4), (0.0, 1), (1.0, 8)):
        assert int(survivors(torch.zeros(8), SamplingParams(top_p=p), backend=backend).sum()) == held


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_mask_penalty_and_history(dtype, backend, rng):
    vocab = 50
    logits = rng.normal(size=vocab) * 3
    mask = rng.random(vocab) < 0.5
    mask[3] = True
    history = [3, 3, 7, 49, -1, 50, 12]
    z = truth.processed(logits, 1.0, 1.3, mask, history)
    inside = truth.kept(z)
    got = token_logprobs(
        torch.tensor(logits, dtype=dtype).expand(vocab, vocab),
        torch.arange(vocab),
        SamplingParams(repetition_penalty=1.3),
        mask=torch.from_numpy(mask),
        history=torch.tensor(history).expand(vocab, -1),
        backend=backend,
    )
    assert np.array_equal(torch.isfinite(got).numpy(), mask)
    size = 1 + np.abs(logits).max() * 1.3 + math.log(vocab)
    assert relative_error(got, torch.from_numpy(truth.logprobs(z, inside)), magnitude=size) < tolerance(dtype, 4)


@pytest.mark.parametrize("backend", BACKENDS)
def test_temperature_zero_is_argmax(backend):
    logits = torch.tensor([[1.0, 3.0, 3.0, 2.0], [9.0, 3.0, 3.0, 2.0]])
    mask = torch.tensor([[True] * 4, [False, True, True, True]])
    drawn = sample(
        logits,
        SamplingParams(temperature=0.0, top_p=0.3),
        seed=0,
        sample_ids=[0, 1],
        step=0,
        mask=mask,
        backend=backend,
    )
    assert drawn.tokens.tolist() == [1, 1]
    assert drawn.logprobs.tolist() == drawn.log_kept_mass.tolist() == [0.0, 0.0]
    want = torch.log_softmax(logits, -1)[:, 1]
    assert relative_error(drawn.raw_logprobs, want, magnitude=10.0) < tolerance(torch.float32, 4)
    other = token_logprobs(logits, torch.tensor([2, 1]), SamplingParams(temperature=0.0), backend=backend)
    assert other.tolist() == [-math.inf, -math.inf]


def test_one_kept_token_is_certain():
    """top_k = 1 gives logprob exactly 0, and the log of the token's probability as kept mass."""
    logits = torch.randn(4, 1000)
    drawn = sample(logits, SamplingParams(top_k=1), seed=0, sample_ids=range(4), step=0)
    assert torch.equal(drawn.tokens, logits.argmax(-1))
    assert drawn.logprobs.tolist() == [0.0] * 4
    want = torch.log_softmax(logits.double(), -1).amax(-1)
    assert relative_error(drawn.log_kept_mass, want) < tolerance(torch.float32, 4)


def test_hugging_face_agrees():
    """transformers' own processors, where it is installed; rows without ties."""
    processors = pytest.importorskip("transformers").generation.logits_process
    logits = torch.randn(6, 200) * 2
    chain = [
        processors.TemperatureLogitsWarper(0.7),
        processors.TopKLogitsWarper(60),
        processors.TopPLogitsWarper(0.9),
        processors.MinPLogitsWarper(0.02),
        processors.TypicalLogitsWarper(0.9),
    ]
    scores = logits
    for step in chain:
        scores = step(torch.zeros(6, 1, dtype=torch.int64), scores)
    want = torch.log_softmax(scores, -1)
    params = SamplingParams(0.7, 60, 0.9, 0.02, 0.9)
    every = torch.arange(200).repeat(6)
    got = token_logprobs(logits.repeat_interleave(200, 0), every, params).view(6, 200)
    assert torch.equal(torch.isfinite(got), torch.isfinite(want))
    assert relative_error(got, want, magnitude=20.0) < tolerance(torch.float32, 200)
