"""vendi_score against entropies known by hand and eigenvalues of NumPy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from gmkern.metrics import vendi_score


@pytest.mark.parametrize("dim", [3, 40])
@pytest.mark.parametrize("q", [0.0, 0.5, 1.0, 2.0, math.inf])
def test_definition(dim: int, q: float, rng: np.random.Generator) -> None:
    """In both forms, [N, N] and [D, D]."""
    x = rng.normal(size=(25, dim))
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    values = np.linalg.eigvalsh(unit @ unit.T / 25).clip(0)
    if q == 0:
        want = np.linalg.matrix_rank(x)
    elif q == 1:
        want = np.exp(-np.sum(values[values > 0] * np.log(values[values > 0])))
    else:
        # Below order 1 what rounding leaves of zero eigenvalues counts: 22 times eps^(1/2) at D = 3.
        want = 1 / values.max() if q == math.inf else np.sum(values[values > 1e-12] ** q) ** (1 / (1 - q))
    assert vendi_score(x, q=q) == pytest.approx(want, rel=1e-5 if q == 0.5 else 1e-9)


@pytest.mark.parametrize("q", [0.0, 0.5, 1.0, 2.0, 3.5, 1e300, math.inf])
def test_kinds_are_counted(q: float) -> None:
    same = torch.ones(50, 8)
    # 49 eigenvalues that should be 0 are about eps; at order 1/2 each adds its root.
    loose = 49 * 2 * math.sqrt(50 * 2.0**-52) if q == 0.5 else 1e-9
    for kernel, bandwidth in (("cosine", None), ("rbf", 1.0), ("laplace", 1.0)):
        assert vendi_score(same, kernel=kernel, bandwidth=bandwidth, q=q) == pytest.approx(1, abs=loose)
    apart = torch.eye(12) * 1000
    for kernel, bandwidth in (("cosine", None), ("rbf", 1.0), ("laplace", 1.0)):
        assert vendi_score(apart, kernel=kernel, bandwidth=bandwidth, q=q) == pytest.approx(12, rel=1e-9)


def test_orders_are_hills_numbers() -> None:
    """Three kinds in shares 1/2, 1/4, 1/4."""
    x = torch.eye(3)[[0, 0, 1, 2]].repeat(10, 1)
    assert vendi_score(x) == pytest.approx(2**1.5, rel=1e-12)
    assert vendi_score(x, q=2) == pytest.approx(1 / (1 / 4 + 1 / 16 + 1 / 16), rel=1e-12)
    assert vendi_score(x, q=0) == 3
    assert vendi_score(x, q=math.inf) == pytest.approx(2, rel=1e-12)
    assert vendi_score(x, q=1 + 1e-6) == pytest.approx(2**1.5, rel=1e-5)


def test_radial_kernels_and_functions(rng: np.random.Generator) -> None:
    x = rng.normal(size=(30, 4))
    d = np.sqrt(((x[:, None] - x[None]) ** 2).sum(-1))
    for kernel, matrix in (("rbf", np.exp(-(d**2) / (2 * 0.7**2))), ("laplace", np.exp(-d / 0.7))):
        values = np.linalg.eigvalsh(matrix / 30).clip(1e-300)
        want = np.exp(-np.sum(values * np.log(values)))
        assert vendi_score(x, kernel=kernel, bandwidth=0.7) == pytest.approx(want, rel=1e-10)
        given = torch.from_numpy(matrix)
        assert vendi_score(x, kernel=lambda a, b, given=given: given) == pytest.approx(want, rel=1e-10)


def test_sizes_that_overflow_and_vanish() -> None:
    x = torch.eye(4, dtype=torch.float64) * torch.tensor([1e200, 1e-200, 1.0, 1e-300], dtype=torch.float64)
    assert vendi_score(x) == pytest.approx(4, rel=1e-12)


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        ({"points": torch.zeros(3, 2)}, ValueError, r"^points: got a row of zeros at \[0\]"),
        ({"kernel": "sigmoid"}, ValueError, "^kernel: "),
        ({"kernel": "rbf"}, TypeError, "^bandwidth: got None"),
        ({"kernel": "rbf", "bandwidth": 0.0}, ValueError, "^bandwidth: "),
        ({"bandwidth": 1.0}, ValueError, "^bandwidth: "),
        ({"q": -1.0}, ValueError, "^q: "),
        ({"q": "one"}, TypeError, "^q: "),
        ({"kernel": lambda x, y: x @ y.T}, ValueError, "ones on the diagonal"),
        ({"kernel": lambda x, y: torch.ones(2, 2)}, ValueError, r"shape \[5, 5\]"),
        ({"kernel": lambda x, y: torch.full((5, 5), torch.nan)}, ValueError, "finite"),
    ],
)
def test_bad_input(change: dict, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        vendi_score(**{"points": torch.randn(5, 3), **change})
