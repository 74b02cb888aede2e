"""Sets of distinct points in plain PyTorch: the first steps of a Fisher-Yates shuffle, all sets side by side."""

from __future__ import annotations

import torch
from torch import Tensor

from gmkern.random import reference as noise
from gmkern.random.streams import CONTEXT


def below(count: int, high: Tensor, low: Tensor) -> Tensor:
    """floor(word count / 2^64) of 64-bit words given as halves; count < 2^31."""
    return (high * count + (low * count >> 32)) >> 32


def draw_sets(train: Tensor, seed: Tensor, sample_ids: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """As the op ``gmkern::draw_sets``: points [n, size, ...] and indices [n, size]."""
    step = torch.zeros((), dtype=torch.int64, device=train.device)
    words = noise.words(seed, sample_ids, step, 2 * size, CONTEXT).reshape(-1, size, 2)
    # Step i swaps places i and at[i] of 0 ... M - 1; what place at[i] then held is the set's point i. Only the places
    # that were swapped away from differ from the identity: held[j] is what step j put at place at[j].
    at = torch.empty(len(sample_ids), size, dtype=torch.int64, device=train.device)
    held, indices = torch.empty_like(at), torch.empty_like(at)

    def content(place: Tensor, steps: int) -> Tensor:
        value = place
        for j in range(steps):  # the last step that wrote there wins
            value = torch.where(at[:, j] == place, held[:, j], value)
        return value

    for i in range(size):
        place = i + below(train.shape[0] - i, words[:, i, 1], words[:, i, 0])
        indices[:, i] = content(place, i)
        held[:, i] = content(torch.full_like(place, i), i)
        at[:, i] = place
    return train[indices], indices
