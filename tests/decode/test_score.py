"""score: generate's values to the bit, and the gradients of the plain PyTorch module."""

import copy
import dataclasses
import itertools
import math

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from gmkern.decode import (
    Guidance,
    SamplingParams,
    Score,
    Transformer,
    TransformerConfig,
    generate,
    score,
    token_logprobs,
)
from gmkern.decode.score import function, hidden
from gmkern.testing import run_isa
from tests.decode.small_models import VOCAB, build, prompts
from tests.decode.transformer_truth import CONFIGS, tolerance

pytestmark = pytest.mark.sanitize


def even_or_three(tokens, lengths):
    """Even tokens, and 3 once something was drawn."""
    allowed = (torch.arange(VOCAB) % 2 == 0).repeat(tokens.shape[0], 1)
    allowed[:, 3] = (tokens * (torch.arange(tokens.shape[1]) < lengths[:, None])).sum(1) > 0
    return allowed


WAYS = {
    "plain": {},
    "filtered": {"params": SamplingParams(0.8, 9, 0.9, 0.01, 0.95)},
    "penalised": {"params": SamplingParams(repetition_penalty=1.3, presence_penalty=0.4, frequency_penalty=0.2)},
    "rows": {"params": SamplingParams(torch.tensor([0.5, 1, 0, 2, 1, 0.9]), top_k=torch.tensor([3, 0, 0, 9, 2, 0]))},
    "masked": {"mask_fn": even_or_three},
    "exploring": {"epsilon": 0.3, "params": SamplingParams(top_k=4)},
    "guided": {"guidance": Guidance(1.7, [[4, 2, 9]])},
    "all": {"epsilon": torch.full((6,), 0.2), "params": SamplingParams(0.9, 5, repetition_penalty=1.1),
            "mask_fn": even_or_three, "guidance": Guidance(0.6, [[4]])},
}  # fmt: skip
SIZES = (3, 1, 9, 4, 20, 2)


@pytest.mark.parametrize("way", WAYS)
def test_values_are_those_of_generate(way, generator):
    model = build()
    given = prompts(generator, SIZES)
    drawn = generate(model, given, max_new_tokens=20, seed=1, end_token=[4, 5], pad_token=6, **WAYS[way])
    got = score(model, drawn.tokens, drawn.lengths, prompts=given, pad_token=6, return_entropy=True, **WAYS[way])
    assert isinstance(got, Score)
    for name in ("logprobs", "raw_logprobs", "log_kept_mass"):
        assert torch.equal(getattr(got, name), getattr(drawn, name)), name
    with torch.no_grad():
        assert torch.equal(score(model, drawn.tokens, drawn.lengths, prompts=given, **WAYS[way]), drawn.logprobs)
    # the comparison can fail: another model, or other parameters
    with torch.no_grad():
        model.norm.weight.nextafter_(torch.tensor(9.0))
    other = score(model, drawn.tokens, drawn.lengths, prompts=given, return_entropy=True, **WAYS[way])
    assert not torch.equal(other.raw_logprobs, drawn.raw_logprobs)


@pytest.mark.parametrize("name", CONFIGS)
def test_values_for_every_shape_of_model(name, generator, threads, monkeypatch):
    model = build(name)
    given = prompts(generator, SIZES)
    drawn = generate(model, given, max_new_tokens=20, seed=1, end_token=[4, 5])
    for train in (True, False):  # a Transformer has no dropout
        assert torch.equal(score(model.train(train), drawn.tokens, drawn.lengths, prompts=given), drawn.logprobs)
    for count, block, tokens in ((1, 1, 1), (2, 60, 70), (2, 1 << 20, 1 << 20)):
        threads(count)
        monkeypatch.setattr(function, "_BLOCK", block)
        monkeypatch.setattr(hidden, "_TOKENS", tokens)
        with torch.no_grad():
            assert torch.equal(score(model, drawn.tokens, drawn.lengths, prompts=given), drawn.logprobs)
            alone = score(model, drawn.tokens[4:5], drawn.lengths[4:5], prompts=given[4:5])
            assert torch.equal(alone[0], drawn.logprobs[4])


