"""Grids of launches on large shapes: a GPU's second and third axes end at 65,535, unlike the interpreter's."""

from __future__ import annotations

import pytest
import torch
from triton.runtime.interpreter import GridExecutor

from gmkern.context.draw import triton_kernels as draw_kernels
from gmkern.decode.attention import triton_kernels as attention_kernels
from gmkern.decode.sample import triton_kernels as sample_kernels
from gmkern.latent.sample import triton_kernels as latent_kernels
from gmkern.neighbors.count_within import triton_kernels as count_kernels
from gmkern.neighbors.kernel_sum import triton_kernels as sum_kernels
from gmkern.neighbors.knn import triton_kernels as knn_kernels
from gmkern.random import triton_kernels as noise_kernels

MANY = 70_000


@pytest.fixture
def grids(monkeypatch):
    """The grids that are asked for; nothing runs."""
    asked: list[tuple[int, ...]] = []
    monkeypatch.setattr(GridExecutor, "__call__", lambda self, *_, **__: asked.append(tuple(self.grid)))
    return asked


def points(batch: int, n: int, m: int, dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.zeros(batch, n, 1, dtype=dtype), torch.zeros(batch, m, 1, dtype=dtype)


def summed(batch: int, n: int, m: int) -> None:
    numbers = [torch.ones(batch, m)] * 2
    x, y = points(batch, n, m)
    sums = sum_kernels.kernel_sum(x, y, *numbers, None, 0, 1.0, 0.0, 1, False)
    sum_kernels.kernel_sum_backward(sums, sums, x, y, *numbers, None, 0, 1.0, 0.0, 1, False, True, True)


def attended(batch: int, asked: int) -> None:
    q, cache = torch.zeros(batch, asked, 1, 1), torch.zeros(1, 1, 1, 1).expand(batch, 300, 1, 1)
    lengths = torch.zeros(batch, dtype=torch.int32)
    attention_kernels.attention(q, cache, cache, lengths, None, None, None, None, 0, 0.0, 1.0)


IDS, SEED = torch.arange(MANY), torch.tensor(0)
CALLS = {
    "a batch of searches": lambda: knn_kernels.knn(*points(MANY, 1, 2), 1, 0, False, 0, 1),
    "many queries of few": lambda: knn_kernels.knn(*points(1, 20 * MANY, 2), 1, 0, False, 0, 1),
    "many queries, sorted": lambda: knn_kernels.knn(*points(1, 20 * MANY, 2, torch.float64), 1, 0, False, 0, 1),
    "many references": lambda: knn_kernels.knn(*points(1, 2, 20 * MANY), 1, 0, False, 0, 1),
    "many references, sorted": lambda: knn_kernels.knn(*points(1, 2, 20 * MANY), 65, 2, False, 0, 1),
    "a batch of counts": lambda: count_kernels.count_within(
        *points(MANY, 1, 2), torch.ones(MANY, 1), False, False, False, 1
    ),
    "a batch of sums": lambda: summed(MANY, 1, 2),
    "sums of many": lambda: summed(1, 20 * MANY, 1),
    "a batch of queries": lambda: attended(MANY, 1),
    "long prompts": lambda: attended(1, 20 * MANY),
    "noise": lambda: noise_kernels.noise(SEED, IDS, SEED, 1, 0, 0, False),
    "long noise": lambda: noise_kernels.noise(SEED, IDS[:1], SEED, 1024 * MANY, 0, 0, False),
    "sets": lambda: draw_kernels.draw_sets(torch.zeros(3, 1), SEED, IDS, 2),
    "networks": lambda: latent_kernels.latent_mlp(SEED, IDS, [torch.zeros(1, 1)], [torch.zeros(1)], [0], [0.0]),
    "wide networks": lambda: latent_kernels.latent_mlp(
        SEED, IDS[:1], [torch.zeros(64 * 400, 1)], [torch.zeros(64 * 400)], [0], [0.0]
    ),
    "rows of logits": lambda: sample_kernels.sample(
        torch.zeros(MANY, 1), torch.zeros(1, 10, dtype=torch.float64), None, None, SEED, IDS, SEED
    ),
}


@pytest.mark.parametrize("name", CALLS)
def test_grids_are_those_that_a_gpu_has(grids, name):
    CALLS[name]()
    assert grids
    for grid in grids:
        first, *others = grid
        assert 1 <= first < 1 << 31
        assert all(1 <= extent <= 65_535 for extent in others)
