"""token_logprobs: equal to what sample said, gradients against the plain composition; compilation; bad input."""

from __future__ import annotations

import math

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend

from gmkern._library import ops
from gmkern.decode import SamplingParams, sample, token_logprobs
from gmkern.testing import relative_error, tolerance

pytestmark = pytest.mark.sanitize

BACKENDS = ("cpu", "reference")
FILTERS = {
    "plain": SamplingParams(),
    "tempered": SamplingParams(temperature=0.6),
    "cut": SamplingParams(0.8, 9, 0.9, 0.01, 0.95),
    "penalised": SamplingParams(1.3, repetition_penalty=1.4, top_k=15),
}


def plain(logits, tokens, params, kept, mask, history):
    """The composition in plain PyTorch, the kept set being given."""
    z = logits
    if params.repetition_penalty != 1:
        seen = torch.zeros_like(z, dtype=torch.bool).scatter_(-1, history, True)
        z = torch.where(seen, torch.where(z > 0, z / params.repetition_penalty, z * params.repetition_penalty), z)
    z = (z / params.temperature).masked_fill(~(kept & mask), float("-inf"))
    return torch.log_softmax(z, -1).gather(-1, tokens[..., None])[..., 0]


def kept_by(logits, params, mask, history):
    vocab = logits.shape[-1]
    rows = [
        torch.isfinite(
            token_logprobs(row.expand(vocab, -1), torch.arange(vocab), params,
                           mask=m, history=h.expand(vocab, -1))
        )
        for row, m, h in zip(logits, mask, history, strict=True)
    ]  # fmt: skip
    return torch.stack(rows)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("case", FILTERS)
def test_gradient(case, backend, generator):
    params = FILTERS[case]
    logits = torch.randn(4, 37, dtype=torch.float64, generator=generator)
    mask = torch.rand(4, 37, generator=generator) < 0.8
    mask[:, 0] = True
    history = torch.randint(0, 37, (4, 6), generator=generator)
    given = {"mask": mask, "history": history}
    tokens = sample(logits, params, seed=1, sample_ids=range(4), step=0, **given).tokens
    kept = kept_by(logits, params, mask, history)
    x = logits.clone().requires_grad_()
    ours = token_logprobs(x, tokens, params, backend=backend, **given)
    want = plain(x, tokens, params, kept, mask, history)
    # gradients are a probability times at most penalty / temperature, summed over at most V
    assert relative_error(ours, want, magnitude=20.0) < tolerance(torch.float64, 37)
    weight = torch.randn(4, dtype=torch.float64, generator=generator)
    got, truth = (torch.autograd.grad(y, x, weight, retain_graph=True)[0] for y in (ours, want))
    assert relative_error(got, truth, magnitude=4 / 0.6 * 1.4) < tolerance(torch.float64, 37)
    assert torch.autograd.gradcheck(lambda z: token_logprobs(z, tokens, params, backend=backend, **given), x)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_gradient_in_other_precisions(dtype, backend, generator):
    logits = torch.randn(3, 50, generator=generator).to(dtype)
    tokens, params = torch.tensor([1, 2, 3]), SamplingParams(temperature=0.5)
    x, y = logits.clone().requires_grad_(), logits.double().requires_grad_()
    token_logprobs(x, tokens, params, backend=backend).sum().backward()
    token_logprobs(y, tokens, params, backend="reference").sum().backward()
    assert x.grad.dtype == dtype
    assert relative_error(x.grad, y.grad, magnitude=2.0) < tolerance(dtype, 50)


@pytest.mark.parametrize("backend", BACKENDS)
def test_constant_values_have_no_gradient(backend):
    logits = torch.randn(2, 9)
    x = logits.clone().requires_grad_()
    outside = logits.argmin(-1)
    value = token_logprobs(x, outside, SamplingParams(top_k=3), backend=backend)
    assert value.tolist() == [-math.inf] * 2
    cold = token_logprobs(x, logits.argmax(-1), SamplingParams(temperature=0.0), backend=backend)
    assert cold.tolist() == [0.0, 0.0]
    grads = [torch.autograd.grad(v.nan_to_num(neginf=0).sum(), x, allow_unused=True)[0] for v in (value, cold)]
    assert all(g is None or float(g.abs().max()) == 0 for g in grads)


