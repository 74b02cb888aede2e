"""The pair maths that the CPU and CUDA kernels share (csrc/dynamics/field.h, box.h), through the host module."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

host = pytest.importorskip("gmkern._host", reason="gmkern._host is built beside a checkout alone")


@pytest.mark.parametrize(
    ("kind", "own"),
    [(0, [0.7, 1.2]), (2, [0.7, 1.3, 1.4]), (3, [0.7, 0.1]), (4, [0.7, 2.6, 3.5]), (4, [0.7, 2.6, 2.0]),
     (5, [0.2, -0.7, 0.4, 1.3])],
)  # fmt: skip
def test_pair_terms_and_their_derivatives(kind, own):
    """pull = -phi'(r)/r, slope = d pull / d(r^2) and the parameters' slopes, by central differences: error h^2/6 of the
    third derivative."""
    taken = -0.03

    def term(r2: float, own=tuple(own), weights=(0.0, 0.0)) -> list[float]:
        q = [*own, *[0.0] * (4 - len(own)), math.inf, taken]
        return host.pair_term(kind, q, r2, *weights)

    for r in (0.9, 1.1, 1.4, 2.3):
        energy, pull, slope = term(r * r)[:3]
        if kind == 0:
            assert energy == pytest.approx(4 * own[0] * ((own[1] / r) ** 12 - (own[1] / r) ** 6) - taken, rel=1e-13)
        h = 1e-5 * r * r
        up, down = term(r * r + h), term(r * r - h)
        assert pull == pytest.approx(-2 * (up[0] - down[0]) / (2 * h), rel=1e-7, abs=1e-9)
        assert slope == pytest.approx((up[1] - down[1]) / (2 * h), rel=1e-7, abs=1e-9)
        for k in range(2 if kind == 4 else len(own)):  # an exponent is not differentiated
            for value, weights in ((0, (1.0, 0.0)), (1, (0.0, 1.0))):
                moved = [list(own), list(own)]
                moved[0][k] += 1e-6
                moved[1][k] -= 1e-6
                want = (term(r * r, moved[0])[value] - term(r * r, moved[1])[value]) / 2e-6
                got = term(r * r, weights=weights)[3 + k] * (2 / own[1] if (kind, k) == (0, 1) else 1.0)
                assert got == pytest.approx(want, rel=1e-6, abs=1e-8)


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
