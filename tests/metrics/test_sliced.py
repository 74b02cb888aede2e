"""sliced_wasserstein against SciPy on a line, closed forms, and quantile functions in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import wasserstein_distance

from gmkern.metrics import sliced_wasserstein
from gmkern.random import PROJECTION, normal

EPS = 2.0**-52


def directions(seed: int, count: int, dim: int) -> np.ndarray:
    drawn = normal(seed, count, 0, dim, stream=PROJECTION, dtype=torch.float64).numpy()
    return drawn / np.linalg.norm(drawn, axis=1, keepdims=True)


@pytest.mark.parametrize(("n", "m"), [(40, 40), (40, 60), (7, 100), (1, 5), (30, 1)])
def test_scipy_along_each_line(n: int, m: int, rng: np.random.Generator) -> None:
    x, y = rng.normal(size=(n, 3)), rng.normal(size=(m, 3)) * 2
    lines = directions(5, 20, 3)
    want = np.mean([wasserstein_distance(x @ line, y @ line) for line in lines])
    assert float(sliced_wasserstein(x, y, seed=5, projections=20, p=1)) == pytest.approx(want, rel=200 * EPS)


@pytest.mark.parametrize("p", [1, 2, 3.5])
@pytest.mark.parametrize(("n", "m"), [(12, 12), (12, 18), (5, 7)])
def test_quantile_functions(n: int, m: int, p: float, rng: np.random.Generator) -> None:
    """Both sets repeated to n m points, where every quantile function has steps of one width."""
    x, y = rng.normal(size=(n, 4)), rng.normal(size=(m, 4)) + 1
    powers = []
    for line in directions(2, 9, 4):
        a, b = np.repeat(np.sort(x @ line), m), np.repeat(np.sort(y @ line), n)
        powers.append(np.mean(np.abs(a - b) ** p))
    want = np.mean(powers) ** (1 / p)
    assert float(sliced_wasserstein(x, y, seed=2, projections=9, p=p)) == pytest.approx(want, rel=500 * EPS)


def test_a_translation() -> None:
    """By c, each line sees <c, direction>, whose mean square is |c|^2 / D."""
    dim, count = 8, 4000
    x, c = torch.randn(30, dim, dtype=torch.float64), torch.randn(dim, dtype=torch.float64)
    got = float(sliced_wasserstein(x, x + c, seed=1, projections=count))
    seen = directions(1, count, dim) @ c.numpy()
    assert got == pytest.approx(np.sqrt(np.mean(seen**2)), rel=1e-10)
    # The squares' standard deviation is about sqrt(2) of their mean: five standard errors of the root.
    assert got == pytest.approx(float(c.norm()) / np.sqrt(dim), rel=5 * np.sqrt(2) / 2 / np.sqrt(count))


def test_blocks_and_more_projections(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = torch.randn(50, 6), torch.randn(70, 6)
    whole = sliced_wasserstein(x, y, seed=3, projections=64)
    monkeypatch.setattr("gmkern.metrics.sliced._NUMBERS", 500)
    # Products of 6 numbers in another order, then a mean of squares.
    torch.testing.assert_close(sliced_wasserstein(x, y, seed=3, projections=64), whole, rtol=12 * 2.0**-23, atol=0)
    assert not torch.equal(sliced_wasserstein(x, y, seed=4, projections=64), whole)


@pytest.mark.parametrize("p", [1, 2, 3])
@pytest.mark.parametrize("m", [6, 9])
def test_gradients(p: float, m: int) -> None:
    x, y = (torch.randn(n, 3, dtype=torch.float64, requires_grad=True) for n in (6, m))
    assert torch.autograd.gradcheck(lambda x, y: sliced_wasserstein(x, y, seed=0, projections=8, p=p), (x, y))


def test_equal_sets() -> None:
    x = torch.randn(20, 3, requires_grad=True)
    found = sliced_wasserstein(x, x.detach().flip(0), seed=0)
    assert float(found.detach()) == 0
    found.backward()
    assert torch.equal(x.grad, torch.zeros_like(x))


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"p": 0.5}, "^p: "),
        ({"projections": 0}, "^projections: "),
        ({"y": torch.zeros(3, 2)}, r"^y: .*\[N, 3\].*x"),
        ({"x": torch.full((3, 3), torch.inf)}, r"^x: got inf at \[0, 0\]"),
    ],
)
def test_bad_input(change: dict, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        sliced_wasserstein(**{"x": torch.randn(5, 3), "y": torch.randn(4, 3), "seed": 0, **change})
