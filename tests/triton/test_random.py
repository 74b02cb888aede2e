"""The Triton kernel of the noise contract, in the interpreter, against the reference."""

from __future__ import annotations

import pytest
import torch

import gmkern
from gmkern.random import reference, streams

KINDS = ("uniform", "normal", "gumbel")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n", [1, 5, 64, 1001, 5001])
def test_equals_reference(kind, dtype, n):
    ids = torch.tensor([0, -5, 1 << 40])
    seeds = torch.tensor([1, -3, 1 << 62])
    steps = torch.tensor([0, 3, (1 << 32) - 1])
    draw = getattr(gmkern.random, kind)
    ours = draw(seeds, ids, steps, n, dtype=dtype, backend="triton")
    assert torch.equal(ours, draw(seeds, ids, steps, n, dtype=dtype, backend="reference"))


def test_rare_tail_words_are_refined():
    """A row known to hold a word below 256 (found by the reference), drawn around it."""
    n, ids, at = 1 << 16, torch.arange(256), torch.tensor(0)
    words = reference.words(torch.tensor(5), ids, at, n, 0)
    row, element = (int(i) for i in torch.nonzero(words < 256)[0])
    drawn = gmkern.random.gumbel(5, ids[row : row + 1], 0, element + 1, backend="triton")[0, element]
    second = reference.words(torch.tensor(5), ids[row : row + 1], at, element + 1, streams.TAIL)[0, element]
    assert drawn == reference.gumbel_from_word(words[row, element], second)
