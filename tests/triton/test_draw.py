"""context.draw's Triton kernel, in the interpreter: the C++ kernel's indices, and the rows they name."""

from __future__ import annotations

import pytest
import torch

from gmkern import context


def same(train: torch.Tensor, n: int, size: int, **options) -> None:
    ours = context.draw(train, n, size, backend="triton", **options)
    theirs = context.draw(train, n, size, backend="cpu", **options)
    assert torch.equal(ours.indices, theirs.indices)
    assert ours.points.dtype == train.dtype
    assert ours.points.shape == theirs.points.shape
    assert torch.equal(ours.points.view(torch.uint8), theirs.points.view(torch.uint8))  # NaNs too, by their bits


@pytest.mark.parametrize(("m", "n", "size"), [(1, 3, 1), (5, 9, 5), (500, 7, 10), (70, 5, 33), (2**31 - 1, 4, 6)])
def test_indices(m, n, size):
    same(torch.zeros(1, dtype=torch.uint8).expand(m, 0) if m > 1000 else torch.randn(m, 3), n, size, seed=-7)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.int64, torch.bool, torch.int16])
def test_dtypes(dtype):
    made = torch.randint(0, 2, (11, 3, 7), generator=torch.Generator().manual_seed(0))
    same(made.to(dtype).transpose(1, 2), 6, 4, seed=1)


def test_rows_of_any_width():
    for width in (0, 1, 16, 257, 2000):
        train = torch.randn(20, width)
        train[3] = torch.nan
        same(train, 5, 6, seed=2)
    same(torch.arange(9), 4, 9, seed=2)


def test_seeds_and_ids_of_each_set():
    ids = torch.tensor([5, 0, -1, 2**62])
    same(torch.randn(30, 2), 4, 12, seed=torch.tensor([1, 1, 2, 3]), sample_ids=ids)
    same(torch.randn(30, 2), 0, 12, seed=0)


def test_larger_sets_are_refused():
    with pytest.raises(ValueError, match="up to 1024 points, got 1025"):
        context.draw(torch.randn(2000, 1), 1, 1025, seed=0, backend="triton")
