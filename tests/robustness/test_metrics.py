"""gmkern.metrics with drawn arguments."""

from __future__ import annotations

from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor

from gmkern.testing import tolerance
from tests.robustness.fuzzing import FLOATS, SIZES, WIDE, Draw, fuzz, laid_out, numbers, numbers_of

COUNTS = st.integers(3, 40)


def pair(draw: Draw, first: str, second: str, dtypes: tuple[torch.dtype, ...] = FLOATS) -> dict[str, Any]:
    """Two sets of points in one space."""
    dtype, dim = draw(st.sampled_from(dtypes)), draw(SIZES)
    return {name: laid_out(draw, numbers(draw, [draw(COUNTS), dim], dtype)) for name in (first, second)}


def neighbours(draw: Draw, *sets: Any) -> int:
    return draw(st.integers(1, min(len(each) for each in sets) - 1))


@fuzz("metrics.prdc")
def test_prdc(draw: Draw) -> dict[str, Any]:
    """Fractions of counts are the same numbers."""
    given = pair(draw, "real", "generated")
    return given | {"k": neighbours(draw, *given.values()), "strict": draw(st.booleans())}


@fuzz("metrics.realism")
def test_realism(draw: Draw) -> dict[str, Any]:
    """Ratios of the same distances."""
    given = pair(draw, "real", "generated")
    return given | {"k": neighbours(draw, given["real"])}


@fuzz("metrics.novelty")
def test_novelty(draw: Draw) -> dict[str, Any]:
    """Distances are the same bits, and so is what is made of them."""
    given = pair(draw, "generated", "train")
    if draw(st.booleans()):
        given["holdout"] = given["train"][1:]
    return given | {"tolerance": draw(st.sampled_from([0.0, 0.5]))}


@fuzz("metrics.duplicates")
def test_duplicates(draw: Draw) -> dict[str, Any]:
    """Copies, within one set or of another."""
    given = pair(draw, "points", "references")
    if draw(st.booleans()):
        given["references"] = None
    return given | {"tolerance": draw(st.sampled_from([0.0, 1.0]))}


@fuzz("metrics.evaluate")
def test_evaluate(draw: Draw) -> dict[str, Any]:
    """The whole report."""
    given = pair(draw, "generated", "train")
    k = min(neighbours(draw, *given.values()), 3)
    return given | {"k": k, "resamples": draw(st.sampled_from([1, 20])), "seed": draw(st.integers(-5, 5))}


def beside_one(result: Any) -> list[Tensor]:
    """Differences of means of kernels or of costs, of the order of 1, which may cancel."""
    found = [torch.as_tensor(value, dtype=torch.float64).flatten() for value in numbers_of(result)]
    return [torch.cat([value, value.new_ones(1)]) for value in found]


# Sums of at most 40^2 kernel values, each off by up to 104 roundings of an exponent (see test_neighbors.py) against
# the means of 1, whose difference is 0 for equal sets: the result is compared with itself and 1.
@fuzz("metrics.mmd", rounding=1e4 * tolerance(torch.float32, 33))
def test_mmd(draw: Draw) -> dict[str, Any]:
    """Every kernel and estimator."""
    given = pair(draw, "x", "y", (torch.float64,))
    kernel = draw(st.sampled_from(["rbf", "laplace", "rational_quadratic", "energy", "polynomial"]))
    bandwidth = draw(st.sampled_from([1.0, [0.5, 2.0]]))
    estimator = draw(st.sampled_from(["unbiased", "biased"]))
    return given | {"kernel": kernel, "estimator": estimator} | ({"bandwidth": bandwidth} if kernel[0] in "rl" else {})


@fuzz("metrics.kid", rounding=1e4 * tolerance(torch.float32, 33), show=beside_one)
def test_kid(draw: Draw) -> dict[str, Any]:
    """Subsets are drawn by the seed, the same on every backend."""
    given = pair(draw, "generated", "real", (torch.float64,))
    return given | {"seed": draw(st.integers(0, 9)), "subsets": 3, "subset_size": draw(st.sampled_from([2, 3]))}


@fuzz("metrics.sinkhorn_divergence", rounding=1e-3, show=beside_one)
def test_sinkhorn(draw: Draw) -> dict[str, Any]:
    """Within the tolerance at which the iteration stops."""
    given = pair(draw, "x", "y", (torch.float64,))
    return given | {
        "epsilon": draw(st.sampled_from([1.0, 5.0])),
        "p": draw(st.sampled_from([1, 2])),
        "max_iterations": 1000,
    }


@fuzz("metrics.knn_anomaly_score", rounding=tolerance(torch.float32, 40))
def test_knn_anomaly_score(draw: Draw) -> dict[str, Any]:
    """The largest distance, or the mean of up to 40."""
    given = pair(draw, "points", "references")
    return given | {"k": neighbours(draw, given["references"]), "reduction": draw(st.sampled_from(["largest", "mean"]))}


@fuzz("metrics.local_outlier_factor", rounding=4 * tolerance(torch.float32, 40))
def test_local_outlier_factor(draw: Draw) -> dict[str, Any]:
    """Ratios of means of up to 40 distances."""
    given = pair(draw, "points", "references")
    return given | {"k": neighbours(draw, given["references"])}


@fuzz("metrics.frechet_distance")
def test_frechet_distance(draw: Draw) -> dict[str, Any]:
    """One result, wherever the points lie in memory."""
    return pair(draw, "x", "y", WIDE)


@fuzz("metrics.frechet_distance_infinity", also=("generated", "real"))
def test_frechet_distance_infinity(draw: Draw) -> dict[str, Any]:
    """The extrapolation of it."""
    given = pair(draw, "generated", "real", WIDE)
    most = len(given["generated"])
    return given | {"seed": draw(st.integers(0, 9)), "sizes": [2, max(2, most // 2), most]}


@fuzz("metrics.moments")
def test_moments(draw: Draw) -> dict[str, Any]:
    """Mean and covariance."""
    return {"points": pair(draw, "points", "others")["points"]}


@fuzz("metrics.sliced_wasserstein")
def test_sliced_wasserstein(draw: Draw) -> dict[str, Any]:
    """Sets of two sizes, along lines that the seed draws."""
    given = pair(draw, "x", "y", WIDE)
    return given | {
        "seed": draw(st.integers(0, 9)),
        "projections": draw(st.sampled_from([1, 5])),
        "p": draw(st.sampled_from([1.0, 2.0])),
    }


@fuzz("metrics.vendi_score")
def test_vendi_score(draw: Draw) -> dict[str, Any]:
    """Rows of zeros have no angle, so none are drawn for it."""
    x = numbers(draw, [draw(COUNTS), draw(SIZES)], draw(st.sampled_from(WIDE)))
    x[:, 0] = x[:, 0].abs() + 1
    bandwidth = {"kernel": "rbf", "bandwidth": 1.5} if draw(st.booleans()) else {}
    return {"points": laid_out(draw, x), "q": draw(st.sampled_from([0.5, 1.0, 2.0]))} | bandwidth
