"""generate: exploration, guidance, siblings that share a prompt, rows as they end."""

import copy
import itertools

import pytest
import torch

from gmkern.decode import Guidance, SamplingParams, generate, generate_stream
from gmkern.decode.generate import engine
from tests.decode.small_models import VOCAB, build, prompts, same
from tests.decode.transformer_truth import tolerance


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_exploration_reports_the_behaviour(backend):
    """Rows of epsilon 1 are uniform; a row's log-probability is log((1 - epsilon) p + epsilon / V)."""
    model = build()
    n = 600
    epsilon = torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64).repeat(n // 3)
    got = generate(model, n=n, max_new_tokens=8, seed=3, epsilon=epsilon, backend=backend)
    p = got.raw_logprobs.double().exp()
    want = ((1 - epsilon[:, None]) * p + epsilon[:, None] / VOCAB).log()
    # float32: a sum of 17 probabilities, an exponential, a logarithm
    assert (got.logprobs.double() - want).abs().max() < 40 * 2**-24
    seen = torch.bincount(got.tokens[2::3].flatten(), minlength=VOCAB).double()
    expected = seen.sum() / VOCAB
    assert ((seen - expected) ** 2 / expected).sum() < 45.9  # chi-square, 16 degrees of freedom, probability 1e-4
    plain = generate(model, n=n, max_new_tokens=8, seed=3, backend=backend)
    assert torch.equal(plain.tokens[::3], got.tokens[::3])
    assert not torch.equal(plain.tokens[2::3], got.tokens[2::3])


def test_exploration_keeps_to_the_legal_tokens_and_to_its_row():
    model = build()

    def even(tokens, lengths):
        return (torch.arange(VOCAB) % 2 == 0).expand(tokens.shape[0], -1)

    got = generate(model, n=40, max_new_tokens=8, seed=3, epsilon=0.7, mask_fn=even)
    assert (got.tokens % 2 == 0).all()
    alone = generate(model, n=1, sample_ids=[23], max_new_tokens=8, seed=3, epsilon=0.7, mask_fn=even)
    assert torch.equal(alone.tokens[0], got.tokens[23])
    assert torch.equal(alone.logprobs[0], got.logprobs[23])


def test_a_presence_penalty_leaves_the_prompt_alone(generator):
    model = build()
    given = prompts(generator, (5, 2, 9))
    params = SamplingParams(temperature=0.0, presence_penalty=1e4)
    for backend in ("cpu", "reference"):
        got = generate(model, given, max_new_tokens=10, params=params, backend=backend)
        assert all(len(set(row.tolist())) == 10 for row in got.tokens)  # no token twice
    first = generate(model, given, max_new_tokens=1, params=SamplingParams(temperature=0.0))
    assert torch.equal(got.tokens[:, :1], first.tokens)


@pytest.mark.parametrize("name", ["gpt2", "llama", "window"])
def test_siblings_share_a_prompt_and_change_no_bit(name, generator, threads):
    model = build(name)
    given = prompts(generator, (1, 20, 7, 2))
    repeated = [prompt for prompt in given for _ in range(5)]
    arguments = {"max_new_tokens": 12, "seed": 4, "end_token": [2, 3], "sample_ids": torch.arange(20) + 7}
    rows = generate(model, repeated, **arguments)
    for count, size in ((1, 3), (2, None), (2, 64)):
        threads(count)
        assert same(generate(model, given, num_samples=5, batch_size=size, **arguments), rows)
    assert not torch.equal(rows.tokens[0], rows.tokens[1])  # siblings differ by their ids
    assert same(generate(model, given, num_samples=5, mask_fn=lambda t, _: torch.ones(t.shape[0], VOCAB).bool(),
                         **arguments), rows)  # fmt: skip


def test_siblings_in_parts_and_a_prompt_read_once(generator, monkeypatch):
    model = build()
    given = prompts(generator, (30, 12, 25))
    whole = generate(model, given, num_samples=4, max_new_tokens=6, seed=1)
    read = []
    hidden = engine.ops.transformer_hidden
    monkeypatch.setattr(
        engine.ops, "transformer_hidden", lambda *given: read.append(given[3].numel()) or hidden(*given)
    )
    monkeypatch.setattr(engine, "_CACHE", 1)  # one prompt at a time
    assert same(generate(model, given, num_samples=4, max_new_tokens=6, seed=1), whole)
    assert read == [29, 11, 24]


def guided_by_hand(model, prompt, unconditional, scale, new):
    """Greedy guided tokens from whole recomputation in float64."""
    a, b = prompt, unconditional
    for _ in range(new):
        x, y = model(a[None])[0, -1], model(b[None])[0, -1]
        token = (y + scale * (x - y)).argmax(keepdim=True)
        a, b = torch.cat([a, token]), torch.cat([b, token])
    return a[prompt.numel() :]


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@torch.no_grad()
def test_guidance_against_recomputation(backend, generator):
    model = build("gpt2")
    given, without = prompts(generator, (3, 8, 1, 5)), prompts(generator, (6, 1, 2, 5))
    scale = torch.tensor([1.5, 3.0, 0.0, 0.7], dtype=torch.float64)
    guidance = Guidance(scale, without)
    got = generate(
        model, given, max_new_tokens=9, params=SamplingParams(temperature=0.0), guidance=guidance, backend=backend
    )
    exact = copy.deepcopy(model).double()
    want = [guided_by_hand(exact, a, b, s, 9) for a, b, s in zip(given, without, scale, strict=True)]
    assert torch.equal(got.tokens, torch.stack(want))  # no near ties with these weights
    drawn = generate(model, given, max_new_tokens=9, seed=2, guidance=guidance, backend=backend, end_token=3)
    x = exact(torch.cat([given[1], drawn.tokens[1]])[None])[0, 7:-1]
    y = exact(torch.cat([without[1], drawn.tokens[1]])[None])[0, :-1]
    log = (y + 3.0 * (x - y)).log_softmax(-1).gather(1, drawn.tokens[1][:, None])[:, 0]
    count = int(drawn.lengths[1])
    # an error of the logits is multiplied by scale and by scale - 1
    assert (drawn.raw_logprobs[1] - log)[:count].abs().max() < 2 * 5 * tolerance(model, x)


def test_a_guided_row_does_not_change_with_its_batch(generator):
    model = build("qwen3")
    given = prompts(generator, torch.randint(1, 9, (20,), generator=generator).tolist())
    without = torch.tensor([4, 2])
    arguments = {"max_new_tokens": 10, "seed": 3, "end_token": 5}
    batch = generate(model, given, guidance=Guidance(2.0, [without]), **arguments)
    assert batch.finished.any()
    assert not batch.finished.all()
    for row in (0, 11, 19):
        alone = generate(model, given[row : row + 1], sample_ids=[row], guidance=Guidance(2.0, [without]), **arguments)
        assert all(torch.equal(a[0], b[row]) for a, b in zip(alone, batch, strict=True))
    assert same(generate(model, given, guidance=Guidance(2.0, [without]), batch_size=3, **arguments), batch)
    other = generate(model, given, guidance=Guidance(2.5, [without]), **arguments)
    assert not torch.equal(other.raw_logprobs, batch.raw_logprobs)  # the comparison can fail
    plain = generate(model, given, max_new_tokens=10, params=SamplingParams(temperature=0.0))
    zero = generate(model, given, max_new_tokens=10, params=SamplingParams(temperature=0.0),
                    guidance=Guidance(0.0, given))  # fmt: skip
    assert torch.equal(plain.tokens, zero.tokens)


def test_guidance_in_the_engine_is_guidance_step_by_step(generator):
    """A hook that allows everything takes the steps from Python; prompts longer than one step reads (128 tokens)."""
    model = build("llama", max_seq_len=200)
    given, without = prompts(generator, (3, 150, 1, 9)), prompts(generator, (140, 2, 1, 170))
    arguments = {"max_new_tokens": 7, "seed": 3, "end_token": 5, "guidance": Guidance(1.5, without)}
    stepped = generate(model, given, mask_fn=lambda t, _: torch.ones(t.shape[0], VOCAB).bool(), **arguments)
    for size in (1, 3, None):
        assert same(generate(model, given, batch_size=size, **arguments), stepped)


@pytest.mark.parametrize("hook", [None, lambda t, _: torch.ones(t.shape[0], VOCAB).bool()])
def test_a_stream_is_the_rows_in_the_order_they_end(hook, generator, monkeypatch):
    model = build()
    given = prompts(generator, torch.randint(1, 5, (30,), generator=generator).tolist())
    arguments = {"max_new_tokens": 20, "seed": 6, "end_token": [2, 3], "mask_fn": hook}
    whole = generate(model, given, **arguments)
    monkeypatch.setattr(engine, "_SLICE", 0.0)
    order = []
    for row in generate_stream(model, given, batch_size=30, **arguments):
        order.append(row.row)
        count = int(whole.lengths[row.row])
        for name in ("tokens", "logprobs", "raw_logprobs", "log_kept_mass"):
            assert torch.equal(getattr(row, name), getattr(whole, name)[row.row, :count])
        assert row.finished == bool(whole.finished[row.row])
    assert sorted(order) == list(range(30))
    if hook is None:  # all rows started together and read their prompts in one step
        ends = whole.lengths[order]
        assert (ends.diff() >= 0).all()
    assert len(list(itertools.islice(generate_stream(model, given, **arguments), 3))) == 3  # left early


def test_ctrl_c_stops_a_stream_between_slices(monkeypatch):
    model = build()
    monkeypatch.setattr(engine, "_SLICE", 0.0)
    steps = engine.ops.generate_steps
    calls = []

    def interrupted(*given):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return steps(*given)

    monkeypatch.setattr(engine.ops, "generate_steps", interrupted)
    with pytest.raises(KeyboardInterrupt):
        list(generate_stream(model, n=4, max_new_tokens=30, seed=1))
    monkeypatch.setattr(engine.ops, "generate_steps", steps)
    assert generate(model, n=4, max_new_tokens=30, seed=1).lengths.tolist() == [30] * 4


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"epsilon": 1.5}, r"epsilon: got 1.5"),
        ({"epsilon": torch.zeros(3)}, r"epsilon: got"),
        ({"epsilon": torch.tensor([0.0, 2.0])}, r"params: got values for row 1"),
        ({"epsilon": 0.5, "seed": None, "params": SamplingParams(temperature=0.0)}, r"seed: got None"),
        ({"num_samples": 0}, r"num_samples: got 0"),
        ({"guidance": 2.0}, r"guidance: got 2.0"),
        ({"guidance": Guidance(2.0, [[1], [2], [3]])}, r"guidance.prompts: got 3"),
        ({"guidance": Guidance(2.0, [[99]])}, r"guidance.prompts: got token ids"),
        ({"guidance": Guidance(torch.ones(3), [[1]])}, r"guidance.scale: got"),
        ({"guidance": Guidance(torch.tensor([1.0, float("inf")]), [[1]])}, r"guidance.scale: got"),
    ],
)
def test_bad_arguments_are_named(change, text):
    arguments = {"max_new_tokens": 5, "seed": 1, "prompts": [[1], [2]]} | change
    model = build()
    for function in (generate, generate_stream):  # a stream says so at once
        if function is generate_stream and "row 1" in text:
            continue  # values in tensors are looked at by the kernel
        with pytest.raises((TypeError, ValueError), match=f"^{text}"):
            function(model, **arguments)


def test_a_stream_takes_the_arguments_of_generate():
    with pytest.raises(TypeError, match="temperature"):
        generate_stream(build(), n=1, max_new_tokens=2, temperature=1.0)
    with pytest.raises(ValueError, match="scale"):
        Guidance(float("nan"), [[1]])
    with pytest.raises(ValueError, match="^guidance: got"):
        generate(
            lambda t, s: (torch.zeros(t.shape[0], 4), s), [[1]], max_new_tokens=2, seed=1, guidance=Guidance(1.0, [[1]])
        )
