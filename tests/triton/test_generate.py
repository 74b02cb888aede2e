"""generate's Triton engine, in the interpreter: float64's logits, the reference's samples, and each row by itself."""

from __future__ import annotations

import pytest
import torch

from gmkern.decode import Guidance, SamplingParams, Transformer, TransformerConfig, generate, generate_stream
from gmkern.decode.generate import device
from gmkern.decode.sample import ops
from gmkern.decode.transformer.device import DeviceEngine
from tests.decode.small_models import build, prompts, rounded, same
from tests.decode.transformer_truth import logits, tolerance

SHAPES = [
    "gpt2",
    "qwen3",
    "neox",
    "gemma2",
    "relu",
    "silu",
    "geglu",
]  # all norms, positions, gates, caps


@pytest.fixture
def quick(monkeypatch):
    """The sampler in C++: the bits of the Triton one (test_sample.py), in a hundredth of the interpreter's time."""
    monkeypatch.setattr(device.sampler, "sample", ops.sample)


def engine_logits(model, tokens, cuts=(), format=None, slots=None):
    """[B, T, V]: tokens [B, T] run in the parts between ``cuts``."""
    engine = DeviceEngine(model, format)
    rows, length = tokens.shape
    cache = engine.new_cache(rows + 2, length + 3)
    cache.keys.fill_(torch.nan), cache.values.fill_(torch.nan)
    slots = torch.arange(rows, dtype=torch.int32) if slots is None else slots
    parts = [
        engine.run(cache, tokens[:, begin:end], slots, torch.full((rows,), begin, dtype=torch.int32))
        for begin, end in zip((0, *cuts), (*cuts, length), strict=True)
    ]
    hidden = torch.cat(parts, 1).flatten(0, 1)
    return engine.logits(engine.normed(hidden)).unflatten(0, (rows, length))


@pytest.mark.parametrize("name", SHAPES)
@torch.no_grad()
def test_logits_and_rows_by_themselves(name, generator):
    model = build(name, n_layers=2 if name == "gemma2" else 1)
    tokens = torch.randint(0, 17, (3, 7), generator=generator)
    whole = engine_logits(model, tokens)
    for row in (0, 2):
        truth = torch.from_numpy(logits(model, tokens[row].numpy()))
        assert (whole[row] - truth).abs().max() < tolerance(model, truth)
    # in any order, in other slots, with a prompt at once and then token by token
    order = torch.tensor([2, 0, 1])
    other = engine_logits(model, tokens[order], (5, 6), slots=torch.tensor([4, 0, 2], dtype=torch.int32))
    assert torch.equal(other, whole[order])
    assert torch.equal(engine_logits(model, tokens[1:2])[0], whole[1])
    # the comparison can fail: a last bit of one weight
    model.norm.weight.nextafter_(torch.tensor(9.0))
    assert not torch.equal(engine_logits(model, tokens[1:2])[0], whole[1])


@pytest.mark.parametrize("format", ["bfloat16", "int8"])
@torch.no_grad()
def test_formats(format, generator):
    model = build("llama", n_layers=1)
    tokens = torch.randint(0, 17, (2, 5), generator=generator)
    ours, same_weights = engine_logits(model, tokens, format=format), rounded(model, format)
    truth = torch.from_numpy(logits(same_weights, tokens[0].numpy()))
    # bfloat16 weights bring keys and values in bfloat16: half a last place, 2^-9, of numbers of about 1 a layer
    far = tolerance(model, truth) + (2**-7 * float(truth.abs().max()) if format == "bfloat16" else 0.0)
    assert (ours[0] - truth).abs().max() < far
    assert (engine_logits(model, tokens)[0] - truth).abs().max() > 2 * tolerance(model, truth)  # rounding is seen


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@torch.no_grad()
def test_narrow_parameters_are_read_as_they_are(dtype, generator):
    model = build("gpt2", n_layers=1).to(dtype)
    tokens = torch.randint(0, 17, (2, 5), generator=generator)
    truth = torch.from_numpy(logits(model.double(), tokens[0].numpy()))
    ours = engine_logits(model.to(dtype), tokens)[0]
    far = tolerance(model, truth) + (2**-7 * float(truth.abs().max()) if dtype == torch.bfloat16 else 0.0)
    assert (ours - truth).abs().max() < far


def test_what_the_reference_draws(generator):
    """With the Triton sampler, once."""
    model = build("llama", n_layers=1)
    given = prompts(generator, (3, 1, 5))
    asked = {"max_new_tokens": 4, "seed": 7, "end_token": [4, 5], "params": SamplingParams(temperature=0.7)}
    got = generate(model, given, backend="triton", batch_size=2, **asked)
    as_reference(got, model, given, **asked)


def as_reference(got, model, given, **asked):
    truth = generate(model, given, backend="reference", **asked)
    # the same noise, and logits within rounding: with 17 tokens and this seed no draw is a near tie
    for name in ("tokens", "lengths", "finished", "mask"):
        assert torch.equal(getattr(got, name), getattr(truth, name)), name
    for name in ("logprobs", "raw_logprobs", "log_kept_mass"):
        close = 20 * tolerance(model, torch.ones(1))
        torch.testing.assert_close(getattr(got, name), getattr(truth, name), rtol=0, atol=close)