@pytest.mark.parametrize("backend", BACKENDS)
def test_second_derivatives_raise(backend):
    x = torch.randn(2, 5, requires_grad=True)
    (grad,) = torch.autograd.grad(token_logprobs(x, torch.tensor([0, 1]), backend=backend).sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="second derivatives are not served"):
        grad.square().sum().backward()


@pytest.mark.parametrize("backend", BACKENDS)
def test_sequences_equal_their_steps(backend, generator):
    """[B, T, V] with per-row parameters, masks and histories is the same numbers as a call a step, and as sample's."""
    logits = torch.randn(3, 4, 60, generator=generator)
    params = SamplingParams(temperature=torch.tensor([0.5, 1.0, 0.0]), top_p=torch.tensor([0.9, 1.0, 0.5]))
    mask = torch.rand(3, 4, 60, generator=generator) < 0.9
    mask[..., 0] = True
    history = torch.randint(-1, 60, (3, 5), generator=generator)
    drawn = [
        sample(logits[:, t], params, seed=2, sample_ids=range(3), step=t, mask=mask[:, t], history=history,
               backend=backend)
        for t in range(4)
    ]  # fmt: skip
    tokens = torch.stack([d.tokens for d in drawn], 1)
    scores = token_logprobs(logits, tokens, params, mask=mask, history=history, backend=backend)
    assert torch.equal(scores, torch.stack([d.logprobs for d in drawn], 1))


def _arguments(dtype=torch.float32, *, grad=False):
    logits = torch.randn(3, 40, dtype=dtype, requires_grad=grad)
    params = SamplingParams(temperature=torch.tensor([0.7, 1.0, 0.0]), top_k=10).packed(3, logits.device)
    mask = torch.ones(3, 40, dtype=torch.bool)
    return logits, params, mask, torch.tensor([[1, 2], [3, -1], [0, 0]])


def test_opcheck():
    logits, params, mask, history = _arguments()
    noise = (torch.tensor(5), torch.arange(3), torch.tensor(1))
    torch.library.opcheck(ops.sample.default, (logits, params, mask, history, *noise))
    torch.library.opcheck(ops.sample.default, (logits.double(), params[:1], None, None, *noise))
    tokens = torch.tensor([1, 2, 3])
    scored = (_arguments(torch.float64, grad=True)[0], tokens, params, mask, history)
    torch.library.opcheck(ops.token_logprobs.default, scored)
    torch.library.opcheck(ops.token_logprobs.default, (logits, tokens, params, None, None))
    torch.library.opcheck(ops.token_logprobs_backward.default, (torch.ones(3), logits, tokens, params, mask, history))


def test_compiles_whole_and_replays_differ():
    logits = torch.zeros(16, 500)
    ids = torch.arange(16)

    def step_and_score(x, seed, step):
        drawn = sample(x, SamplingParams(temperature=0.9, top_p=0.95), seed=seed, sample_ids=ids, step=step)
        return drawn.tokens, drawn.logprobs, token_logprobs(x, drawn.tokens, SamplingParams(0.9, top_p=0.95))

    graphs = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(step_and_score, fullgraph=True, backend=graphs)
    seen = []
    for seed, step in ((1, 0), (1, 1), (2, 0)):
        at = (torch.tensor(seed), torch.tensor(step))
        tokens, logprobs, again = compiled(logits, *at)
        assert torch.equal(tokens, step_and_score(logits, *at)[0])
        assert torch.equal(logprobs, again)
        seen.append(tokens)
    assert not torch.equal(seen[0], seen[1])
    assert not torch.equal(seen[0], seen[2])
    assert graphs.frame_count == 1


