"""generate runs what a Transformer computes, also where the config no longer says it."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
import torch.nn.utils.prune
from torch import nn

from gmkern.decode import SamplingParams, Transformer, TransformerConfig, generate
from gmkern.decode.transformer import packed
from tests.decode.small_models import build
from tests.decode.transformer_truth import CONFIGS


class Adapted(nn.Linear):
    """A linear with a low-rank addition, as LoRA implementations wrap one."""

    def __init__(self, base, generator):
        super().__init__(base.in_features, base.out_features, bias=False)
        self.weight = base.weight
        self.up = nn.Parameter(torch.randn(base.out_features, 2, generator=generator))
        self.down = nn.Parameter(torch.randn(2, base.in_features, generator=generator))

    def forward(self, x):
        return super().forward(x) + x @ self.down.t() @ self.up.t()


class Cold(Transformer):
    def forward(self, tokens, positions=None, cache=None):
        return -3 * super().forward(tokens, positions, cache)


class Plain(Transformer):
    def loss(self, tokens):
        return self(tokens).sum()


def adapt(model, generator):
    model.blocks[0].mlp.down = Adapted(model.blocks[0].mlp.down, generator)


def hook(model, generator):
    model.blocks[1].register_forward_hook(lambda module, given, out: 0.1 * out)


def own_forward(model, generator):
    model.blocks[0].mlp.forward = lambda x: -x


def longer(model, generator):
    model.blocks.append(copy.deepcopy(model.blocks[0]))


def shorter(model, generator):
    model.blocks = model.blocks[:1]


def pruned(model, generator):
    prune = nn.utils.prune
    prune.l1_unstructured(model.blocks[0].mlp.up, "weight", 0.5)
    model.blocks[0].mlp.up.weight_mask.copy_(1 - model.blocks[0].mlp.up.weight_mask)


def by_hand(model, prompt, count):
    """The greedy continuation by the module itself, over the whole sequence at each step."""
    tokens = prompt.clone()
    for _ in range(count):
        tokens = torch.cat([tokens, model(tokens[None])[0, -1].argmax().reshape(1)])
    return tokens[prompt.shape[0] :]


@pytest.mark.parametrize("change", [adapt, hook, own_forward, longer, shorter, pruned, Cold])
@torch.no_grad()
def test_an_altered_model_is_drawn_from_as_it_computes(change, generator):
    greedy = SamplingParams(temperature=0.0)
    model = build(kind=Cold) if change is Cold else build()
    prompt = torch.tensor([3, 5, 8])
    before = generate(build(), prompt[None], max_new_tokens=24, params=greedy).tokens[0]
    if change is not Cold:
        change(model, generator)
    want = by_hand(model, prompt, 24)
    assert not torch.equal(want, before)  # else the test could not fail
    assert torch.equal(generate(model, prompt[None], max_new_tokens=24, params=greedy).tokens[0], want)
    with pytest.raises(
        ValueError, match="backend 'cpu' cannot serve this call.*(takes the modules|runs neither hooks)"
    ):
        generate(model, prompt[None], max_new_tokens=2, params=greedy, backend="cpu")


@pytest.mark.parametrize("name", CONFIGS)
def test_a_model_as_made_is_the_engines(name):
    shape = {"vocab_size": 17, "n_layers": 2, "max_seq_len": 64, "bos_id": 1} | CONFIGS[name]
    assert packed.why_not(Transformer(TransformerConfig(**shape))) is None


def test_a_subclass_that_computes_the_same_and_shared_blocks_are_the_engines():
    model = build(kind=Plain)
    model.blocks[1] = model.blocks[0]
    drawn = generate(model, n=3, max_new_tokens=9, seed=1, backend="cpu")
    assert torch.equal(drawn.tokens, generate(model, n=3, max_new_tokens=9, seed=1, backend="reference").tokens)


def test_a_compiled_module_is_the_module():
    model = build()
    given = {"n": 3, "max_new_tokens": 9, "seed": 1, "backend": "cpu"}
    assert torch.equal(generate(torch.compile(model), **given).tokens, generate(model, **given).tokens)


def test_copies_and_pickles_leave_packed_weights_behind():
    model = build()
    size = len(pickle.dumps(model))
    drawn = generate(model, n=2, max_new_tokens=5, seed=1).tokens
    assert len(pickle.dumps(model)) == size
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert "_packed" not in vars(other)
        assert torch.equal(generate(other, n=2, max_new_tokens=5, seed=1).tokens, drawn)
