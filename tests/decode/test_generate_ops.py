"""The engine's ops: fake kernels, honest schemas, every instruction set, and no way to read outside a tensor."""

import dataclasses

import pytest
import torch

from gmkern.decode.transformer import ops, packed
from gmkern.testing import run_isa
from tests.decode.small_models import NARROW, build, rounded
from tests.decode.transformer_truth import CONFIGS, logits, tolerance

pytestmark = pytest.mark.sanitize


def feed_arguments(model):
    weights = packed.pack(model)
    cache = packed.new_cache(model.config, 2, 32).zero_()
    tokens, slots, positions = (
        torch.tensor([3, 1, 4, 1, 5]),
        torch.tensor([0, 0, 1, 1, 1]),
        torch.tensor([0, 1, 0, 1, 2]),
    )
    turns, wanted = packed.turns(model.config, 32), torch.tensor([1, 4])
    return [weights.weights, turns, cache, tokens, slots, positions, wanted, weights.shape, weights.reals]


def step_arguments(model, steps=3):
    weights = packed.pack(model)
    floats, ints = torch.float32, torch.int64
    return {
        "packed": weights.weights,
        "turns": packed.turns(model.config, 32),
        "cache": packed.new_cache(model.config, 2, 32).zero_(),
        "prompts": torch.tensor([3, 1, 4, 1]),
        "prompt_ptr": torch.tensor([0, 1, 3, 4]),
        "end_tokens": torch.tensor([2]),
        "seed": torch.tensor([5, 5, 5]),
        "sample_ids": torch.arange(3),
        "params": torch.tensor([[1.0, 0, 1, 0, 1, 1, 0, 0, 0, 0]], dtype=torch.float64).repeat(3, 1),
        "slots": torch.tensor([[-1, 0, 0], [-1, 0, 0]]),
        "progress": torch.tensor([0, 0, -1, 0]),
        "tokens": torch.zeros(3, 6, dtype=ints),
        "lengths": torch.zeros(3, dtype=ints),
        "logprobs": torch.zeros(3, 6, dtype=floats),
        "raw_logprobs": torch.zeros(3, 6, dtype=floats),
        "log_kept_mass": torch.zeros(3, 6, dtype=floats),
        "finished": torch.zeros(3, dtype=torch.bool),
        "order": torch.zeros(3, dtype=ints),
        "prefix_cache": packed.new_cache(model.config, 1, 1).zero_(),
        "prefix_of": torch.tensor([-1, 0, -1]),
        "prefix_lengths": torch.tensor([1]),
        "side_prompts": torch.arange(0),
        "side_ptr": torch.arange(0),
        "scale": torch.empty(0),
        "steps": steps,
        "shape": weights.shape,
        "reals": weights.reals,
    }


def test_opcheck():
    model = build()
    plain = [weight.detach() for weight in packed.weights_of(model)]
    torch.library.opcheck(torch.ops.gmkern.fingerprint.default, (plain,))
    torch.library.opcheck(torch.ops.gmkern.pack_transformer.default, (plain, packed.shape_of(model.config)))
    torch.library.opcheck(torch.ops.gmkern.transformer_logits.default, tuple(feed_arguments(model)))
    torch.library.opcheck(torch.ops.gmkern.transformer_hidden.default, tuple(feed_arguments(model)))
    weights = packed.pack(model)
    torch.library.opcheck(
        torch.ops.gmkern.transformer_head.default, (weights.weights, torch.randn(5, 24), weights.shape, weights.reals)
    )
    torch.library.opcheck(torch.ops.gmkern.generate_steps.default, tuple(step_arguments(model).values()))


def test_each_instruction_set(isa, generator):
    models = {name: build(name, tie_embeddings=False) for name in CONFIGS}
    tokens = torch.randint(0, 17, (1, 30), generator=generator)
    code = """
    from gmkern.decode import Transformer, TransformerConfig, generate
    from gmkern.decode.generate.engine import EngineSteps

    def run(config, state):
        model = Transformer(config)
        model.load_state_dict(state)
        logits = {}
        for format in formats:
            steps = EngineSteps(model, format)
            steps.open(torch.arange(1), 30)
            fed = torch.cat([steps.feed(tokens[:, i : i + 1], torch.arange(1)) for i in range(30)])
            steps.open(torch.arange(1), 30)
            logits[format] = fed, steps.feed(tokens, torch.arange(1))
        rows = generate(model, n=20, max_new_tokens=12, seed=3, end_token=2)
        one = generate(model, n=1, sample_ids=[13], max_new_tokens=12, seed=3, end_token=2)
        return logits, [field[13] for field in rows], [field[0] for field in one]

    out = {name: run(TransformerConfig(**shapes[name]), state) for name, state in states.items()}
    """
    shapes = {name: dataclasses.asdict(model.config) for name, model in models.items()}
    states = {name: model.state_dict() for name, model in models.items()}
    results = run_isa(isa, code, shapes=shapes, states=states, tokens=tokens, formats=(None, *NARROW))
    for name, (by_format, row, alone) in results.items():
        assert all(torch.equal(a, b) for a, b in zip(row, alone, strict=True)), name
        for format, (fed, whole) in by_format.items():
            assert torch.equal(fed[-1:], whole), (name, format)  # a prompt read at once, or token by token
            truth = torch.from_numpy(logits(rounded(models[name], format), tokens[0].numpy()))
            assert (fed - truth).abs().max() < tolerance(models[name], truth), (name, format)


