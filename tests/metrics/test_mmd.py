"""mmd and kid against float64 NumPy written from the definitions, and SciPy's energy distance."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy.stats import energy_distance

from gmkern.metrics import kid, mmd
from gmkern.metrics._resampling import KID_FIRST, KID_SECOND, subset

Matrix = Callable[[np.ndarray, np.ndarray], np.ndarray]


def distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.sqrt(((a[:, None] - b[None]) ** 2).sum(-1))


KERNELS: dict[str, Matrix] = {
    "rbf": lambda a, b: np.exp(-(distances(a, b) ** 2) / (2 * 1.3**2)),
    "laplace": lambda a, b: np.exp(-distances(a, b) / 1.3),
    "rational_quadratic": lambda a, b: 1 / (1 + distances(a, b) ** 2 / (2 * 1.3**2)),
    "inverse_multiquadric": lambda a, b: (1 + distances(a, b) ** 2 / 1.3**2) ** -0.5,
    "energy": lambda a, b: -distances(a, b),
    "polynomial": lambda a, b: (a @ b.T / a.shape[1] + 1) ** 3,
}
SCALED = ("rbf", "laplace", "rational_quadratic", "inverse_multiquadric")


def truth(kernel: Matrix, x: np.ndarray, y: np.ndarray, unbiased: bool) -> float:
    def mean(a: np.ndarray) -> float:
        matrix = kernel(a, a)
        if not unbiased:
            return float(matrix.mean())
        return float((matrix.sum() - np.trace(matrix)) / (len(a) * (len(a) - 1)))

    return mean(x) + mean(y) - 2 * float(kernel(x, y).mean())


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("estimator", ["unbiased", "biased"])
def test_definition(kernel: str, estimator: str, rng: np.random.Generator) -> None:
    x, y = rng.normal(size=(50, 4)), rng.normal(size=(70, 4)) + 0.5
    y[:3] = x[:3]
    options = {"bandwidth": 1.3} if kernel in SCALED else {}
    want = truth(KERNELS[kernel], x, y, estimator == "unbiased")
    size = np.abs(KERNELS[kernel](x, y)).mean()
    got = float(mmd(x, y, kernel=kernel, estimator=estimator, **options))
    # Means of kernels: a few dozen roundings of each, its exponential's error included, none beyond the mean's size.
    assert got == pytest.approx(want, abs=64 * 2.0**-52 * 4 * size)
    got = float(mmd(x.astype("f4"), y.astype("f4"), kernel=kernel, estimator=estimator, **options))
    assert got == pytest.approx(want, abs=64 * 2.0**-24 * 4 * size)


def test_blocks(rng: np.random.Generator) -> None:
    x, y = rng.normal(size=(53, 3)), rng.normal(size=(41, 3)) + 1
    for size, used in ((10, 10), (None, 6)):  # the root of 41 is 6.4
        count = 41 // used
        parts = [slice(at * used, (at + 1) * used) for at in range(count)]
        want = np.mean([truth(KERNELS["rbf"], x[part], y[part], True) for part in parts])
        got = mmd(x, y, bandwidth=1.3, estimator="block", block_size=size)
        assert float(got) == pytest.approx(want, abs=1e-13)


def test_bandwidths(rng: np.random.Generator) -> None:
    x, y = rng.normal(size=(30, 3)), rng.normal(size=(44, 3))
    several = [float(mmd(x, y, bandwidth=h)) for h in (0.5, 1.0, 4.0)]
    assert float(mmd(x, y, bandwidth=[0.5, 1.0, 4.0])) == pytest.approx(np.mean(several), rel=1e-12)
    pooled = np.concatenate([x, y])
    every = distances(pooled, pooled)[np.triu_indices(74, 1)]
    ordered = np.sort(every)
    assert float(mmd(x, y)) == float(mmd(x, y, bandwidth=ordered[(len(ordered) - 1) // 2]))  # the lower median
    many = torch.randn(5000, 2)
    assert torch.isfinite(mmd(many, many + 1, estimator="block"))


def test_the_energy_distance_is_scipys(rng: np.random.Generator) -> None:
    x, y = rng.normal(size=(80, 1)), rng.normal(size=(50, 1)) + 2
    want = energy_distance(x[:, 0], y[:, 0]) ** 2
    assert float(mmd(x, y, kernel="energy", estimator="biased")) == pytest.approx(want, rel=1e-12)


def test_unbiased_is_unbiased(rng: np.random.Generator) -> None:
    """Of equal distributions its mean is 0 within five standard errors; the biased one's is above 2 (1 - E k) / n."""
    found = [[float(mmd(*rng.normal(size=(2, 20, 2)), bandwidth=1.0, estimator=e)) for _ in range(60)]
             for e in ("unbiased", "biased")]  # fmt: skip
    assert abs(np.mean(found[0])) < 5 * np.std(found[0]) / np.sqrt(60)
    assert min(found[0]) < 0 < min(found[1])
    assert np.mean(found[1]) > 0.03


