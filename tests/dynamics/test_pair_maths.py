"""The pair maths that the CPU and CUDA kernels share (csrc/dynamics/field.h, box.h), through the host module."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

host = pytest.importorskip("gmkern._host", reason="gmkern._host is built beside a checkout alone")


def test_lennard_jones_and_its_derivatives():
    """pull = -phi'(r)/r and slope = d pull / d(r^2), by central differences: error h^2/6 of the third derivative."""
    epsilon, sigma, taken = 0.7, 1.2, -0.03

    def term(r2: float) -> list[float]:
        return host.pair_term(0, [epsilon, sigma, math.inf, taken], r2)

    for r in (0.9, 1.1, 1.4, 2.3):
        energy, pull, slope = term(r * r)
        assert energy == pytest.approx(4 * epsilon * ((sigma / r) ** 12 - (sigma / r) ** 6) - taken, rel=1e-13)
        h = 1e-5 * r * r
        up, down = term(r * r + h), term(r * r - h)
        assert pull == pytest.approx(-2 * (up[0] - down[0]) / (2 * h), rel=1e-7)
        assert slope == pytest.approx((up[1] - down[1]) / (2 * h), rel=1e-7)


def test_nearest_image_within_half_the_closest_faces(rng):
    cell = np.array([[5.0, 0.0, 0.0], [2.1, 4.5, 0.0], [-1.7, 1.9, 4.8]])
    inverse = np.linalg.inv(cell)
    reach = 0.5 / np.linalg.norm(inverse, axis=0).max()
    shifts = np.array(list(itertools.product(range(-6, 7), repeat=3))) @ cell  # |fractional d| is below 5
    hits = 0
    for _ in range(1000):
        d = rng.uniform(-10, 10, 3)
        images = d + shifts
        nearest = images[np.linalg.norm(images, axis=1).argmin()]
        if np.linalg.norm(nearest) < reach:
            hits += 1
            got = host.nearest_image(cell.ravel().tolist(), inverse.ravel().tolist(), d.tolist())
            assert np.allclose(got, nearest, atol=1e-12)
    assert hits > 100
