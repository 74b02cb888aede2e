"""prdc, Sinkhorn divergence, sliced Wasserstein distance beside the package prdc, POT and plain PyTorch; evaluate."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from _case import OURS, Case, Point, Run, across
from torch import Tensor

from gmkern import metrics, random
from gmkern.random.streams import PROJECTION


class Sets(NamedTuple):
    real: Tensor
    generated: Tensor


def sets(dim: int, n: int, m: int) -> Sets:
    draw = torch.Generator().manual_seed(0)
    return Sets(torch.randn(n, dim, generator=draw), 0.95 * torch.randn(m, dim, generator=draw))


# --- prdc: (precision, recall, density, coverage) ---------------------------------------------------------------------


def dense(k: int, given: Sets) -> Run:
    """The whole matrices, as a user would write them."""

    def run(_: int) -> tuple[float, ...]:
        across = torch.cdist(*given)
        r, g = (torch.cdist(one, one).kthvalue(k + 1).values for one in given)
        within = across < r[:, None]
        return (
            float(within.any(0).float().mean()),
            float((across < g[None]).any(1).float().mean()),
            float(within.sum() / (k * len(given.generated))),
            float((across.amin(1) < r).float().mean()),
        )

    return run


def package(k: int, given: Sets) -> Run:
    from prdc import compute_prdc

    def run(_: int) -> tuple[float, ...]:
        with contextlib.redirect_stdout(io.StringIO()):  # it prints sizes
            told = compute_prdc(real_features=given.real.numpy(), fake_features=given.generated.numpy(), nearest_k=k)
        return tuple(float(told[name]) for name in ("precision", "recall", "density", "coverage"))

    return run


def check_shares(given: Sets, tool: str, ours: Any, theirs: Any) -> None:
    """Shares and counts of thousands, but for pairs at the boundary, where the Gram form errs."""
    if tool == OURS:
        theirs = dense(5, Sets(given.real.double(), given.generated.double()))(1)
    assert all(abs(a - b) <= 1e-3 for a, b in zip(ours, theirs, strict=True)), f"{tool}: {theirs}, ours {ours}"


def prdc(dim: int, n: int, point: Point | None = None) -> Case:
    k = 5
    tools = {
        OURS: lambda given: lambda _: metrics.prdc(*given, k),
        "torch, dense": partial(dense, k),
        "package prdc": partial(package, k),
    }
    name = f"prdc, D={dim} N={n} M={n} k={k}"
    # Distances within both sets, of which one half is enough, and across.
    return Case(name, partial(sets, dim, n, n), tools, check_shares, 8.0 * dim * n, 3.0 * dim * 2 * n * n, point=point)


# --- transport --------------------------------------------------------------------------------------------------------

EPSILON, PROJECTIONS = 5.0, 256


def pot_sinkhorn(given: Sets) -> Run:
    import ot

    x, y = given

    def one(a: Tensor, b: Tensor) -> float:
        """Plan's cost and ε KL(P, uniform), in float64 as POT advises for its exponentials."""
        wa, wb = (torch.full((len(s),), 1 / len(s), dtype=torch.float64) for s in (a, b))
        cost = torch.cdist(a.double(), b.double()).square()
        plan = ot.sinkhorn(wa, wb, cost, EPSILON, method="sinkhorn_log", numItermax=1000, stopThr=1e-3)
        entropy = (plan * (plan.clamp(min=1e-300) / (wa[:, None] * wb)).log()).sum()
        return float((plan * cost).sum() + EPSILON * entropy)

    return lambda _: one(x, y) - one(x, x) / 2 - one(y, y) / 2


def pot_sliced(given: Sets) -> Run:
    import ot

    x, y = given
    directions = torch.nn.functional.normalize(torch.randn(x.shape[1], PROJECTIONS), dim=0)
    return lambda _: float(ot.sliced_wasserstein_distance(x, y, projections=directions))


def plain_sliced(given: Sets) -> float:
    """In float64, along gmkern's directions."""
    x, y = (one.double() for one in given)
    directions = random.normal(0, PROJECTIONS, 0, x.shape[1], stream=PROJECTION).double()
    lines = torch.nn.functional.normalize(directions, dim=1).T
    return float(((x @ lines).sort(0).values - (y @ lines).sort(0).values).square().mean().sqrt())


def check_number(truth: Callable[[Sets], Any], relative: float, given: Sets, tool: str, ours: Any, theirs: Any) -> None:
    """A rival is within ``relative`` of ours; ours is the truth but for float32's sums of thousands of terms."""
    theirs, relative = (truth(given), 1e-4) if tool == OURS else (theirs, relative)
    assert abs(float(ours) - float(theirs)) <= relative * abs(float(ours)), f"{tool}: {theirs}, ours {ours}"


def sinkhorn(dim: int, n: int) -> Case:
    tools = {
        OURS: lambda given: lambda _: metrics.sinkhorn_divergence(*given, epsilon=EPSILON),
        "POT": pot_sinkhorn,
    }
    # Marginals within 1e-3: the value is off by no more than some of that; the number of half steps is the data's.
    check = partial(
        check_number, lambda given: metrics.sinkhorn_divergence(*given, epsilon=EPSILON, backend="reference"), 2e-2
    )
    return Case(f"sinkhorn_divergence, D={dim} N={n} M={n}", partial(sets, dim, n, n), tools, check)


def sliced(dim: int, n: int) -> Case:
    tools = {
        OURS: lambda given: lambda _: metrics.sliced_wasserstein(*given, seed=0, projections=PROJECTIONS),
        "POT": pot_sliced,
    }
    # Other directions: the mean square of 256 has a relative spread of some 1 / sqrt(256) at most, its root half of it.
    check = partial(check_number, plain_sliced, 4 * 0.5 / PROJECTIONS**0.5)
    flop = 2.0 * dim * 2 * n * PROJECTIONS
    return Case(f"sliced_wasserstein, D={dim} N={n}", partial(sets, dim, n, n), tools, check, 8.0 * dim * n, flop)


# --- evaluate ---------------------------------------------------------------------------------------------------------


def check_report(given: Sets, tool: str, ours: Any, theirs: Any) -> None:
    """Its shares are those of prdc by itself."""
    alone = metrics.prdc(given.real, given.generated, 5)
    assert abs(ours.generated.precision.value - float(alone.precision)) <= 1e-6


def evaluate(n: int, point: Point | None) -> Case:
    tools = {OURS: lambda given: lambda _: metrics.evaluate(given.generated, given.real)}
    name = f"evaluate, D=64 N={n} M={n}"
    return Case(name, partial(sets, 64, n, n), tools, check_report, 8.0 * 64 * n, 3.0 * 64 * 2 * n * n, point=point)


CASES = {
    "prdc": [prdc(8, 2000), prdc(8, 5000), prdc(64, 5000), prdc(512, 5000)],
    "transport": [sinkhorn(16, 1000), sliced(64, 10_000)],
    "evaluate": [evaluate(2000, None), evaluate(20_000, None)],
}
CURVES = [prdc(64, n, Point("prdc", "N", n)) for n in (1000, 2000, 4000, 8000)]
CURVES += [evaluate(n, Point("evaluate", "N", n)) for n in (2500, 5000, 10_000, 20_000)]


@across(CASES["prdc"])
def test_prdc(case, tool, raced):
    raced(case, tool)


@across(CASES["transport"])
def test_transport(case, tool, raced):
    raced(case, tool)


@across(CASES["evaluate"])
def test_evaluate(case, tool, raced):
    raced(case, tool)


@across(CURVES)
def test_metrics_grow(case, tool, raced):
    raced(case, tool)
