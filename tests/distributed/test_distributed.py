"""Ranks against one process: the same bits, whatever the number of ranks and the shards."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch

from gmkern import decode, distributed, dynamics, latent, metrics, neighbors
from gmkern.testing import supported_isas
from tests.distributed import ranks
from tests.distributed.processes import start


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> dict[int, list[dict[str, Any]]]:
    """What each rank found, by the size of the group it was in."""
    parts = start(4, tmp_path_factory.mktemp("ranks"), ranks.everything)
    assert all("no member of the group" in parts[r]["no member"] for r in (0, 2))
    return {size: [parts[r][f"{size}"] for r in ranks.GROUPS.get(size, range(4))] for size in (1, 2, 3, 4)}


def joined(parts: list[dict[str, Any]], name: str) -> Any:
    values = [part[name] for part in parts]
    if isinstance(values[0], tuple):
        return tuple(torch.cat(fields) for fields in zip(*values, strict=True))
    return torch.cat(values)


def assert_same(got: Any, want: Any) -> None:
    for a, b in zip(*((v if isinstance(v, tuple) else (v,)) for v in (got, want)), strict=True):
        assert a.dtype == b.dtype
        assert torch.equal(a, b)


@pytest.fixture(params=[2, 4])
def parts(request: pytest.FixtureRequest, ran: dict[int, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    return ran[request.param]


X, Y = ranks.cloud(37, 0), ranks.cloud(500, 1)


def test_neighbours_are_those_of_one_process(parts):
    for metric in ranks.METRICS:
        assert_same(joined(parts, metric), tuple(neighbors.knn(X, Y, 9, metric=metric)))
    for dtype in ranks.NARROW:
        assert_same(joined(parts, f"{dtype}"), tuple(neighbors.knn(X.to(dtype), Y.to(dtype), 5)))
    assert_same(joined(parts, "all"), tuple(neighbors.knn(X, Y, 500)))
    assert_same(joined(parts, "itself"), tuple(neighbors.knn(Y, k=499, exclude_self=True)))
    far = neighbors.knn(9e37 * X, 9e37 * Y, 490)
    assert bool(far.distances.isinf().any())
    assert_same(joined(parts, "far"), tuple(far))
    assert_same(joined(parts, "numpy"), tuple(neighbors.knn(X, Y, 2)))
    assert_same(joined(parts, "by neighbors"), tuple(neighbors.knn(X, Y, 3, metric="manhattan")))
    assert_same(joined(parts, "none ask"), tuple(neighbors.knn(X[:0], Y, 2)))


def test_counts_are_those_of_one_process(parts):
    radii = torch.linspace(0, 4, 500)
    assert_same(joined(parts, "count"), neighbors.count_within(X, Y, 2.0, strict=True))
    assert_same(joined(parts, "count_per"), neighbors.count_within(X, Y, radii, per="reference"))
    assert_same(joined(parts, "count_itself"), neighbors.count_within(Y, Y, 1.5, exclude_self=True))
    want = neighbors.count_within(Y, Y, radii, exclude_self=True, strict=True)
    assert_same(joined(parts, "count_others"), want)
    for dtype in ranks.NARROW:
        assert_same(joined(parts, f"{dtype} counts"), neighbors.count_within(X.to(dtype), Y.to(dtype), 2.0))


def test_sums_are_those_of_one_process(parts):
    assert_same(joined(parts, "sum"), neighbors.kernel_sum(X, Y, bandwidth=0.7))
    assert_same(joined(parts, "sum_itself"), neighbors.kernel_sum(Y, kernel="energy", exclude_self=True))
    assert_same(joined(parts, "log"), neighbors.log_kernel_sum(100 * X, Y, bandwidth=0.7))
    for dtype in ranks.NARROW:
        assert_same(joined(parts, f"{dtype} sums"), neighbors.kernel_sum(X.to(dtype), Y.to(dtype), bandwidth=0.7))
    weights = torch.rand(500, generator=torch.Generator().manual_seed(3))
    want = neighbors.kernel_sum(X, Y, bandwidth=0.7, weights=weights)
    # float64 sums of 500 positive terms in another order, then rounded to float32 once
    torch.testing.assert_close(joined(parts, "sum_any"), want, rtol=2**-23, atol=0)


def test_gradients_are_those_of_one_process(parts):
    a, b = X.clone().requires_grad_(), Y.clone().requires_grad_()
    (neighbors.knn(a, b, 5).distances * torch.arange(1.0, 6.0)).sum().backward()
    # at most 37 edges of weight <= 5 meet at a point, each a unit vector: float32 sums in another order
    bound = 37 * 5 * 37 * 2.0**-24
    torch.testing.assert_close(joined(parts, "grad_queries"), a.grad, rtol=0, atol=bound)
    torch.testing.assert_close(joined(parts, "grad_references"), b.grad, rtol=0, atol=bound)

    ids = torch.arange(500.0)
    for name, log in (("sums", False), ("logs", True)):
        p, q, h, w = (t.double().requires_grad_() for t in (X, Y, 0.5 + (ids % 7) / 7, 1 + ids % 5))
        total = (neighbors.log_kernel_sum if log else neighbors.kernel_sum)(p, q, bandwidth=h, weights=w)
        (total * p.detach().sum(1)).sum().backward()
        for ours, leaf in zip(joined(parts, f"grad_{name}"), (p, q, h, w), strict=True):
            # up to 500 float64 terms, by ranks, and with exponents below 200
            bound = 1000 * 2.0**-53 * float(leaf.grad.abs().max()) * 200
            torch.testing.assert_close(ours, leaf.grad, rtol=0, atol=bound)
    p = torch.cat([x[:1] for x in X.split([n for n, _ in ranks.SIZES[len(parts)]])]).requires_grad_()
    neighbors.kernel_sum(p, Y, bandwidth=0.7).sum().backward()
    # 500 terms of at most 6 / 0.7**2 a coordinate, of which each kernel value is below 1
    torch.testing.assert_close(
        joined(parts, "grad_one"), p.grad, rtol=0, atol=500 * 2.0**-24 * float(p.grad.abs().max())
    )
    p = Y.clone().requires_grad_()
    neighbors.kernel_sum(p, kernel="energy", exclude_self=True).sum().backward()
    # each pair gives a unit vector from either side
    torch.testing.assert_close(joined(parts, "grad_itself"), p.grad, rtol=0, atol=1000 * 2.0**-24 * 8)


def test_a_report_is_of_the_whole_on_every_rank(parts):
    want = metrics.evaluate(X, Y, holdout=ranks.cloud(40, 2), tolerance=0.5, resamples=50, strict=False)
    many = metrics.evaluate(Y.double(), X.double(), k=2, resamples=20)
    for part in parts:
        assert part["report"] == [want.to_json()]
        assert_same(part["report_rows"], (want.copies, want.sources))
        assert part["report_many"] == [many.to_json()]
        assert_same(part["nearest"], many.generated.nearest)


@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_samples_are_the_same_for_any_number_of_ranks(ran, size):
    parts = ran[size]
    assert_same(joined(parts, "latent"), latent.sample(ranks.decoder(), 11, seed=5).detach())
    want = latent.sample(ranks.decoder(), 3, seed=5, sample_ids=[9, 4, 1 << 40]).detach()
    assert_same(joined(parts, "latent_ids"), want)
    prompts = [torch.arange(1, 2 + i % 3) for i in range(7)]
    params = decode.SamplingParams(temperature=torch.linspace(0.5, 1.5, 14))
    want = decode.generate(ranks.model(), prompts, num_samples=2, max_new_tokens=6, end_token=3, seed=2, params=params)
    assert_same(joined(parts, "generate"), tuple(want))
    assert_same(joined(parts, "few"), tuple(decode.generate(ranks.model(), n=1, max_new_tokens=6, seed=2)))
    run = dynamics.simulate(
        dynamics.LennardJones(), ranks.grid().repeat(6, 1, 1), steps=20, seed=4,
        integrator=dynamics.BAOAB(0.002, torch.linspace(0.1, 0.6, 6), 1.0),
    )  # fmt: skip
    assert_same(joined(parts, "simulate"), (run.positions, run.velocities))
    run = dynamics.simulate(dynamics.LennardJones(cutoff=1.4), **ranks.alike())
    assert_same(joined(parts, "alike"), (run.positions, run.velocities))
    ends, seeds = torch.tensor([3, 5, 7]), torch.tensor([1, 2, 3])
    drawn = decode.generate(ranks.model(), n=3, max_new_tokens=6, end_token=ends, seed=seeds)
    assert_same(joined(parts, "ends"), tuple(drawn))


@pytest.mark.skipif(len(supported_isas()) < 2, reason="this machine has one instruction set")
def test_ranks_of_two_instruction_sets(tmp_path):
    sets = supported_isas()[-2:]
    parts = start(2, tmp_path, ranks.instruction_sets, environments=[{"GMKERN_ISA": isa} for isa in sets])
    x, y = ranks.cloud(9, 0), ranks.cloud(50, 1)
    x, y = torch.cat([x, x]), torch.cat([y, y])
    assert_same(joined(parts, "knn"), tuple(neighbors.knn(x, y, 4)))
    assert_same(joined(parts, "count"), neighbors.count_within(x, y, 2.0))
    assert_same(joined(parts, "sum"), neighbors.kernel_sum(x, torch.cat([y[:48], y[:48]]), bandwidth=0.7))
    for part in parts:
        assert_same(part["distances"], neighbors.knn(x, y, 1).distances[:, 0])
        for name in ("generate", "latent", "simulate"):
            assert part[name].startswith("RuntimeError")
            assert all(f"on cpu with {isa}" in part[name] for isa in sets)


ALONE = {
    "count_within": neighbors.count_within,
    "evaluate": metrics.evaluate,
    "generate": decode.generate,
    "kernel_sum": neighbors.kernel_sum,
    "knn": neighbors.knn,
    "log_kernel_sum": neighbors.log_kernel_sum,
    "sample": latent.sample,
    "simulate": dynamics.simulate,
}


@pytest.mark.parametrize("name", ALONE)
def test_arguments_are_those_of_one_process(name):
    """Names, kinds, order and defaults; `group` is added, and **options take what passes through as it is."""
    alone = inspect.signature(ALONE[name]).parameters
    over_ranks = dict(inspect.signature(getattr(distributed, name)).parameters)
    passes = over_ranks.pop("options", None) is not None
    over_ranks.pop("group")
    shared = [key for key in alone if key in over_ranks]
    assert list(over_ranks) == shared
    for key in shared:
        assert over_ranks[key].kind == alone[key].kind
        assert over_ranks[key].default == alone[key].default
    absent = set(alone) - set(shared) - {"group"}
    assert passes or absent <= {"progress"}  # a bar is for references that are read in turn: shards are in memory


def test_every_collective_has_a_counterpart():
    assert {*ALONE, "share"} == set(distributed.__all__)


def test_no_group() -> None:
    for call in (lambda: distributed.knn(torch.zeros(2, 2)), lambda: distributed.share(3)):
        with pytest.raises(RuntimeError, match="init_process_group"):
            call()
