"""score by the Triton engine, in the interpreter: generate's values to the bit, and the module's gradients."""

from __future__ import annotations

import pytest
import torch

from gmkern.decode import Guidance, SamplingParams, generate, score
from gmkern.decode.generate import device
from gmkern.decode.sample import ops
from gmkern.decode.transformer import device as layers
from tests.decode.small_models import build, prompts


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """The sampler in C++: the bits of the Triton one (test_sample.py), in a hundredth of the interpreter's time."""
    monkeypatch.setattr(device.sampler, "sample", ops.sample)


@pytest.mark.parametrize("case", ["filters", "guided", "bfloat16"])
@torch.no_grad()
def test_generates_values(case, generator, monkeypatch):
    model = build("neox" if case == "guided" else "llama", n_layers=1)
    if case == "bfloat16":
        model = model.bfloat16()
    given = prompts(generator, (3, 6, 1))
    shared = {
        "filters": {"params": SamplingParams(0.8, top_k=9, repetition_penalty=1.5), "epsilon": 0.1},
        "guided": {"guidance": Guidance(1.7, [[4, 2, 1]])},
        "bfloat16": {"params": SamplingParams(top_p=0.9)},
    }[case]
    drawn = generate(model, given, max_new_tokens=3, seed=5, end_token=[3, 4], backend="triton", **shared)
    said = score(
        model, drawn.tokens, drawn.lengths, prompts=given, backend="triton", return_entropy=True, return_hidden=True,
        **shared,
    )  # fmt: skip
    for name in ("logprobs", "raw_logprobs", "log_kept_mass"):
        assert torch.equal(getattr(said, name), getattr(drawn, name)), name
    monkeypatch.setattr(layers, "_TOKENS", 3)  # in other parts
    again = score(model, drawn.tokens, drawn.lengths, prompts=given, backend="triton", return_hidden=True, **shared)
    assert torch.equal(again.hidden, said.hidden)
    if case != "bfloat16":
        on_cpu = score(
            model, drawn.tokens, drawn.lengths, prompts=given, backend="cpu", return_entropy=True, return_hidden=True,
            **shared,
        )  # fmt: skip
        for ours, theirs in zip(said, on_cpu, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    # the comparison can fail
    other = score(model, (drawn.tokens + 1) % 17, drawn.lengths, prompts=given, backend="triton", **shared)
    assert not torch.equal(other, drawn.logprobs)


def test_gradients_are_the_modules(generator):
    model = build("llama", n_layers=1)
    given = prompts(generator, (3, 1))
    drawn = generate(model, given, max_new_tokens=3, seed=5, backend="triton")
    found = {}
    for backend in ("triton", "cpu"):
        model.zero_grad()
        said = score(model, drawn.tokens, drawn.lengths, prompts=given, backend=backend)
        said.square().sum().backward()
        found[backend] = [parameter.grad.clone() for parameter in model.parameters()]
        if backend == "triton":
            assert torch.equal(said, drawn.logprobs)
    for ours, theirs in zip(found["triton"], found["cpu"], strict=True):
        assert float(theirs.abs().max()) > 0
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5 * float(theirs.abs().max()))


def test_what_is_refused(generator):
    model = build("llama", n_layers=1)
    tokens, lengths = torch.zeros(1, 2, dtype=torch.int64), torch.tensor([2])
    with pytest.raises(ValueError, match="backend: got 'triton' with exact=False"):
        score(model, tokens, lengths, exact=False, backend="triton")
    with pytest.raises(ValueError, match="triton: takes float32, bfloat16 or float16 parameters"):
        score(build("llama", n_layers=1).double(), tokens, lengths, backend="triton")
    with pytest.raises(ValueError, match="weights: got 'int8' for parameters that require gradients"):
        score(model, tokens, lengths, backend="triton", weights="int8")
