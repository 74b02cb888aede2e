"""sinkhorn_divergence against a dense float64 iteration, assignments of SciPy, and closed forms."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment
from scipy.special import logsumexp

from gmkern.metrics import sinkhorn_divergence


def cost(a: np.ndarray, b: np.ndarray, p: int) -> np.ndarray:
    return np.sqrt(((a[:, None] - b[None]) ** 2).sum(-1)) ** p


def potentials(a: np.ndarray, b: np.ndarray, p: int, epsilon: float) -> tuple[np.ndarray, np.ndarray]:
    """After many plain iterations with the whole matrix."""
    c, n, m = cost(a, b, p), len(a), len(b)
    f, g = np.zeros(n), np.zeros(m)
    for _ in range(1500):
        f = -epsilon * logsumexp((g[None] - c) / epsilon - np.log(m), axis=1)
        g = -epsilon * logsumexp((f[:, None] - c) / epsilon - np.log(n), axis=0)
    return f, g


def entropic(a: np.ndarray, b: np.ndarray, p: int, epsilon: float) -> float:
    f, g = potentials(a, b, p, epsilon)
    return float(f.mean() + g.mean())


@pytest.mark.parametrize("p", [1, 2])
@pytest.mark.parametrize("epsilon", [0.2, 2.0])
def test_definition(p: int, epsilon: float, rng: np.random.Generator) -> None:
    x, y = rng.normal(size=(25, 3)), rng.normal(size=(40, 3)) + 0.7
    want = entropic(x, y, p, epsilon) - (entropic(x, x, p, epsilon) + entropic(y, y, p, epsilon)) / 2
    got = float(sinkhorn_divergence(x, y, epsilon=epsilon, p=p, tolerance=1e-7))
    # Marginals off by 1e-7 move each of three duals by at most that times the potentials, which are below the cost.
    assert got == pytest.approx(want, abs=3e-7 * cost(x, y, p).max())
    rough = float(sinkhorn_divergence(x, y, epsilon=epsilon, p=p))
    assert rough == pytest.approx(want, abs=1e-3 * cost(x, y, p).max())
    single = sinkhorn_divergence(x.astype("f4"), y.astype("f4"), epsilon=epsilon, p=p)
    assert single.dtype == torch.float32
    assert float(single) == pytest.approx(want, abs=1e-3 * cost(x, y, p).max())


@pytest.mark.parametrize("p", [1, 2])
def test_small_epsilon_is_the_assignment(p: int, rng: np.random.Generator) -> None:
    x, y = rng.normal(size=(15, 2)), rng.normal(size=(15, 2)) + 2
    c = cost(x, y, p)
    best = c[linear_sum_assignment(c)].mean()
    epsilon = 0.1
    got = float(sinkhorn_divergence(x, y, epsilon=epsilon, p=p))
    # The entropy of a plan is between that of its marginals and twice that: each term is off by at most epsilon log N.
    assert got == pytest.approx(best, abs=epsilon * np.log(15) + 1e-3 * c.max())


@pytest.mark.parametrize("p", [1, 2])
def test_large_epsilon_is_the_energy_distance(p: int, rng: np.random.Generator) -> None:
    x, y = rng.normal(size=(20, 2)), rng.normal(size=(30, 2)) + 1
    want = cost(x, y, p).mean() - (cost(x, x, p).mean() + cost(y, y, p).mean()) / 2
    # The next term is of the order of the cost's variance over epsilon.
    epsilon = 1e5
    got = float(sinkhorn_divergence(x, y, epsilon=epsilon, p=p, tolerance=1e-12))
    assert got == pytest.approx(want, abs=2 * cost(x, y, p).max() ** 2 / epsilon)


def test_points_and_translations() -> None:
    x, y = torch.zeros(1, 3), torch.tensor([[3.0, 0.0, 4.0]])
    assert float(sinkhorn_divergence(x, y, epsilon=0.1)) == pytest.approx(25, rel=1e-6)
    assert float(sinkhorn_divergence(x, y, epsilon=0.1, p=1)) == pytest.approx(5, rel=1e-6)
    cloud, by = torch.randn(30, 3, dtype=torch.float64), torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    found = sinkhorn_divergence(cloud, cloud + by, epsilon=2.0, tolerance=1e-8)
    assert float(found) == pytest.approx(float(by.square().sum()), abs=1e-6)  # for squares, whatever epsilon is
    same = sinkhorn_divergence(cloud, cloud.flip(0), epsilon=2.0, tolerance=1e-8)
    assert float(same) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("p", [1, 2])
def test_gradients_are_those_of_the_plans(p: int, rng: np.random.Generator) -> None:
    """At the optimum the gradient of a transport is the plan's mean of the cost's gradient."""
    epsilon = 1.5

    def pull(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """The gradient of OT(a, b) with respect to a."""
        f, g = potentials(a, b, p, epsilon)
        plan = np.exp((f[:, None] + g[None] - cost(a, b, p)) / epsilon) / (len(a) * len(b))
        off = a[:, None] - b[None]
        length = np.linalg.norm(off, axis=2, keepdims=True)
        slope = 2 * off if p == 2 else off / np.where(length == 0, 1, length)
        return (plan[..., None] * slope).sum(1)

    x, y = rng.normal(size=(8, 2)), rng.normal(size=(11, 2)) + 0.5
    inputs = [torch.from_numpy(one).requires_grad_() for one in (x, y)]
    sinkhorn_divergence(*inputs, epsilon=epsilon, p=p, tolerance=1e-9).backward()
    # OT(x, x) depends on x twice, so half of it once.
    np.testing.assert_allclose(inputs[0].grad, pull(x, y) - pull(x, x), atol=1e-8)
    np.testing.assert_allclose(inputs[1].grad, pull(y, x) - pull(y, y), atol=1e-8)


def test_it_says_when_it_has_not_converged() -> None:
    x, y = torch.randn(30, 2), torch.randn(30, 2) + 3
    with pytest.raises(RuntimeError, match=r"^max_iterations: got 2, after which marginals are off by .*0.01\)"):
        sinkhorn_divergence(x, y, epsilon=0.01, max_iterations=2)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"epsilon": 0.0}, "^epsilon: "),
        ({"p": 3}, "^p: got 3"),
        ({"tolerance": 0.0}, "^tolerance: "),
        ({"max_iterations": 0}, "^max_iterations: "),
        ({"y": torch.zeros(3, 2)}, r"^y: .*\[N, 3\].*x"),
    ],
)
def test_bad_input(change: dict, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        sinkhorn_divergence(**{"x": torch.randn(5, 3), "y": torch.randn(4, 3), "epsilon": 1.0, **change})
