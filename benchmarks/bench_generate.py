"""generate beside Hugging Face's generate, CTranslate2 and a plain PyTorch loop: the same GPT-2 weights, greedy tokens.

A rival's tokens have to be ours (near ties may part: 98% of rows agree to their last token). Narrow formats of the
weights are tools of their own, held to gmkern's own scorer in that format: each token is its likeliest. What a case has
to move is the weights once a step, where they do not fit a cache, and what is read of the key-value cache.
"""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any, NamedTuple

import torch
from _case import OURS, Case, Point, Run, Tool, across
from _generate_rivals import Task, ctranslate2, torch_loop, transformers
from torch import Tensor

from gmkern.decode import SamplingParams, Transformer, TransformerConfig, generate, score

GREEDY = SamplingParams(temperature=0.0)
NARROW = {"gmkern, bfloat16": ("bfloat16", 2), "gmkern, int8": ("int8", 1)}  # bytes a weight
LEAST = 0.98
"""Of a rival's rows, the share whose tokens have to be ours."""
NEAR = 32 << 20  # bytes of weights that some cache holds
GPT2: dict[str, Any] = {
    "norm": "layernorm", "activation": "gelu_tanh", "position": "learned", "qkv_bias": True, "bias": True, "bos_id": 0,
}  # fmt: skip
MODELS = {
    "small": TransformerConfig(512, 4, 4, 128, 1024, **GPT2),
    "124M": TransformerConfig(50257, 12, 12, 768, 1024, **GPT2),
}


class Wanted(NamedTuple):
    model: str
    rows: int
    length: int
    shortest: int = 0  # rows end after lengths spread from here to ``length``; 0: all have one length

    def __str__(self) -> str:
        return f"generate, {self.model} B={self.rows} T={self.length}" + f" (from {self.shortest})" * bool(
            self.shortest
        )

    def lengths(self) -> Tensor:
        """[rows], evenly spread and shuffled."""
        spread = torch.linspace(self.shortest or self.length, self.length, self.rows).round().long()
        return spread[torch.randperm(self.rows, generator=torch.Generator().manual_seed(1))]


def task(wanted: Wanted) -> Task:
    """The model of a case, its prompts and its end tokens.

    Where rows end, the model counts: its head's row of token t is the embedding of token t - 1, so that the likeliest
    token is the next number, and 0, the end token, comes after as many tokens as the prompt says. The work is that of
    any model of its shape, and every rival draws the same lengths from the same weights.
    """
    torch.manual_seed(0)
    config = MODELS[wanted.model]
    model = Transformer(dataclasses.replace(config, tie_embeddings=not wanted.shortest)).eval().requires_grad_(False)
    model.embedding.weight *= 5  # logits far enough apart that greedy tokens are not near ties
    if not wanted.shortest:
        return Task(model, torch.arange(wanted.rows).unsqueeze(1) * 7 % config.vocab_size, wanted.length, [])
    model.head_weight.copy_(model.embedding.weight.roll(1, 0))
    for weight in (model.position_embedding.weight, *(p for p in model.blocks.parameters() if p.ndim == 2)):
        weight *= 0.05  # the stream keeps its token
    return Task(model, (config.vocab_size - wanted.lengths()).unsqueeze(1), wanted.length, [0])


def ours(weights: str, given: Task) -> Run:
    law = {"max_new_tokens": given.length, "params": GREEDY, "end_token": given.ends or None, "weights": weights}
    return lambda _: generate(given.model, given.prompts, **law).tokens


def check(wanted: Wanted, given: Task, tool: str, ours: Tensor, theirs: Tensor) -> None:
    lengths = wanted.lengths()
    seen = torch.arange(ours.shape[1]) < lengths[:, None]
    if tool == OURS or tool in NARROW:  # a token that is not the likeliest has the log-probability -inf
        weights = NARROW[tool][0] if tool in NARROW else "float32"
        said = score(given.model, theirs, lengths, prompts=given.prompts, params=GREEDY, weights=weights)
        assert (said[seen] == 0).all(), f"{tool}: not the likeliest tokens"
        return
    same = torch.zeros_like(ours)
    same[:, : theirs.shape[1]] = theirs
    agree = float(((same == ours) | ~seen).all(1).double().mean())
    assert agree >= LEAST, f"{tool}: {agree:.0%} of rows have our tokens"


def work(wanted: Wanted, size: int) -> tuple[float, float]:
    """Bytes and operations, with ``size`` bytes a weight."""
    c, lengths = MODELS[wanted.model], wanted.lengths().double()
    weights = c.n_layers * (4 * c.d_model**2 + 2 * c.d_model * c.d_ff) + c.vocab_size * c.d_model
    tokens, steps = float(lengths.sum()), float(lengths.max())
    pairs = float((lengths * (lengths + 1) / 2).sum())  # of a query and a position
    cache = 2 * c.n_layers * c.d_model
    streamed = weights * size if weights * size > NEAR else 0
    read = streamed * steps + 4 * cache * pairs * (4 * cache * wanted.rows * steps > NEAR)
    return read, 2 * weights * tokens + 2 * cache * pairs


def case(wanted: Wanted, *, narrow: bool = False, point: Point | None = None) -> Case:
    tools: dict[str, Tool] = {OURS: partial(ours, "float32")}
    tools |= {name: partial(ours, format) for name, (format, _) in NARROW.items() if narrow}
    tools |= {"torch loop": torch_loop, "transformers": transformers, "CTranslate2": ctranslate2}
    moved, flop = work(wanted, 4)
    by = {name: work(wanted, size)[0] for name, (_, size) in NARROW.items()}
    return Case(str(wanted), partial(task, wanted), tools, partial(check, wanted), moved, flop, by, point)


CASES = [
    case(Wanted("small", 16, 64)),
    case(Wanted("small", 1, 128)),
    case(Wanted("small", 256, 64)),
    case(Wanted("small", 128, 192, shortest=8)),
    case(Wanted("124M", 1, 32), narrow=True),
    case(Wanted("124M", 16, 12)),
    case(Wanted("124M", 256, 2)),
]
CURVES = [case(Wanted("small", rows, 32), point=Point("generate", "B", rows)) for rows in (1, 8, 64, 256)]
CURVES += [case(Wanted("small", 8, length), point=Point("generate", "T", length)) for length in (32, 96, 288)]


@across(CASES)
def test_generate(case, tool, raced):
    raced(case, tool)


@across(CURVES)
def test_generate_grows(case, tool, raced):
    raced(case, tool)