def test_each_instruction_set(isa):
    code = """
    import torch
    from gmkern.decode import Transformer, TransformerConfig, generate, score

    model = Transformer(TransformerConfig(**config))
    model.load_state_dict(state)
    drawn = generate(model, n=6, max_new_tokens=12, seed=3, end_token=2)
    out = torch.equal(score(model, drawn.tokens, drawn.lengths), drawn.logprobs)
    """
    model = build("gpt2")
    assert run_isa(isa, code, config=dataclasses.asdict(model.config), state=model.state_dict())


def composed(model, drawn, given, kept, way):
    """Log-probabilities and entropies in plain PyTorch, one row at a time; ``kept`` says what stays."""
    logprobs, entropies = [], []
    for row, prompt in enumerate(given):
        length = int(drawn.lengths[row])
        new = drawn.tokens[row, :length]
        x = model(torch.cat([prompt, new[:-1]])[None])[0, prompt.numel() - 1 :]
        if "guidance" in way:
            side = torch.tensor(way["guidance"].prompts[0])
            y = model(torch.cat([side, new[:-1]])[None])[0, side.numel() - 1 :]
            x = y + way["guidance"].scale * (x - y)
        z = x / way.get("params", SamplingParams()).temperature
        p = z.masked_fill(~kept[row][:length], float("-inf")).softmax(1)
        epsilon = way.get("epsilon", 0.0)
        q = (1 - epsilon) * p + epsilon / VOCAB
        logprobs.append(q.gather(1, new[:, None])[:, 0].log())
        entropies.append(-torch.where(q > 0, q * torch.where(q > 0, q, 1.0).log(), 0.0).sum(1))
    return torch.cat(logprobs), torch.cat(entropies)


def kept_sets(model, drawn, given, way):
    """[T, V] a row: the tokens of finite probability without exploration, each scored in turn."""
    params, out = way.get("params", SamplingParams()), []
    for row, prompt in enumerate(given):
        length = int(drawn.lengths[row])
        new = drawn.tokens[row, :length]
        x = model(torch.cat([prompt, new[:-1]])[None])[0, prompt.numel() - 1 :]
        if "guidance" in way:
            out.append(torch.ones(length, VOCAB, dtype=torch.bool))
            continue
        every = torch.arange(VOCAB)
        out.append(torch.stack([torch.isfinite(token_logprobs(z.expand(VOCAB, -1), every, params)) for z in x]))
    return out


@pytest.mark.parametrize("way", ["plain", "filtered", "exploring", "guided"])
@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma"])
def test_gradients_are_those_of_plain_pytorch(name, way, generator):
    model = build(name)
    exact = copy.deepcopy(model).double()
    given, options = prompts(generator, (3, 1, 9, 4)), WAYS[way]
    drawn = generate(model, given, max_new_tokens=10, seed=2, end_token=[4, 5], **options)
    with torch.no_grad():
        kept = kept_sets(exact, drawn, given, options)
    lp, entropy = composed(exact, drawn, given, kept, options)
    weight = torch.randn(lp.shape, generator=generator, dtype=torch.float64)
    loss = (weight * lp).sum() + 0.3 * entropy.sum()
    truth = torch.autograd.grad(loss, list(exact.parameters()))
    mask = drawn.mask

    def gradients(scored, parameters):
        total = (weight.to(scored.logprobs.dtype) * scored.logprobs[mask]).sum() + 0.3 * scored.entropy[mask].sum()
        return torch.autograd.grad(total, parameters)

    plain = score(exact, drawn.tokens, drawn.lengths, prompts=given, exact=False, return_entropy=True, **options)
    assert (plain.logprobs[mask] - lp).abs().max() < 1e-11  # fp64, 10 reductions of up to 64 terms
    for got, want, (label, _) in zip(
        gradients(plain, list(exact.parameters())), truth, exact.named_parameters(), strict=True
    ):
        assert (got - want).abs().max() < 1e-11 * max(1.0, float(want.abs().max())), label
    ours = score(model, drawn.tokens, drawn.lengths, prompts=given, return_entropy=True, **options)
    scale = max(float(want.abs().max()) for want in truth)
    for got, want, (label, _) in zip(
        gradients(ours, list(model.parameters())), truth, exact.named_parameters(), strict=True
    ):
        # float32 forward and backward: as many roundings again as logits have, of sums over all tokens
        assert (got - want).abs().max() < 8 * tolerance(model, torch.full((1,), scale)), label


