"""generate with models that are not ours, and with hooks between logits and choice."""

import pytest
import torch
from torch import nn

from gmkern.decode import SamplingParams, generate
from tests.decode.small_models import build

GREEDY = SamplingParams(temperature=0.0)


class Recurrent(nn.Module):
    """A GRU over tokens: (tokens [B], state) -> (logits [B, V], state)."""

    def __init__(self, vocab=11, width=16):
        super().__init__()
        self.embedding = nn.Embedding(vocab, width)
        self.cell = nn.GRUCell(width, width)
        self.head = nn.Linear(width, vocab)
        self.calls = 0

    def forward(self, tokens, state):
        self.calls += 1
        state = self.cell(self.embedding(tokens), state)
        return 3 * self.head(state), state


def test_a_recurrent_model_reads_each_rows_own_prompt(generator):
    model = Recurrent().double()
    given = [torch.randint(0, 11, (size,), generator=generator) for size in (4, 1, 6, 2)]
    got = generate(model, given, max_new_tokens=8, params=GREEDY, end_token=3, pad_token=-7)
    assert model.calls <= 6 + 8 - 1  # one call a position: prompts and new tokens share them
    for row, prompt in enumerate(given):
        sequence, state = prompt.tolist(), None
        for token in sequence:
            logits, state = model(torch.tensor([token]), state)
        for i in range(8):
            token = int(logits.argmax())
            assert got.tokens[row, i] == token
            assert abs(got.raw_logprobs[row, i] - logits.log_softmax(-1)[0, token]) < 1e-12
            if token == 3:
                break
            logits, state = model(torch.tensor([token]), state)
        assert got.lengths[row] == i + 1
        assert (got.tokens[row, i + 1 :] == -7).all()


def test_chunks_and_ids_of_a_callable(generator):
    model = Recurrent().double()
    given = torch.randint(0, 11, (9, 2), generator=generator)
    whole = generate(model, given, max_new_tokens=8, seed=4, end_token=3)
    for size in (1, 4):
        part = generate(model, given, max_new_tokens=8, seed=4, end_token=3, batch_size=size)
        assert torch.equal(part.tokens, whole.tokens)
    alone = generate(model, given[5:6], max_new_tokens=8, seed=4, end_token=3, sample_ids=[5])
    assert torch.equal(alone.tokens[0], whole.tokens[5])
    assert whole.lengths.unique().numel() > 1


def test_a_callable_draws_from_its_distribution():
    table = torch.tensor([[0.1, 0.2, 0.3, 0.4], [0.7, 0.1, 0.1, 0.1], [0.25] * 4, [0.4, 0.3, 0.2, 0.1]]).log()

    def chain(tokens, state):
        return table[tokens], state

    n = 4000
    got = generate(chain, torch.zeros(n, 1, dtype=torch.int64), max_new_tokens=3, seed=8, batch_size=n)
    pairs = torch.cat([torch.zeros(n, 1, dtype=torch.int64), got.tokens], 1)
    for state in range(4):
        seen = torch.bincount(pairs[:, 1:][pairs[:, :-1] == state], minlength=4).double()
        expected = table[state].double().exp() * seen.sum()
        # chi-square with 3 degrees of freedom passes 21.1 with probability 1e-4
        assert ((seen - expected) ** 2 / expected).sum() < 21.1
    log = table[pairs[:, :-1], pairs[:, 1:]]
    torch.testing.assert_close(got.logprobs, log, rtol=0, atol=8 * 2**-24)


def test_mask_fn_sees_the_new_tokens_and_is_obeyed():
    model = build()
    seen = []

    def no_repeats(tokens, lengths):
        seen.append((tokens, lengths))
        allowed = torch.ones(tokens.shape[0], 17, dtype=torch.bool)
        for row, length in enumerate(lengths.tolist()):
            allowed[row, tokens[row, :length]] = False
        return allowed

    got = generate(model, n=12, max_new_tokens=17, seed=3, mask_fn=no_repeats, pad_token=-1)
    assert (got.tokens.sort(1).values == torch.arange(17)).all()  # each token once
    assert torch.equal(got.logprobs[:, -1], torch.zeros(12))  # the last had one choice
    assert [int(lengths.max()) for _, lengths in seen] == list(range(17))
    assert (seen[3][0][:, 3:] == -1).all()
    free = generate(model, n=12, max_new_tokens=17, seed=3)
    everything = generate(
        model, n=12, max_new_tokens=17, seed=3, mask_fn=lambda t, _: torch.ones(t.shape[0], 17).bool()
    )
    assert all(torch.equal(a, b) for a, b in zip(everything, free, strict=True))  # the engine by slices, and by steps


def test_hooks_on_every_backend_agree():
    model = build("gpt2")

    def even(tokens, lengths):
        return (torch.arange(17) % 2 == 0).expand(tokens.shape[0], -1)

    def flatten(tokens, lengths, logits):
        return logits / 2

    arguments = {"n": 6, "max_new_tokens": 10, "seed": 2, "end_token": 4, "mask_fn": even, "logits_processor": flatten}
    got, truth = (generate(model, **arguments, backend=backend) for backend in ("cpu", "reference"))
    assert torch.equal(got.tokens, truth.tokens)
    assert (got.tokens % 2 == 0).all()
    torch.testing.assert_close(got.logprobs, truth.logprobs, rtol=0, atol=1e-4)
    torch.testing.assert_close(got.raw_logprobs, truth.raw_logprobs, rtol=0, atol=1e-4)
    raw = model(torch.cat([torch.ones(6, 1, dtype=torch.int64), got.tokens[:, :-1]], 1)).log_softmax(-1)
    first = raw[:, 0].gather(1, got.tokens[:, :1])[:, 0]
    torch.testing.assert_close(got.raw_logprobs[:, 0], first, rtol=0, atol=1e-4)  # the model's own, not the halved


def test_a_repetition_penalty_counts_prompt_and_new_tokens(generator):
    model = build()
    given = [torch.randint(0, 17, (size,), generator=generator) for size in (5, 2, 3)]
    params = SamplingParams(temperature=0.0, repetition_penalty=1e6)
    for backend in ("cpu", "reference"):
        got = generate(model, given, max_new_tokens=10, params=params, backend=backend)
        for row, prompt in enumerate(given):
            new = got.tokens[row].tolist()
            assert len(set(new) | set(prompt.tolist())) == len(set(prompt.tolist())) + 10


def test_a_model_that_breaks_is_named():
    model = build()
    with torch.no_grad():
        model.norm.weight[0] = float("nan")
    with pytest.raises(ValueError, match=r"^model: got logits of row \d that are not finite"):
        generate(model, n=3, max_new_tokens=4, seed=1)
    prompts = torch.zeros(2, 1, dtype=torch.int64)
    for answer in (None, (torch.zeros(3, 4), None), (torch.zeros(2, 4, dtype=torch.int64), None)):
        with pytest.raises(TypeError if answer is None else ValueError, match=r"^model: got"):
            generate(lambda tokens, state, answer=answer: answer, prompts, max_new_tokens=2, seed=1)
