"""prdc against float64 NumPy written from the definitions, the package prdc, and cases known by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gmkern.metrics import PRDC, prdc


def truth(real: np.ndarray, generated: np.ndarray, k: int, strict: bool) -> PRDC:
    """From the definitions, with every distance in float64."""

    def distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.sqrt(((a[:, None] - b[None]) ** 2).sum(-1))

    def radii(a: np.ndarray) -> np.ndarray:
        own = distances(a, a)
        np.fill_diagonal(own, np.inf)
        return np.sort(own, 1)[:, k - 1]

    cross = distances(real, generated)
    holds = np.less if strict else np.less_equal
    in_real = holds(cross, radii(real)[:, None])
    in_generated = holds(cross, radii(generated)[None, :])
    return PRDC(
        in_real.any(0).mean(),
        in_generated.any(1).mean(),
        in_real.sum(0).mean() / k,
        in_real.any(1).mean(),
    )


@pytest.mark.parametrize("k", [1, 3, 5, 20])
@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("dim", [1, 3, 17])
def test_definitions(k: int, strict: bool, dim: int, rng: np.random.Generator) -> None:
    real, generated = rng.normal(size=(130, dim)), 0.8 * rng.normal(size=(71, dim)) + 0.3
    got = prdc(real, generated, k, strict=strict)
    np.testing.assert_allclose(got, truth(real, generated, k, strict), rtol=1e-14)  # counts divided, and nothing else
    # Integer coordinates: ties in plenty, all exact.
    real, generated = rng.integers(-2, 3, (130, dim)) * 1.0, rng.integers(-2, 3, (71, dim)) * 1.0
    want = truth(real, generated, k, strict)
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        got = prdc(torch.from_numpy(real).to(dtype), torch.from_numpy(generated).to(dtype), k, strict=strict)
        np.testing.assert_allclose(got, want, rtol=1e-14)
    again = prdc(real, generated, k, strict=strict, backend="reference")
    assert again == prdc(real, generated, k, strict=strict)


@pytest.mark.parametrize("k", [1, 5])
def test_the_package_prdc(k: int, rng: np.random.Generator) -> None:
    package = pytest.importorskip("prdc")
    real, generated = rng.normal(size=(200, 6)), rng.normal(size=(150, 6)) * 0.9
    want = package.compute_prdc(real_features=real, fake_features=generated, nearest_k=k)
    got = prdc(real, generated, k)
    for name, value in want.items():
        assert getattr(got, name) == pytest.approx(value, rel=1e-12)


def test_one_set_twice() -> None:
    x = torch.randn(100, 4)
    for k in (1, 5):
        # Every ball holds its own centre, k - 1 points nearer than its radius (strict), and one at it.
        assert prdc(x, x, k) == PRDC(1.0, 1.0, 1.0, 1.0)
        assert prdc(x, x, k, strict=False) == PRDC(1.0, 1.0, (k + 1) / k, 1.0)


def test_sets_apart() -> None:
    x = torch.randn(100, 4)
    assert prdc(x, x + 1000) == PRDC(0.0, 0.0, 0.0, 0.0)


def test_identical_points() -> None:
    # The packages disagree here: balls of radius 0 hold nothing (strict) or everything at their centre.
    x = torch.ones(256, 3)
    assert prdc(x, x, 3) == PRDC(0.0, 0.0, 0.0, 0.0)
    assert prdc(x, x, 3, strict=False) == PRDC(1.0, 1.0, 256 / 3, 1.0)


def test_ties_at_the_radius() -> None:
    line = torch.arange(5.0)[:, None]
    # Each ball of radius 1 ends at the neighbours' centres.
    assert prdc(line, line + 1, 1).precision == 0.8
    assert prdc(line, line + 1, 1, strict=False).precision == 1.0


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        ({"k": 10}, ValueError, "^k: got 10.*9"),
        ({"k": 0}, ValueError, "^k: got 0"),
        ({"generated": torch.zeros(20, 4)}, ValueError, r"^generated: .*\[N, 3\].*real"),
        ({"generated": torch.zeros(20, 3).double()}, TypeError, "^generated: .*float32"),
        ({"real": torch.zeros(1, 3)}, ValueError, "^real: .*N >= 2"),
        ({"real": torch.zeros(10, 3, 1)}, ValueError, "^real: "),
        ({"generated": torch.tensor([[0.0, 1.0, torch.nan]] * 9)}, ValueError, r"^generated: got nan at \[0, 2\]"),
        ({"backend": "gpu"}, ValueError, "^backend: "),
        ({"strict": "no"}, TypeError, "^strict: got 'no'.*True or False"),
        ({"generated": torch.zeros(20, 3, device="meta")}, ValueError, "^generated: got a tensor on meta"),
        ({"real": torch.zeros(20, 3, device="meta")}, ValueError, "^real: got a tensor on meta"),
    ],
)
def test_bad_input(change: dict, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        prdc(**{"real": torch.randn(10, 3), "generated": torch.randn(20, 3), **change})