@pytest.mark.parametrize("exact", [True, False])
def test_hidden_states_and_raw_logprobs_have_gradients(exact, generator):
    model = build("qwen3")
    given = prompts(generator, (3, 6))
    drawn = generate(model, given, max_new_tokens=5, seed=2)
    got = score(model, drawn.tokens, drawn.lengths, prompts=given, exact=exact, return_hidden=True)
    double = copy.deepcopy(model).double()
    whole = [torch.cat([prompt, drawn.tokens[row, :-1]])[None] for row, prompt in enumerate(given)]
    states = torch.stack([double.hidden(x)[0, p.numel() - 1 :] for x, p in zip(whole, given, strict=True)])
    assert (got.hidden - states).abs().max() < tolerance(model, states)
    raw = (states @ double.head_weight.t()).log_softmax(-1).gather(2, drawn.tokens[..., None])[..., 0]
    slope = torch.randn(states.shape, generator=generator)
    want = torch.autograd.grad((slope * states).sum() + raw.sum(), list(double.parameters()))
    ours = torch.autograd.grad((slope * got.hidden).sum() + got.raw_logprobs.sum(), list(model.parameters()))
    scale = max(float(w.abs().max()) for w in want)
    for a, b in zip(ours, want, strict=True):
        assert (a - b).abs().max() < 8 * tolerance(model, torch.full((1,), scale))


def test_a_token_that_could_not_be_drawn(generator):
    model = build()
    drawn = generate(model, n=4, max_new_tokens=6, seed=1, params=SamplingParams(top_k=2))
    tokens = drawn.tokens.clone()
    tokens[1, 2] = generate(model, n=1, max_new_tokens=1, seed=1).tokens  # any token
    with torch.no_grad():
        worst = score(model, tokens, drawn.lengths, exact=False, params=SamplingParams(top_k=VOCAB))
    assert torch.isfinite(worst).all()
    states = score(model, drawn.tokens, drawn.lengths, return_hidden=True).hidden
    tokens[1, 2] = (states[1, 2] @ model.head_weight.t()).argmin()
    got = score(model, tokens, drawn.lengths, params=SamplingParams(top_k=2))
    assert got[1, 2] == float("-inf")
    (gradient,) = torch.autograd.grad(got[1, 2], model.norm.weight)
    assert (gradient == 0).all()


class LargestTensor(TorchDispatchMode):
    """The largest tensor that any operation made."""

    def __init__(self):
        super().__init__()
        self.numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if isinstance(out, torch.Tensor):
            self.numel = max(self.numel, out.numel())
        return out


def test_memory_does_not_grow_with_tokens_times_vocabulary(monkeypatch):
    model = build("llama", vocab_size=900)
    drawn = generate(model, n=24, max_new_tokens=40, seed=1)
    monkeypatch.setattr(function, "_BLOCK", 900 * 16)
    with LargestTensor() as seen:
        score(model, drawn.tokens, drawn.lengths).sum().backward()
    most = max(model.embedding.weight.numel(), 24 * 40 * model.config.d_ff * 2, 900 * 16)
    assert seen.numel <= 1.2 * most
    assert seen.numel < 24 * 40 * 900 / 4
    with LargestTensor() as seen:  # the comparison can fail
        logits = model(torch.cat([torch.ones(24, 1, dtype=torch.int64), drawn.tokens[:, :-1]], 1))
        token_logprobs(logits, drawn.tokens).sum().backward()
    assert seen.numel >= 24 * 40 * 900


def test_siblings_empty_rows_and_no_rows(generator):
    model = build()
    given = prompts(generator, (3, 7))
    drawn = generate(model, given, num_samples=3, max_new_tokens=5, seed=1)
    assert torch.equal(score(model, drawn.tokens, drawn.lengths, prompts=given, num_samples=3), drawn.logprobs)
    lengths = drawn.lengths.clone()
    lengths[1], lengths[4] = 0, 2
    got = score(model, drawn.tokens, lengths, prompts=given, num_samples=3)
    want = drawn.logprobs.masked_fill(torch.arange(5) >= lengths[:, None], 0.0)
    assert torch.equal(got, want)
    got.sum().backward()
    assert score(model, drawn.tokens[:0], lengths[:0], prompts=[]).shape == (0, 5)
    nothing = score(model, drawn.tokens, torch.zeros(6, dtype=torch.int64), prompts=given, num_samples=3)
    assert torch.equal(nothing, torch.zeros(6, 5))


