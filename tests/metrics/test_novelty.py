"""novelty against float64 NumPy and SciPy, and cases known by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.stats import mannwhitneyu

from gmkern.metrics import novelty


def distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.sqrt(((a[:, None] - b[None]) ** 2).sum(-1))


@pytest.mark.parametrize("dim", [1, 4, 33])
@pytest.mark.parametrize("integers", [False, True])
def test_definitions(dim: int, integers: bool, rng: np.random.Generator) -> None:
    train, generated, holdout = (rng.normal(size=(n, dim)) * 2 for n in (120, 60, 45))
    if integers:
        train, generated, holdout = (np.round(a) for a in (train, generated, holdout))
    generated[:7] = train[20:27]
    got = novelty(generated, train, holdout=holdout)

    cross = distances(generated, train)
    ordered = np.sort(cross, 1)
    # at most ceil(33 / 16) + 8 roundings of float64
    np.testing.assert_allclose(got.distance.numpy(), ordered[:, 0], rtol=12 * 2.0**-52)
    np.testing.assert_array_equal(got.nearest.numpy(), cross.argmin(1))  # the first of several
    second = np.where(ordered[:, 0] == 0, 1, ordered[:, 1])
    np.testing.assert_allclose(got.ratio.numpy(), ordered[:, 0] / second, rtol=26 * 2.0**-52)

    own = distances(train, train)
    np.fill_diagonal(own, np.inf)
    assert got.authenticity == np.mean(cross.min(1) > own.min(1)[cross.argmin(1)])
    assert got.duplicates == (ordered[:, 0] == 0).sum() >= 7
    for tolerance in (0.5, 1.0):
        assert novelty(generated, train, tolerance=tolerance).duplicates == (ordered[:, 0] <= tolerance).sum()

    held = distances(holdout, train).min(1)
    u = mannwhitneyu(ordered[:, 0], held).statistic
    assert got.c_t == pytest.approx((u - 60 * 45 / 2) / math.sqrt(60 * 45 * 106 / 12), rel=1e-12)
    assert novelty(generated, train).c_t is None


def test_copies_and_their_sign() -> None:
    train, holdout = torch.randn(300, 5), torch.randn(200, 5)
    copies = novelty(train[:100], train, holdout=holdout)
    assert copies.duplicates == 100
    assert copies.authenticity == 0.0
    assert not copies.ratio.any()
    # Every generated sample is nearer than every held-out one: U = 0.
    assert copies.c_t == pytest.approx(-math.sqrt(3 * 100 * 200 / 301), rel=1e-12)
    far = novelty(torch.randn(100, 5) + 50, train, holdout=holdout)
    assert far.c_t == pytest.approx(math.sqrt(3 * 100 * 200 / 301), rel=1e-12)
    assert far.authenticity == 1.0
    assert far.duplicates == 0
    same = novelty(holdout, train, holdout=holdout)
    assert same.c_t == 0.0


def test_training_samples_that_repeat() -> None:
    train = torch.tensor([[0.0], [0.0], [5.0]])
    got = novelty(torch.tensor([[0.0], [1.0], [4.0]]), train)
    assert got.ratio.tolist() == [0.0, 1.0, 0.25]
    assert got.nearest.tolist() == [0, 0, 2]
    # Sample 0's own nearest is its copy, at 0: 1.0 is farther. Sample 2's is 5 away: 1.0 is not. A copy never is.
    assert got.authenticity == pytest.approx(1 / 3)


def test_the_distance_is_differentiable() -> None:
    train = torch.randn(50, 3, dtype=torch.float64)
    x = torch.randn(8, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: novelty(x, train).distance, (x,))
    copies = train[:4].clone().requires_grad_()
    got = novelty(copies, train)
    (got.distance.sum() + got.ratio.sum()).backward()
    assert torch.equal(copies.grad, torch.zeros_like(copies))


def test_backends_agree() -> None:
    x, y, h = (torch.randn(n, 20).to(torch.bfloat16) for n in (40, 90, 30))
    got, want = (novelty(x, y, holdout=h, backend=b) for b in ("cpu", "reference"))
    assert all(torch.equal(a, b) for a, b in zip(got[:3], want[:3], strict=True))
    assert got[3:] == want[3:]


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        ({"train": torch.zeros(1, 3)}, ValueError, "^train: .*N >= 2"),
        ({"generated": torch.zeros(0, 3)}, ValueError, "^generated: .*N >= 1"),
        ({"generated": torch.zeros(4, 2)}, ValueError, "^generated: .*train"),
        ({"holdout": torch.zeros(4, 2)}, ValueError, "^holdout: .*train"),
        ({"holdout": torch.full((4, 3), torch.inf)}, ValueError, r"^holdout: got inf at \[0, 0\]"),
        ({"tolerance": -1.0}, ValueError, "^tolerance: "),
        ({"tolerance": torch.nan}, ValueError, "^tolerance: "),
    ],
)
def test_bad_input(change: dict, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        novelty(**{"generated": torch.randn(10, 3), "train": torch.randn(20, 3), **change})
