"""duplicates against every pair in float64, and copies that are planted."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch

from gmkern.metrics import duplicates


@pytest.mark.parametrize("tolerance", [0.0, 1.0, 1.5, 3.0])
@pytest.mark.parametrize("room", [1 << 22, 64])
def test_every_pair(tolerance: float, room: int, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["gmkern.metrics.duplicates"], "_FOUND", room)
    x, y = (rng.integers(-2, 3, (n, 3)).astype(float) for n in (60, 90))  # distances are exact, ties in plenty
    cross = np.sqrt(((x[:, None] - y[None]) ** 2).sum(-1))
    found = duplicates(x, y, tolerance=tolerance)
    want = sorted((i, cross[i, j], j) for i, j in zip(*np.nonzero(cross <= tolerance), strict=True))
    assert len(want) > 20
    assert list(zip(found.rows.tolist(), found.distances.tolist(), found.matches.tolist(), strict=True)) == want

    own = np.sqrt(((x[:, None] - x[None]) ** 2).sum(-1))
    found = duplicates(x, tolerance=tolerance)
    want = sorted((i, own[i, j], j) for i, j in zip(*np.nonzero(own <= tolerance), strict=True) if i < j)
    assert list(zip(found.rows.tolist(), found.distances.tolist(), found.matches.tolist(), strict=True)) == want


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_zero_is_exact(dtype: torch.dtype) -> None:
    train = (torch.randn(500, 64) + 100).to(dtype)
    x = train[100:110].clone()
    x[5, 7] += 1  # not a copy any more
    found = duplicates(x, train)
    assert found.rows.tolist() == [0, 1, 2, 3, 4, 6, 7, 8, 9]
    assert found.matches.tolist() == [100, 101, 102, 103, 104, 106, 107, 108, 109]
    assert not found.distances.any()
    assert len(duplicates(x, train, tolerance=1.0).rows) >= 10


def test_none_is_empty() -> None:
    found = duplicates(torch.arange(5.0)[:, None])
    assert [part.shape for part in found] == [torch.Size([0])] * 3
    assert found.rows.dtype == torch.int64


def test_bad_input() -> None:
    with pytest.raises(ValueError, match="^tolerance: got -1.0"):
        duplicates(torch.zeros(2, 2), tolerance=-1.0)
    with pytest.raises(ValueError, match="^references: .*points"):
        duplicates(torch.zeros(2, 2), torch.zeros(2, 3))