def test_half_precision_and_frozen_models(generator):
    half = build().to(torch.bfloat16)
    drawn = generate(half, n=3, max_new_tokens=6, seed=1)
    got = score(half, drawn.tokens, drawn.lengths)
    assert torch.equal(got, drawn.logprobs)
    got.sum().backward()
    assert half.embedding.weight.grad.dtype == torch.bfloat16
    frozen = build().requires_grad_(False)
    assert not score(frozen, drawn.tokens, drawn.lengths).requires_grad


def test_a_backward_policy_is_scored_the_same_way():
    """A set is built member by member; the backward policy takes members away, blind to the order they came in.

    Its trajectories to the empty set are all orders of the members: their probabilities sum to 1.
    """
    model = build()
    members = torch.tensor([3, 5, 8, 11])
    orders = torch.tensor(list(itertools.permutations(members.tolist())))  # [24, 4], as they were built
    sets = torch.zeros(24, VOCAB, dtype=torch.bool).index_fill(1, members, True)

    def removable(tokens, lengths, rows):
        left = sets[rows]
        for row, length in enumerate(lengths.tolist()):
            left[row, tokens[row, :length]] = False
        return left

    arguments = {"prompts": members.expand(24, -1), "mask_fn": removable}
    lengths = torch.full((24,), 4)
    backward = score(model, orders.flip(1), lengths, **arguments)
    assert abs(backward.double().sum(1).exp().sum() - 1) < 24 * 4 * 8 * 2**-24  # 4 float32 log-probabilities a row
    assert torch.equal(backward[:, -1], torch.zeros(24))  # the last member is the only choice
    uniform = score(model, orders.flip(1), lengths, params=SamplingParams(temperature=1e6), **arguments)
    assert (uniform.double().sum(1) + math.log(24)).abs().max() < 1e-4  # logits / 1e6 of a few units
    backward.sum().backward()
    assert model.embedding.weight.grad.abs().max() > 0


