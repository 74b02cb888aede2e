"""generate: the compiled engine against float64 NumPy, plain PyTorch and itself."""

import pytest
import torch

from gmkern.decode import SamplingParams, Transformer, TransformerConfig, generate
from gmkern.decode.generate.engine import EngineSteps
from gmkern.decode.transformer import packed
from tests.decode.small_models import build, prompts, same
from tests.decode.transformer_truth import CONFIGS, logits, tolerance

pytestmark = pytest.mark.sanitize

GREEDY = SamplingParams(temperature=0.0)


@pytest.mark.parametrize("name", CONFIGS)
def test_logits_against_float64(name, generator):
    model = build(name)
    tokens = torch.randint(0, 17, (3, 40), generator=generator)
    steps = EngineSteps(model)
    steps.open(torch.arange(3), 40)
    live = torch.arange(3)
    got = torch.stack(
        [steps.feed(tokens[:, :20], live)] + [steps.feed(tokens[:, i : i + 1], live) for i in range(20, 40)]
    )
    for row in range(3):
        truth = torch.from_numpy(logits(model, tokens[row].numpy()))[19:]
        assert (got[:, row] - truth).abs().max() < tolerance(model, truth)


@pytest.mark.parametrize("name", CONFIGS)
def test_greedy_is_the_argmax_of_a_recomputed_sequence(name, generator):
    model = build(name)
    given = prompts(generator, (3, 1, 7, 2, 18))
    got = generate(model, given, max_new_tokens=12, params=GREEDY, end_token=5, pad_token=-1)
    for row, prompt in enumerate(given):
        sequence = prompt.numpy()
        for i in range(12):
            truth = torch.from_numpy(logits(model, sequence))[-1]
            top = truth.topk(2).values
            assert truth[got.tokens[row, i]] >= top[0] - 2 * tolerance(model, truth)
            sequence = torch.cat([torch.from_numpy(sequence), got.tokens[row, i : i + 1]]).numpy()
            if got.tokens[row, i] == 5:
                break
        assert got.lengths[row] == i + 1
        assert bool(got.finished[row]) == (sequence[-1] == 5)
        assert (got.tokens[row, i + 1 :] == -1).all()
        assert not got.mask[row, i + 1 :].any()
        assert got.mask[row, : i + 1].all()


@pytest.mark.parametrize("name", ["llama", "gpt2", "wide"])
def test_the_engine_draws_what_the_reference_draws(name, generator):
    model = build(name)
    given = prompts(generator, (3, 1, 7, 2, 9, 4))
    temperature, top_k = torch.tensor([1.0, 0.7, 0.0, 1.3, 1.0, 2.0]), torch.tensor([0, 5, 0, 3, 0, 0])
    params = SamplingParams(temperature=temperature, top_k=top_k, top_p=0.95)
    got = generate(model, given, max_new_tokens=20, params=params, seed=7, end_token=[4, 5])
    truth = generate(model, given, max_new_tokens=20, params=params, seed=7, end_token=[4, 5], backend="reference")
    # the same noise and logits within rounding: with 17 tokens and this seed no draw is a near tie
    assert torch.equal(got.tokens, truth.tokens)
    assert torch.equal(got.lengths, truth.lengths)
    assert torch.equal(got.finished, truth.finished)
    assert torch.equal(got.mask, truth.mask)
    for name in ("logprobs", "raw_logprobs", "log_kept_mass"):
        torch.testing.assert_close(
            getattr(got, name), getattr(truth, name), rtol=0, atol=20 * tolerance(model, torch.ones(1))
        )


def test_raw_logprobs_are_the_models(generator):
    model = build("llama")
    given = torch.randint(0, 17, (5, 4), generator=generator)
    got = generate(model, given, max_new_tokens=10, params=SamplingParams(temperature=0.8), seed=3)
    whole = torch.cat([given, got.tokens], 1)
    log = model.double()(whole[:, :-1])[:, 3:]
    raw = log.log_softmax(-1).gather(2, got.tokens.unsqueeze(2)).squeeze(2)
    tempered = (log / 0.8).log_softmax(-1).gather(2, got.tokens.unsqueeze(2)).squeeze(2)
    torch.testing.assert_close(got.raw_logprobs.double(), raw, rtol=0, atol=4 * tolerance(model, log))
    torch.testing.assert_close(got.logprobs.double(), tempered, rtol=0, atol=4 * tolerance(model, log))
    assert (got.log_kept_mass.abs() < 17 * 2**-23).all()


