"""realism against float64 NumPy written from the definition."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gmkern.metrics import prdc, realism


def truth(real: np.ndarray, generated: np.ndarray, k: int) -> np.ndarray:
    def distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.sqrt(((a[:, None] - b[None]) ** 2).sum(-1))

    own = distances(real, real)
    np.fill_diagonal(own, np.inf)
    radii = np.sort(own, 1)[:, k - 1]
    kept = radii <= np.median(radii)
    cross = distances(generated, real[kept])
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(cross == 0, np.inf, radii[kept] / cross).max(1)


@pytest.mark.parametrize("dim", [1, 2, 12, 40])
@pytest.mark.parametrize("k", [1, 3, 10])
def test_definition(dim: int, k: int, rng: np.random.Generator) -> None:
    # Radii of very different sizes: some samples are crowded, and distances to those matter.
    real = rng.normal(size=(257, dim)) * rng.choice([0.01, 0.3, 1.0], (257, 1))
    generated = np.concatenate([rng.normal(size=(80, dim)), real[:5], real[5:20] + 1e-3])
    # A radius and a distance, each of at most ceil(40 / 16) + 8 roundings, and their quotient.
    np.testing.assert_allclose(realism(real, generated, k), truth(real, generated, k), rtol=24 * 2.0**-52)


def test_ties_and_radii_of_zero(rng: np.random.Generator) -> None:
    real, generated = (rng.integers(0, 4, (n, 2)).astype(float) for n in (100, 60))
    for k in (1, 8):
        np.testing.assert_allclose(realism(real, generated, k), truth(real, generated, k), rtol=2**-50)
    ones = torch.ones(20, 3)
    assert realism(ones, ones[:2]).tolist() == [torch.inf] * 2
    assert realism(ones, torch.zeros(2, 3)).tolist() == [0.0] * 2


def test_at_least_one_is_in_some_ball() -> None:
    real, generated = torch.randn(400, 3), torch.randn(200, 3) * 1.5
    share = float((realism(real, generated, 3) >= 1).double().mean())
    assert 0 < share <= prdc(real, generated, 3, strict=False).precision  # half of the balls count


def test_bad_input() -> None:
    with pytest.raises(ValueError, match="^k: got 10.*<= 9"):
        realism(torch.randn(10, 2), torch.randn(3, 2), 10)
    with pytest.raises(ValueError, match=r"^generated: .*\[N, 2\].*real"):
        realism(torch.randn(10, 2), torch.randn(3, 3))