class Recurrent(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = torch.nn.Embedding(VOCAB, 8)
        self.cell = torch.nn.GRUCell(8, 8)
        self.head = torch.nn.Linear(8, VOCAB)

    def forward(self, tokens, state):
        state = self.cell(self.embedding(tokens), state)
        return 3 * self.head(state), state


def test_a_callable_is_scored_inexactly(generator):
    model = Recurrent().double()
    given = prompts(generator, (4, 1, 6))
    params = SamplingParams(top_k=5)
    drawn = generate(model, given, max_new_tokens=8, seed=4, end_token=3, params=params)
    got = score(model, drawn.tokens, drawn.lengths, prompts=given, params=params, exact=False, return_entropy=True)
    assert (got.logprobs - drawn.logprobs).abs().max() < 1e-12
    assert (got.raw_logprobs - drawn.raw_logprobs).abs().max() < 1e-12
    loss = got.logprobs.sum() + got.entropy.sum()
    (gradient,) = torch.autograd.grad(loss, model.head.bias)
    assert torch.autograd.gradcheck(
        lambda bias: _with_bias(model, bias, drawn, given), model.head.bias.detach().requires_grad_()
    )
    assert gradient.abs().max() > 0
    with pytest.raises(TypeError, match=r"^model: got a callable, Recurrent, with exact=True; takes .*exact=False"):
        score(model, drawn.tokens, drawn.lengths, prompts=given)
    with pytest.raises(ValueError, match=r"^return_hidden: got True"):
        score(model, drawn.tokens, drawn.lengths, prompts=given, exact=False, return_hidden=True)


def _with_bias(model, bias, drawn, given):
    def call(tokens, state):
        logits, state = model(tokens, state)
        return logits - 3 * model.head.bias + 3 * bias, state

    return score(call, drawn.tokens, drawn.lengths, prompts=given, exact=False).sum()


def test_what_cannot_be_exact_is_named():
    model = build()
    drawn = generate(model, n=2, max_new_tokens=3, seed=1)
    with torch.autocast("cpu"), pytest.raises(ValueError, match=r"^exact: got True under torch.autocast"):
        score(model, drawn.tokens, drawn.lengths)
    with torch.autocast("cpu"):
        rough = score(model, drawn.tokens, drawn.lengths, exact=False)
    assert 0 < (rough - drawn.logprobs).abs().max() < 0.3  # bfloat16 activations
    rough.sum().backward()
    with pytest.raises(ValueError, match=r"^model: got .*float64.*exact=False"):
        score(copy.deepcopy(model).double(), drawn.tokens, drawn.lengths)
    with pytest.raises(TypeError, match=r"^model: got 3"):
        score(3, drawn.tokens, drawn.lengths)


def test_sharded_parameters_are_refused_by_name(tmp_path):
    from torch import distributed as dist
    from torch.distributed.tensor import distribute_tensor, init_device_mesh

    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        mesh = init_device_mesh("cpu", (1,))
        model = build()
        model.norm.weight = torch.nn.Parameter(distribute_tensor(model.norm.weight.detach(), mesh))
        tokens, lengths = torch.ones(1, 2, dtype=torch.int64), torch.tensor([2])
        for call in (
            lambda: generate(model, n=1, max_new_tokens=2, seed=1, backend="cpu"),
            lambda: score(model, tokens, lengths),
        ):
            with pytest.raises(ValueError, match=r"norm\.weight of type DTensor"):
                call()
    finally:
        dist.destroy_process_group()


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"tokens": torch.zeros(2, 3)}, r"tokens: got"),
        ({"tokens": torch.full((2, 3), 17)}, r"tokens: got ids from 17"),
        ({"lengths": torch.tensor([1])}, r"lengths: got"),
        ({"lengths": torch.tensor([1, 4])}, r"lengths: got values from 1 to 4; takes 0 to 3"),
        ({"prompts": [[1]]}, r"prompts: got 1 rows; takes 2"),
        ({"prompts": [[1], [99]]}, r"prompts: got token ids"),
        ({"prompts": [[1], [1] * 63]}, r"lengths: got 3; takes at most 1"),
        ({"params": 1.0}, r"params: got"),
        ({"params": SamplingParams(torch.ones(3))}, r"params.temperature: got"),
        ({"epsilon": 2.0}, r"epsilon: got"),
        ({"mask_fn": 3}, r"mask_fn: got"),
        ({"mask_fn": lambda t, n: torch.ones(1)}, r"mask_fn: got a call that returned"),
        ({"guidance": 3}, r"guidance: got"),
    ],
)
def test_bad_arguments_are_named(change, text):
    arguments = {"tokens": torch.zeros(2, 3, dtype=torch.int64), "lengths": torch.tensor([3, 2])} | change
    with pytest.raises((TypeError, ValueError), match=f"^{text}"):
        score(build(), **arguments)


class Scored(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.model = build()

    def forward(self):
        return score(self.model, torch.zeros(1, 2, dtype=torch.int64), torch.tensor([2]))


def test_forward_mode_is_refused_by_name():
    scored = Scored()
    given = {name: parameter.detach() for name, parameter in scored.named_parameters()}
    with pytest.raises(RuntimeError, match=r"^decode\.score: has no forward-mode derivative"):
        torch.func.jvp(lambda values: torch.func.functional_call(scored, values, ()), (given,), (given,))


def test_a_vocabulary_past_the_limit_is_named():
    shape = {"n_layers": 1, "n_heads": 1, "d_model": 2, "max_seq_len": 8, "bos_id": 0, "d_ff": 1}
    with torch.device("meta"):
        model = Transformer(TransformerConfig(vocab_size=2**21, **shape))
    for call in (
        lambda: generate(model, n=1, max_new_tokens=2, seed=1, backend="reference"),
        lambda: score(model, torch.zeros(1, 2, dtype=torch.int64), torch.tensor([2]), exact=False),
    ):
        with pytest.raises(ValueError, match="^model: got a vocabulary of 2097152 tokens; takes at most 2097151"):
            call()
