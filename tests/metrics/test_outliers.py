"""Local outlier factors and k-NN anomaly scores against scikit-learn and float64 NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.neighbors import LocalOutlierFactor

from gmkern.metrics import knn_anomaly_score, local_outlier_factor


@pytest.mark.parametrize("dim", [1, 3, 20])
@pytest.mark.parametrize("k", [1, 5, 20])
def test_scikit_learn(dim: int, k: int, rng: np.random.Generator) -> None:
    x, new = rng.normal(size=(150, dim)), rng.normal(size=(40, dim)) * 2
    model = LocalOutlierFactor(n_neighbors=k).fit(x)
    # It adds 1e-10 to mean reachabilities: to one above the bar and one below, each at least the smallest distance.
    rtol = 2e-10 / float(knn_anomaly_score(x, k=1).min()) + 1e-13
    np.testing.assert_allclose(local_outlier_factor(x, k=k), -model.negative_outlier_factor_, rtol=rtol)
    model = LocalOutlierFactor(n_neighbors=k, novelty=True).fit(x)
    np.testing.assert_allclose(local_outlier_factor(new, x, k=k), -model.score_samples(new), rtol=rtol)


def test_a_lattice_and_an_outlier() -> None:
    line = torch.arange(40.0)[:, None]
    inner = local_outlier_factor(line, k=2)[5:-5]
    assert torch.equal(inner, torch.ones(30))  # everywhere as dense
    # From 49, neighbours 39 and 38: R = (10 + 11) / 2. Theirs are (1 + 2) / 2: of 39 by 38 and 37, and of 38 by 37, and
    # 39, whose second neighbour is 2 away.
    far = local_outlier_factor(torch.tensor([[49.0]]), line, k=2)
    assert float(far) == pytest.approx(7, rel=1e-6)


def test_copies() -> None:
    x = torch.tensor([[0.0], [0.0], [0.0], [7.0]])
    found = local_outlier_factor(x, k=2)
    assert found.tolist() == [1.0, 1.0, 1.0, torch.inf]
    assert local_outlier_factor(torch.zeros(1, 1), x, k=2).tolist() == [1.0]


@pytest.mark.parametrize("k", [1, 4])
def test_distances_to_neighbours(k: int, rng: np.random.Generator) -> None:
    x, y = rng.normal(size=(60, 5)), rng.normal(size=(80, 5))
    cross = np.sort(np.sqrt(((x[:, None] - y[None]) ** 2).sum(-1)), 1)[:, :k]
    rtol = 9 * 2.0**-52
    np.testing.assert_allclose(knn_anomaly_score(x, y, k), cross[:, -1], rtol=rtol)
    np.testing.assert_allclose(knn_anomaly_score(x, y, k, reduction="mean"), cross.mean(1), rtol=2 * rtol)
    own = np.sort(np.sqrt(((x[:, None] - x[None]) ** 2).sum(-1)), 1)[:, k]  # the first is the point itself
    np.testing.assert_allclose(knn_anomaly_score(x, k=k), own, rtol=rtol)


def test_the_score_is_differentiable() -> None:
    x, y = (torch.randn(n, 3, dtype=torch.float64, requires_grad=True) for n in (6, 9))
    for reduction in ("largest", "mean"):
        assert torch.autograd.gradcheck(lambda x, y, r=reduction: knn_anomaly_score(x, y, 3, reduction=r), (x, y))


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda x: local_outlier_factor(x, k=10), "^k: got 10.*<= 9"),
        (lambda x: local_outlier_factor(x[:3], x, k=10), "^k: got 10.*<= 9"),
        (lambda x: local_outlier_factor(x, x[:, :2], k=1), r"^points: .*\[N, 2\].*references"),
        (lambda x: local_outlier_factor(x[:1], k=1), "^points: .*N >= 2"),
        (lambda x: knn_anomaly_score(x, x, k=11), "^k: got 11.*<= 10"),
        (lambda x: knn_anomaly_score(x, k=0), "^k: got 0"),
        (lambda x: knn_anomaly_score(x, reduction="sum"), "^reduction: "),
        (lambda x: knn_anomaly_score(x * torch.nan), r"^points: got nan at \[0, 0\]"),
    ],
)
def test_bad_input(call: object, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        call(torch.randn(10, 3))