@pytest.mark.parametrize("estimator", ["unbiased", "biased", "block"])
@pytest.mark.parametrize("kernel", ["rbf", "laplace", "energy", "polynomial"])
def test_gradients(kernel: str, estimator: str) -> None:
    x, y = (torch.randn(n, 2, dtype=torch.float64, requires_grad=True) for n in (6, 8))
    options = {"bandwidth": 0.8} if kernel in SCALED else {}
    assert torch.autograd.gradcheck(lambda x, y: mmd(x, y, kernel=kernel, estimator=estimator, **options), (x, y))


def test_kid_is_the_mean_of_its_subsets(rng: np.random.Generator) -> None:
    x, y = rng.normal(size=(90, 5)), rng.normal(size=(60, 5)) * 1.2
    found = kid(x, y, seed=9, subsets=12, subset_size=40)
    want = [
        truth(
            KERNELS["polynomial"],
            x[subset(90, 40, number, seed=9, purpose=KID_FIRST)],
            y[subset(60, 40, number, seed=9, purpose=KID_SECOND)],
            True,
        )
        for number in range(12)
    ]
    np.testing.assert_allclose(found.values, want, atol=1e-12)
    assert found.mean == pytest.approx(np.mean(want), rel=1e-10)
    assert found.std == pytest.approx(np.std(want), rel=1e-10)
    assert torch.equal(kid(x, y, seed=9, subsets=5, subset_size=40).values, found.values[:5])
    assert not torch.equal(kid(x, y, seed=8, subsets=12, subset_size=40).values, found.values)


def test_kid_tells_sets_apart() -> None:
    x = torch.randn(800, 16)
    same, other = kid(x[:400], x[400:], seed=0, subset_size=200), kid(x[:400] * 1.3, x[400:], seed=0, subset_size=200)
    assert abs(same.mean) < 0.1
    assert other.mean > 5 * abs(same.mean)


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        ({"kernel": "sigmoid"}, ValueError, "^kernel: "),
        ({"estimator": "best"}, ValueError, "^estimator: "),
        ({"bandwidth": 0.0}, ValueError, "^bandwidth: "),
        ({"bandwidth": "mean"}, ValueError, "^bandwidth: "),
        ({"bandwidth": []}, ValueError, "^bandwidth: "),
        ({"x": torch.ones(5, 3), "y": torch.ones(4, 3)}, ValueError, '^bandwidth: got "median"'),
        ({"block_size": 2}, ValueError, "^block_size: "),
        ({"estimator": "block", "block_size": 5}, ValueError, "^block_size: got 5.*<= 4"),
        ({"y": torch.zeros(1, 3)}, ValueError, "^y: .*N >= 2"),
        ({"y": torch.full((4, 3), torch.nan)}, ValueError, r"^y: got nan at \[0, 0\]"),
    ],
)
def test_bad_input(change: dict, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        mmd(**{"x": torch.randn(5, 3), "y": torch.randn(4, 3), **change})


@pytest.mark.parametrize("change", [{"subset_size": 6}, {"subset_size": 1}, {"subsets": 0}])
def test_bad_subsets(change: dict) -> None:
    with pytest.raises(ValueError, match=f"^{next(iter(change))}: "):
        kid(torch.randn(9, 3), torch.randn(5, 3), **{"seed": 0, "subset_size": 3, **change})
