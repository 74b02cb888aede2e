"""The engine's elementary functions (csrc/common/vector_math.h, the baseline build) against SciPy in float64."""

import numpy as np
import pytest
from scipy import special

host = pytest.importorskip("gmkern._host", reason="built with GMKERN_HOST=OFF")


def numbers(low, high):
    """Floats spread over [low, high], and the smaller ones near 0."""
    spread = np.linspace(low, high, 400_000)
    small = np.geomspace(1e-30, max(abs(low), high), 56_000)
    both = np.concatenate([spread, small, -small])
    return both[(both >= low) & (both <= high)].astype(np.float32)


def ulps(got, truth):
    return np.abs(got.astype(np.float64) - truth) / np.spacing(np.abs(truth).astype(np.float32)).astype(np.float64)


def call(name, x):
    padded = np.resize(x, -(-x.size // 16) * 16)
    return getattr(host, name)(padded)[: x.size]


def test_exp():
    x = numbers(-87.3, 88.7)
    assert ulps(call("fast_exp", x), np.exp(x.astype(np.float64))).max() <= 3
    ends = np.array([-np.inf, -200, -87.4, 0, 88.8, 300, np.inf, np.nan], np.float32)
    np.testing.assert_array_equal(call("fast_exp", ends), np.float32([0, 0, 0, 1, np.inf, np.inf, np.inf, np.nan]))


def test_tanh():
    x = numbers(-12, 12)
    assert ulps(call("fast_tanh", x), np.tanh(x.astype(np.float64))).max() <= 3
    ends = np.array([-np.inf, -50, -0.0, 50, np.inf, np.nan], np.float32)
    np.testing.assert_array_equal(call("fast_tanh", ends), np.float32([-1, -1, 0, 1, 1, np.nan]))


def test_erf():
    x = numbers(-6, 6)
    assert (
        np.abs(call("fast_erf", x) - special.erf(x.astype(np.float64))).max() <= 3 * 2**-24
    )  # 3 ulp of the results near 1
    small = numbers(-0.5, 0.5)
    assert ulps(call("fast_erf", small), special.erf(small.astype(np.float64))).max() <= 3
    ends = np.array([-np.inf, -9, 9, np.inf, np.nan], np.float32)
    np.testing.assert_array_equal(call("fast_erf", ends), np.float32([-1, -1, 1, 1, np.nan]))


@pytest.mark.parametrize(
    ("name", "truth"),
    [
        ("silu", lambda x: x * special.expit(x)),
        ("gelu", lambda x: 0.5 * x * (1 + special.erf(x / np.sqrt(2)))),
        ("gelu_tanh", lambda x: 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))),
        ("relu", lambda x: np.maximum(x, 0)),
    ],
)
def test_activations(name, truth):
    x = numbers(-30, 30)
    # 1 + erf and 1 + tanh lose digits left of 0, as in PyTorch: the error is relative to x, 4 roundings of it
    error = np.abs(call(name, x) - truth(x.astype(np.float64)))
    assert (error <= 4 * 2**-24 * np.abs(x) + 1e-37).all()
    assert np.isnan(call(name, np.full(16, np.nan, np.float32))).all()