def test_a_fingerprint_sees_any_one_byte(generator):
    tensors = [
        torch.randint(0, 256, (size,), generator=generator, dtype=torch.uint8) for size in (1, 63, 200, (1 << 20) + 77)
    ]
    before = int(ops.fingerprint(tensors))
    assert int(ops.fingerprint(tensors)) == before
    for tensor in tensors:
        for at in {0, tensor.numel() // 2, tensor.numel() - 1}:
            tensor[at] ^= 16
            assert int(ops.fingerprint(tensors)) != before
            tensor[at] ^= 16
    assert int(ops.fingerprint(tensors)) == before
    assert int(ops.fingerprint(tensors[::-1])) != before


@pytest.mark.parametrize("name", CONFIGS)
def test_the_head_of_hidden_states_is_the_logits(name):
    model = build(name)
    arguments = feed_arguments(model)
    logits = ops.transformer_logits(*arguments)
    hidden = ops.transformer_hidden(*arguments)
    assert torch.equal(ops.transformer_head(arguments[0], hidden, *arguments[7:]), logits)
    assert torch.equal(ops.transformer_head(arguments[0], hidden[1:], *arguments[7:]), logits[1:])


def test_the_head_refuses_what_does_not_fit():
    weights = packed.pack(build())
    for hidden in (torch.zeros(2, 23), torch.zeros(24), torch.zeros(2, 24).double(), torch.zeros(24, 2).t()):
        with pytest.raises(RuntimeError, match="gmkern: hidden"):
            ops.transformer_head(weights.weights, hidden, weights.shape, weights.reals)


def test_what_the_cache_held_before_does_not_matter():
    model = build("qwen3")
    arguments = feed_arguments(model)
    clean = ops.transformer_logits(*arguments)
    arguments[2].fill_(float("nan"))
    assert torch.equal(ops.transformer_logits(*arguments), clean)


@pytest.mark.parametrize(
    ("at", "value", "word"),
    [
        (0, torch.zeros(3), "packed"),
        (1, torch.zeros(5, 6), "turns"),
        (2, torch.zeros(2, 2, 2, 17, 22), "cache"),
        (3, torch.tensor([3, 1, 17, 1, 5]), "tokens"),
        (4, torch.tensor([0, 0, 2, 1, 1]), "slots"),
        (5, torch.tensor([0, 1, 0, 1, 32]), "positions"),
        (6, torch.tensor([4, 1]), "wanted"),
        (6, torch.tensor([5]), "wanted"),
        (7, [17, 2], "shape"),
    ],
)
def test_logits_refuses_what_does_not_fit(at, value, word):
    arguments = feed_arguments(build())
    arguments[at] = value
    with pytest.raises(RuntimeError, match=f"gmkern: {word}: "):
        ops.transformer_logits(*arguments)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("prompts", torch.tensor([3, 1, 4, 17])),
        ("prompt_ptr", torch.tensor([0, 1, 3, 5])),
        ("prompt_ptr", torch.tensor([0, 3, 1, 4])),
        ("slots", torch.tensor([[3, 0, 0], [-1, 0, 0]])),
        ("slots", torch.tensor([[0, 1, 0], [-1, 0, 0]])),
        ("slots", torch.tensor([[-1, 0], [-1, 0]])),
        ("progress", torch.tensor([4, 0, -1, 0])),
        ("progress", torch.tensor([1, 2, -1, 0])),
        ("order", torch.zeros(2, dtype=torch.int64)),
        ("prefix_of", torch.tensor([-1, 1, -1])),
        ("prefix_of", torch.tensor([0, -1, -1])),  # a prompt of one token has no room for a beginning of one
        ("prefix_lengths", torch.tensor([1, 1])),
        ("prefix_cache", torch.zeros(1, 2, 2, 16, 21)),
        ("tokens", torch.zeros(3, 40, dtype=torch.int64)),
        ("lengths", torch.tensor([0, 7, 0])),
        ("params", torch.ones(3, 10)),
        ("params", torch.ones(2, 10, dtype=torch.float64)),
        ("finished", torch.zeros(3)),
        ("scale", torch.ones(3)),
    ],
)
def test_steps_refuses_what_does_not_fit(name, value):
    arguments = step_arguments(build()) | {name: value}
    with pytest.raises(RuntimeError, match="gmkern: "):
        ops.generate_steps(*arguments.values())


def test_packing_refuses_what_does_not_fit():
    model = build()
    weights, shape = [w.detach() for w in packed.weights_of(model)], packed.shape_of(model.config)
    for bad in (
        weights[:-1],
        [*weights, weights[0]],
        [weights[0].double(), *weights[1:]],
        [weights[0].T, *weights[1:]],
    ):
        with pytest.raises(RuntimeError, match="gmkern: weights: "):
            ops.pack_transformer(bad, shape)
