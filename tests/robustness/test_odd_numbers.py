"""Numbers and arrays that torch itself would choke on, or read otherwise than they are meant."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gmkern import dynamics, metrics, neighbors

HUGE = 10**400  # beyond every float


@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("epsilon", lambda x: metrics.sinkhorn_divergence(x, x, epsilon=HUGE)),
        ("alpha", lambda x: neighbors.kernel_sum(x, kernel="rational_quadratic", bandwidth=1.0, alpha=HUGE)),
        ("bandwidth", lambda x: neighbors.kernel_sum(x, bandwidth=HUGE)),
        ("weights", lambda x: neighbors.kernel_sum(x, bandwidth=1.0, weights=-HUGE)),
        ("dt", lambda _: dynamics.BAOAB(HUGE, 1.0, 1.0)),
        ("cutoff", lambda x: dynamics.neighbor_list(x, HUGE)),
    ],
)
def test_an_int_beyond_every_float(name, call):
    with pytest.raises(ValueError, match=f"^{name}"):
        call(torch.zeros(3, 2))


def test_a_radius_beyond_every_float_is_infinite():
    x = torch.zeros(3, 2)
    assert neighbors.count_within(x, x, HUGE).tolist() == [3, 3, 3]
    assert neighbors.count_within(x, x, -HUGE).tolist() == [0, 0, 0]


def test_a_masked_array():
    x = np.ma.masked_greater(np.ones((3, 2)), 0)
    with pytest.raises(TypeError, match="references: got a masked array"):
        neighbors.knn(np.ones((3, 2)), x)


def test_an_array_wider_than_any_tensor():
    x = np.ones((3, 2), np.longdouble)
    with pytest.raises(TypeError, match=r"queries: got an? array of shape \[3, 2\] and dtype (longdouble|float128)"):
        neighbors.knn(x)