@pytest.mark.parametrize("name", ["llama", "gpt2", "qwen3", "silu", "wide"])
def test_a_row_does_not_change_with_its_batch(name, generator):
    model = build(name)
    given = prompts(generator, torch.randint(1, 9, (64,), generator=generator).tolist())
    ids = torch.randperm(1000, generator=generator)[:64]
    batch = generate(model, given, max_new_tokens=24, seed=11, sample_ids=ids, end_token=2)
    chosen = torch.randperm(64, generator=generator)[:6].tolist()
    for row in chosen:
        alone = generate(model, [given[row]], max_new_tokens=24, seed=11, sample_ids=ids[row : row + 1], end_token=2)
        assert all(torch.equal(a[0], b[row]) for a, b in zip(alone, batch, strict=True))
    # the comparison can fail: another sample's noise, and a last bit of the weights
    other = generate(
        model, [given[r] for r in chosen], max_new_tokens=24, seed=11, sample_ids=ids[chosen] + 1, end_token=2
    )
    assert not torch.equal(other.tokens, batch.tokens[chosen])
    with torch.no_grad():
        model.norm.weight.nextafter_(torch.tensor(9.0))
    other = generate(model, [given[r] for r in chosen], max_new_tokens=24, seed=11, sample_ids=ids[chosen], end_token=2)
    assert not torch.equal(other.raw_logprobs, batch.raw_logprobs[chosen])


def test_a_row_does_not_change_with_its_batch_where_weights_come_from_memory(generator):
    model = Transformer(TransformerConfig(1000, 2, 4, 256, 64, bos_id=0)).eval()
    assert packed.pack(model).weights.numel() >= 1 << 21  # from here on a product asks for its weights ahead
    ids = torch.randperm(1000, generator=generator)[:17]
    batch = generate(model, n=17, max_new_tokens=4, seed=3, sample_ids=ids)
    for row in (0, 16):
        alone = generate(model, n=1, max_new_tokens=4, seed=3, sample_ids=ids[row : row + 1])
        assert all(torch.equal(a[0], b[row]) for a, b in zip(alone, batch, strict=True))
    other = generate(model, n=17, max_new_tokens=4, seed=3, sample_ids=ids + 1)  # the comparison can fail
    assert not torch.equal(other.logprobs, batch.logprobs)


@pytest.mark.parametrize("name", ["gpt2", "wide"])
def test_slots_threads_and_order_change_nothing(name, generator, threads):
    model = build(name)
    given = prompts(generator, torch.randint(1, 30, (40,), generator=generator).tolist())
    whole = generate(model, given, max_new_tokens=20, seed=5, end_token=[2, 3])
    assert whole.finished.any()
    assert not whole.finished.all()
    for size in (1, 3, 64):
        for count in (1, 2):
            threads(count)
            assert same(generate(model, given, max_new_tokens=20, seed=5, end_token=[2, 3], batch_size=size), whole)
    order = torch.randperm(40, generator=generator)
    mixed = generate(
        model, [given[i] for i in order], max_new_tokens=20, seed=5, end_token=[2, 3], sample_ids=order, batch_size=7
    )
    assert same(mixed, [field[order] for field in whole])


def test_slicing_changes_nothing(monkeypatch, generator):
    from gmkern.decode.generate import engine

    model = build("llama")
    whole = generate(model, n=30, max_new_tokens=20, seed=5, end_token=2, batch_size=4)
    monkeypatch.setattr(engine, "_SLICE", 0.0)  # one step a call
    assert same(generate(model, n=30, max_new_tokens=20, seed=5, end_token=2, batch_size=4), whole)


def test_changed_parameters_are_seen():
    model = build("llama")
    before = generate(model, n=4, max_new_tokens=12, params=GREEDY)
    assert same(generate(model, n=4, max_new_tokens=12, params=GREEDY), before)
    optimiser = torch.optim.SGD(model.parameters(), lr=1.0)
    model(torch.randint(0, 17, (4, 8))).square().mean().backward()
    optimiser.step()
    after = generate(model, n=4, max_new_tokens=12, params=GREEDY)
    assert torch.equal(after.tokens, generate(model, n=4, max_new_tokens=12, params=GREEDY, backend="reference").tokens)
    assert not torch.equal(after.raw_logprobs, before.raw_logprobs)
    model.norm.weight.data = model.norm.weight.data * 1.5  # a new tensor
    scaled = generate(model, n=4, max_new_tokens=12, params=GREEDY)
    assert not torch.equal(scaled.raw_logprobs, after.raw_logprobs)
    model.norm.weight.data[3] = torch.nextafter(model.norm.weight.data[3], torch.tensor(9.0))  # unseen by _version
    assert not torch.equal(generate(model, n=4, max_new_tokens=12, params=GREEDY).raw_logprobs, scaled.raw_logprobs)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_parameters_are_computed_in_fp32(dtype):
    model = build("llama")
    half = Transformer(model.config).to(dtype)
    half.load_state_dict(model.state_dict())
    rounded = Transformer(model.config)
    rounded.load_state_dict(half.state_dict())
    got = generate(half, n=4, max_new_tokens=12, seed=1)
    assert same(got, generate(rounded, n=4, max_new_tokens=12, seed=1))


