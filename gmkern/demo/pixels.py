"""Decode: a transformer draws an image pixel by pixel, each from what the pixels so far make likely.

A sequence begins with the digit that it is to be, 0 to 9, and 64 grey levels, 0 to 16, follow: the first place tells
the one from the other, and every token is legal everywhere.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from gmkern.decode import SamplingParams, Transformer, TransformerConfig, generate, score
from gmkern.demo.digits import CLASSES, LEVELS, PIXELS, Digits, bits_of_levels
from gmkern.demo.training import Advance, fit

CONFIG = TransformerConfig(
    vocab_size=LEVELS,
    n_layers=3,
    n_heads=4,
    d_model=64,
    max_seq_len=1 + PIXELS,
    norm="layernorm",
    activation="gelu",
    position="learned",
    tie_embeddings=False,
)
PARAMS = SamplingParams(temperature=0.9, min_p=0.02)
# 1,300 images are few: each level the model reads is wrong with this chance, by at most this much. It still has to
# predict the true ones.
NOISE_CHANCE, NOISE_WIDTH = 0.3, 3


def train(digits: Digits, *, steps: int, seed: int, advance: Advance) -> Transformer:
    """A pixel transformer, by maximum likelihood."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Transformer(CONFIG)

        def loss(rows: Tensor) -> Tensor:
            images = digits.train[rows]
            logits = model(torch.cat([digits.train_labels[rows, None], _disturbed(images[:, :-1])], 1))
            return F.cross_entropy(logits.flatten(0, 1), images.flatten())

        fit(
            model,
            loss,
            rows=len(digits.train),
            batch=64,
            steps=steps,
            learning_rate=3e-3,
            weight_decay=0.05,
            average=0.98,
            advance=advance,
        )
    return model


def draw(model: Transformer, n: int, *, seed: int, backend: str | None = None) -> Tensor:
    """``n`` images [n, 64] of levels: 0, 1, ..., 9 in turn."""
    prompts = (torch.arange(n) % CLASSES).unsqueeze(1)
    return generate(model, prompts, max_new_tokens=PIXELS, params=PARAMS, seed=seed, backend=backend).tokens


def bits(model: Transformer, images: Tensor) -> Tensor:
    """Bits a pixel of images [N, 64], exact: -log2 of the mean of p(image | digit) over the ten digits, over 64."""
    lengths, given = torch.full((len(images),), PIXELS), []
    for digit in range(CLASSES):
        with torch.no_grad():
            logprobs = score(model, images, lengths, prompts=torch.full((len(images), 1), digit))
        assert isinstance(logprobs, Tensor)  # nothing else was asked for
        given.append(logprobs.double().sum(1))
    return bits_of_levels(torch.logsumexp(torch.stack(given), 0) - math.log(CLASSES))


def _disturbed(levels: Tensor) -> Tensor:
    """Levels with some of them changed a little."""
    shift = torch.randint(-NOISE_WIDTH, NOISE_WIDTH + 1, levels.shape) * (torch.rand(levels.shape) < NOISE_CHANCE)
    return (levels + shift).clamp(0, LEVELS - 1)
