"""frechet_distance against closed forms and SciPy's square root of a matrix; its extrapolation against NumPy's fit."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm

from gmkern.metrics import Moments, frechet_distance, frechet_distance_infinity, moments

EPS = 2.0**-52


@pytest.mark.parametrize("dim", [1, 2, 7, 40])
def test_definition(dim: int, rng: np.random.Generator) -> None:
    x = rng.normal(size=(300, dim)) @ rng.normal(size=(dim, dim)) + 3
    y = rng.normal(size=(200, dim)) @ rng.normal(size=(dim, dim)) - 1
    c, d = (np.cov(a, rowvar=False).reshape(dim, dim) for a in (x, y))
    root = sqrtm(c @ d).real
    want = np.sum((x.mean(0) - y.mean(0)) ** 2) + np.trace(c + d - 2 * root)
    # sqrtm of a product that is not symmetric loses its condition number: at most 1e6 here, roughly dim^4.
    assert frechet_distance(x, y) == pytest.approx(want, rel=1e-9)
    given = frechet_distance((x.mean(0), c), Moments(torch.from_numpy(y.mean(0)), torch.from_numpy(d)))
    assert given == pytest.approx(frechet_distance(x, y), rel=1e4 * dim * EPS)


def test_covariances_that_commute(rng: np.random.Generator) -> None:
    """Diagonal in one basis: the distance is that of the standard deviations."""
    dim = 30
    basis = np.linalg.qr(rng.normal(size=(dim, dim)))[0]
    a, b = rng.uniform(0.1, 5, (2, dim))
    mean = rng.normal(size=(2, dim))
    got = frechet_distance((mean[0], (basis * a**2) @ basis.T), (mean[1], (basis * b**2) @ basis.T))
    assert got == pytest.approx(np.sum((mean[0] - mean[1]) ** 2) + np.sum((a - b) ** 2), rel=100 * dim * EPS)


def test_singular_covariances(rng: np.random.Generator) -> None:
    """Fewer samples than dimensions. Rank one each: tr (C C')^(1/2) = |<u, v>|."""
    u, v = rng.normal(size=(2, 12))
    got = frechet_distance((np.zeros(12), np.outer(u, u)), (np.zeros(12), np.outer(v, v)))
    want = u @ u + v @ v - 2 * abs(u @ v)
    # Eigenvalues of the order D eps |C| stand for zeros, and roots are taken of them.
    size = u @ u + v @ v
    assert got == pytest.approx(want, abs=12 * np.sqrt(12 * EPS) * size)
    few = rng.normal(size=(10, 64))
    assert frechet_distance(few, few) == pytest.approx(0, abs=64 * np.sqrt(64 * EPS) * 64)
    assert frechet_distance(few, few + 2) == pytest.approx(4 * 64, abs=64 * np.sqrt(64 * EPS) * 64)
    constant = np.ones((5, 3))
    assert frechet_distance(constant, 3 * constant) == 12.0
    assert frechet_distance((np.ones(3), np.zeros((3, 3))), 3 * constant) == 12.0


def test_one_dimension_is_the_wasserstein_distance_of_gaussians(rng: np.random.Generator) -> None:
    x, y = rng.normal(size=(50, 1)), rng.normal(size=(80, 1)) * 3 + 1
    want = (x.mean() - y.mean()) ** 2 + (x.std(ddof=1) - y.std(ddof=1)) ** 2
    assert frechet_distance(x, y) == pytest.approx(want, rel=200 * EPS)
    # Far from the origin, in float32: as good as its inputs are.
    far = torch.from_numpy(x).float() + 1000
    assert frechet_distance(far, far.double()) == pytest.approx(0, abs=1e-12)


def test_moments_are_numpys_for_any_blocks(rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    x = rng.normal(size=(1000, 6)) + 1e4
    monkeypatch.setattr("gmkern.metrics._linalg._ROWS", 37)
    found = moments(x)
    np.testing.assert_allclose(found.mean, x.mean(0), rtol=10 * EPS)
    # Each of 1000 products of differences carries eps times the mean, 1e4, over the spread, 1.
    np.testing.assert_allclose(found.covariance, np.cov(x, rowvar=False), atol=1000 * 1e4 * EPS)


def test_the_extrapolation_removes_the_bias(rng: np.random.Generator) -> None:
    dim = 16
    truth = 0.25 * dim  # means 0.5 apart in each coordinate, the same covariance
    standard = (np.zeros(dim), np.eye(dim))
    found, plain = [], []
    for repeat in range(8):
        x = rng.normal(size=(4000, dim)) + 0.5
        one = frechet_distance_infinity(x, standard, seed=repeat)
        found.append(one.value)
        plain.append(one.distances[0])
        assert one.sizes[0] == 400
        assert one.sizes[-1] == 4000
        assert one.distances[-1] == pytest.approx(frechet_distance(x, standard), rel=1e-9)
    # Of n samples the mean's square is off by D / n and the roots by D (D + 1) / 4n or so: 0.2 at n = 400.
    assert np.mean(plain) - truth > 0.12
    # What the mean's own noise, 2 * 0.5 * sqrt(D / 4000), leaves of 8 repeats: 5 standard errors.
    assert np.mean(found) == pytest.approx(truth, abs=5 * np.sqrt(dim / 4000 / 8))


def test_the_fit_is_least_squares(rng: np.random.Generator) -> None:
    x, y = rng.normal(size=(500, 3)), rng.normal(size=(400, 3))
    sizes = [100, 150, 200, 300, 500]
    found = frechet_distance_infinity(x, y, seed=3, sizes=sizes)
    line, covariance = np.polyfit(1 / np.array(sizes), found.distances, 1, cov=True)
    assert found.value == pytest.approx(line[1], rel=1e-9)
    assert found.standard_error == pytest.approx(np.sqrt(covariance[1, 1]), rel=1e-9)
    # moments are products of PyTorch's, whose bits may change with where in memory its operands lie
    again = frechet_distance_infinity(x, moments(y), seed=3, sizes=sizes)
    assert again.sizes == found.sizes
    assert again.distances == pytest.approx(found.distances, rel=1e-9)
    assert again.value == pytest.approx(found.value, rel=1e-9)
    other = frechet_distance_infinity(x, y, seed=4, sizes=sizes)
    assert other.distances[0] != found.distances[0]


@pytest.mark.parametrize(
    ("x", "y", "text"),
    [
        (torch.zeros(1, 3), torch.zeros(5, 3), "^x: .*N >= 2"),
        (torch.zeros(5, 3), torch.zeros(5, 2), "^y: got 2 dimensions; takes 3"),
        (torch.zeros(5, 3), torch.full((5, 3), torch.nan), r"^y: got nan at \[0, 0\]"),
        ((torch.zeros(2), torch.zeros(3, 3)), torch.zeros(5, 2), "^x's covariance: .*shape"),
        ((torch.zeros(2), torch.tensor([[1.0, 1], [0, 1]])), torch.zeros(5, 2), "^x's covariance: .*symmetric"),
        ((torch.zeros(2), torch.diag(torch.tensor([1.0, -1]))), torch.zeros(5, 2), "^x's covariance: .*eigenvalue"),
        ((torch.zeros(2), torch.tensor([[1.0, 0], [0, torch.inf]])), torch.zeros(5, 2), r"inf at \[1, 1\]"),
        ((torch.zeros(2),), torch.zeros(5, 2), "^x: .*tuple of 1"),
    ],
)
def test_bad_input(x: object, y: object, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        frechet_distance(x, y)


@pytest.mark.parametrize("sizes", [[10, 20], [10, 10, 10], [1, 2, 3], [10, 20, 51]])
def test_bad_sizes(sizes: list[int]) -> None:
    with pytest.raises(ValueError, match="^sizes: "):
        frechet_distance_infinity(torch.randn(50, 2), torch.randn(50, 2), seed=0, sizes=sizes)