def test_fp64_is_served_by_the_reference_and_refused_by_the_engine():
    model = build("llama").double()
    assert generate(model, n=2, max_new_tokens=3, seed=1).logprobs.dtype == torch.float64
    with pytest.raises(ValueError, match=r"cpu: takes float32, bfloat16 or float16 parameters, got embedding\.weight"):
        generate(model, n=2, max_new_tokens=3, seed=1, backend="cpu")


def test_no_rows():
    got = generate(build("llama"), n=0, max_new_tokens=3, seed=1)
    assert got.tokens.shape == (0, 3)
    assert got.lengths.shape == (0,)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"prompts": [torch.tensor([1, 17])]}, r"prompts: got token ids .* ids in \[0, 17\)"),
        ({"prompts": [torch.tensor([-1])]}, r"prompts: got token ids"),
        ({"prompts": [torch.tensor([], dtype=torch.int64)]}, r"prompts\[0\]: got no tokens"),
        ({"prompts": [[1 << 70]]}, r"prompts\[0\]: got 1180591620717411303424"),
        ({"n": 1 << 62}, r"n: got 4611686018427387904"),
        ({"prompts": torch.zeros(2, 65, dtype=torch.int64)}, r"prompts: got a prompt of 65 tokens; .* = 64"),
        ({"prompts": torch.zeros(2, 60, dtype=torch.int64)}, r"max_new_tokens: got 5; takes at most 4"),
        ({"prompts": torch.zeros(2, 3)}, r"prompts: got a tensor .*float32"),
        ({"prompts": 3}, r"prompts: got 3"),
        ({"prompts": torch.zeros(2, 3, dtype=torch.int64), "n": 2}, r"n: got 2; takes None"),
        ({}, r"n: got None"),
        ({"n": -1}, r"n: got -1"),
        ({"n": 2, "max_new_tokens": 0}, r"max_new_tokens: got 0"),
        ({"n": 2, "seed": None}, r"seed: got None"),
        ({"n": 2, "end_token": 17}, r"end_token: got 17"),
        ({"n": 2, "batch_size": 0}, r"batch_size: got 0"),
        ({"n": 2, "sample_ids": [1, 2, 3]}, r"sample_ids: got"),
        ({"n": 2, "params": {"temperature": 1}}, r"params: got"),
        ({"n": 2, "params": SamplingParams(temperature=torch.ones(3))}, r"params\.temperature: got"),
        ({"n": 2, "params": SamplingParams(temperature=torch.tensor([1.0, -1.0]))}, r"params: got values for row 1"),
        ({"n": 2, "mask_fn": 3}, r"mask_fn: got 3"),
        ({"n": 2, "mask_fn": lambda tokens, lengths: torch.ones(3)}, r"mask_fn: got a call that returned"),
        ({"n": 2, "logits_processor": lambda *_: None}, r"logits_processor: got a call that returned NoneType"),
        ({"n": 2, "backend": "triton"}, r"generate: backend 'triton' cannot serve"),
        ({"n": 2, "progress": 1}, r"progress: got 1"),
    ],
)  # fmt: skip
def test_bad_input_is_named(change, text):
    with pytest.raises((TypeError, ValueError), match=f"^{text}"):
        generate(build("llama"), **({"max_new_tokens": 5, "seed": 1} | change))


def test_a_model_without_a_first_token_wants_prompts():
    with pytest.raises(ValueError, match=r"^prompts: got None.*bos_id"):
        generate(build("llama", bos_id=None), n=2, max_new_tokens=5, seed=1)
    with pytest.raises(TypeError, match=r"^model: got 3"):
        generate(3, torch.zeros(1, 1, dtype=torch.int64), max_new_tokens=5, seed=1)