GOOD = {"logits": torch.zeros(2, 5), "seed": 0, "sample_ids": torch.arange(2), "step": 0}


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"logits": torch.zeros(5)}, ValueError, "logits: got .* takes 2 dimensions"),
        ({"logits": torch.zeros(2, 5, dtype=torch.int64)}, TypeError, "logits"),
        ({"logits": "x"}, TypeError, "logits"),
        ({"logits": torch.zeros(2, 0)}, ValueError, "logits.*1 to 2097151"),
        ({"logits": torch.tensor([[0.0, 1.0], [math.nan, 0.0]])}, ValueError, "logits: .*row 1"),
        ({"logits": torch.tensor([[0.0, math.inf], [0.0, 0.0]])}, ValueError, "logits: .*row 0"),
        ({"logits": torch.full((2, 3), -math.inf)}, ValueError, "logits: .*row 0"),
        ({"mask": torch.zeros(5, dtype=torch.bool)}, ValueError, "row 0"),
        ({"mask": torch.ones(5)}, TypeError, "mask"),
        ({"mask": torch.ones(3, 5, dtype=torch.bool)}, ValueError, "mask"),
        ({"history": torch.zeros(2, 3)}, TypeError, "history"),
        ({"history": torch.zeros(3, 3, dtype=torch.int64)}, ValueError, "history"),
        ({"seed": 1.5}, TypeError, "seed"),
        ({"seed": torch.zeros(3, dtype=torch.int64)}, ValueError, "seed"),
        ({"step": -1}, ValueError, "step"),
        ({"sample_ids": torch.arange(3)}, ValueError, "sample_ids"),
        ({"params": {"temperature": 1.0}}, TypeError, "params"),
        ({"params": SamplingParams(top_p=torch.tensor([0.5, 1.5]))}, ValueError, "row 1|params"),
        ({"params": SamplingParams(temperature=torch.ones(3))}, ValueError, "params.temperature"),
        ({"backend": "cuda"}, ValueError, "backend"),
        ({"backend": "fastest"}, ValueError, "backend"),
    ],
    ids=lambda value: None if not isinstance(value, dict) else next(iter(value)),
)
@pytest.mark.parametrize("backend", BACKENDS)
def test_bad_input(change, error, match, backend):
    given = {"backend": backend} | GOOD | change
    with pytest.raises(error, match=match):
        sample(given.pop("logits"), given.pop("params", None), **given)


def test_bad_tokens():
    for tokens, error in (
        (torch.tensor([0, 5]), ValueError), (torch.tensor([0, -1]), ValueError),
        (torch.tensor([0]), ValueError), (torch.tensor([0.0, 1.0]), TypeError),
    ):  # fmt: skip
        for backend in BACKENDS:
            with pytest.raises(error, match="tokens"):
                token_logprobs(torch.zeros(2, 5), tokens, backend=backend)


@pytest.mark.parametrize(
    "field",
    [
        {"temperature": -1.0}, {"temperature": math.inf}, {"temperature": "hot"}, {"top_k": -1}, {"top_k": 1.5},
        {"top_p": 1.1}, {"min_p": -0.1}, {"typical_p": math.nan}, {"repetition_penalty": 0.0},
        {"top_k": torch.tensor(1.0)}, {"temperature": torch.ones(1, 1)},
    ],
    ids=str,
)  # fmt: skip
def test_bad_params(field):
    with pytest.raises((ValueError, TypeError), match=next(iter(field))):
        SamplingParams(**field)


def test_a_bad_call_of_the_op_is_an_error():
    """Straight past the public function: no memory outside a tensor is read."""
    logits, params, mask, history = _arguments()
    noise = (torch.tensor(5), torch.arange(3), torch.tensor(1))
    for bad in (
        (logits[0], params, mask, history, *noise),
        (logits, params[:, :9].contiguous(), mask, history, *noise),
        (logits, params.float(), mask, history, *noise),
        (logits, params, mask[:, :39], history, *noise),
        (logits, params, mask, history[:2], *noise),
        (logits, params, mask, history.t().contiguous().t(), *noise),
        (logits, params, mask, history, noise[0], torch.arange(2), noise[2]),
    ):
        with pytest.raises(RuntimeError, match="gmkern: "):
            ops.sample(*bad)
    with pytest.raises(RuntimeError, match="tokens"):
        ops.token_logprobs(logits, torch.tensor([1]), params, None, None)