@pytest.mark.parametrize("case", ["filters", "penalties", "guided"])
def test_arguments(case, quick, generator, monkeypatch):
    monkeypatch.setattr(device, "_FEW", 1)  # lanes close up as rows end
    model = build("llama", n_layers=1)
    given = prompts(generator, (3, 1, 6, 2, 4, 1, 2))
    asked = {"max_new_tokens": 6, "seed": 3, "end_token": [4, 5], "pad_token": 9}
    asked |= {
        "filters": {"params": SamplingParams(top_k=torch.tensor([0, 5, 2, 3, 0, 0, 1]), top_p=0.9), "epsilon": 0.2},
        "penalties": {"params": SamplingParams(repetition_penalty=1.5, presence_penalty=0.5, frequency_penalty=0.3)},
        "guided": {"guidance": Guidance(torch.linspace(0.5, 2, 7).double(), prompts(generator, (2, 5, 1, 1, 3, 2, 2)))},
    }[case]
    got = generate(model, given, backend="triton", batch_size=4, **asked)
    as_reference(got, model, given, **asked)
    assert len(set(got.lengths.tolist())) > 1  # some rows ended, some waited for their lanes


def test_a_row_depends_on_itself_alone(quick, generator):
    model = build("qwen3", n_layers=1)
    given = prompts(generator, (3, 1, 9, 2))
    ids = torch.tensor([5, 3, 900, 4])
    asked = {"max_new_tokens": 4, "seed": 11, "end_token": 2, "backend": "triton"}
    batch = generate(model, given, sample_ids=ids, **asked)
    assert same(batch, generate(model, given, sample_ids=ids, batch_size=2, **asked))
    alone = generate(model, given[2:3], sample_ids=ids[2:3], **asked)
    assert same([field[0] for field in alone], [field[2] for field in batch])
    other = generate(model, given[2:3], sample_ids=[901], **asked)  # the comparison can fail
    assert not torch.equal(other.tokens[0], batch.tokens[2])


def test_siblings_streams_and_hooks_change_nothing(quick, generator):
    model = build("llama", n_layers=1)
    given = prompts(generator, (4, 2))
    asked = {"max_new_tokens": 4, "seed": 5, "end_token": 3, "backend": "triton"}
    group = generate(model, given, num_samples=3, **asked)
    assert same(group, generate(model, [p for p in given for _ in range(3)], **asked))
    rows = {done.row: done for done in generate_stream(model, given, num_samples=3, **asked)}
    assert sorted(rows) == list(range(6))
    for row, done in rows.items():
        assert torch.equal(done.logprobs, group.logprobs[row, : group.lengths[row]])
    legal = lambda tokens, lengths: torch.ones(len(tokens), 17, dtype=torch.bool)  # noqa: E731
    assert same(generate(model, given, num_samples=3, mask_fn=legal, **asked), group)


def test_parameters_that_change_are_read_again(quick):
    model = build("llama", n_layers=1)
    asked = {"n": 2, "max_new_tokens": 3, "seed": 5, "backend": "triton"}

    def fresh():
        """What a model that was never run draws."""
        other = Transformer(model.config)
        other.load_state_dict(model.state_dict())
        return generate(other, **asked)

    with torch.inference_mode():
        first = generate(model, **asked)
    lanes = device._REST[model][1]
    with torch.no_grad():
        model.blocks[0].attention.k.weight.mul_(1.5)  # held beside others, as a copy
        model.blocks[0].mlp.down.weight.data.copy_(model.blocks[0].mlp.down.weight * 1.5)  # read where it lies
    second = generate(model, **asked)
    assert device._REST[model][1] is lanes  # the same tensors, and on a GPU the same graph
    assert not torch.equal(second.logprobs, first.logprobs)
    assert same(second, fresh())
    model.head.weight.data = model.head.weight.data * 1.5  # elsewhere now
    third = generate(model, **asked)
    assert device._REST[model][1] is not lanes
    assert same(third, fresh())


def test_what_cannot_be_drawn():
    model = build("llama", n_layers=1)
    hot = SamplingParams(temperature=torch.tensor([1.0, -1.0]))
    with pytest.raises(ValueError, match="params: got values for row 1 out of their range"):
        generate(model, n=2, max_new_tokens=2, seed=1, params=hot, backend="triton")
    with torch.no_grad():
        model.head.weight[3] = torch.nan
    with pytest.raises(ValueError, match="model: got logits of row 0 that are not finite"):
        generate(model, n=2, max_new_tokens=2, seed=1, backend="triton")
    wide = Transformer(TransformerConfig(17, 1, 1, 300, 8, bos_id=0))
    with pytest.raises(ValueError, match="triton: takes head_dim to 256, got 300"):
        generate(wide, n=1, max_new_tokens=2, seed=1, backend="triton")
    assert generate(model, n=0, max_new_tokens=2, seed=1, backend="triton").tokens.shape == (0, 2)
