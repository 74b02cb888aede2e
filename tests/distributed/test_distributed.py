"""Ranks against one process: the same bits, the same errors, and no rank that waits for ever."""

from __future__ import annotations

import multiprocessing
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from gmkern import decode, distributed, dynamics, latent, metrics, neighbors
from tests.distributed import ranks

PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["torch", "gmkern.distributed"])


def start(size: int, folder: Path, what: str) -> list[Any]:
    """What each rank saved, None where it did not."""
    started = [PROCESSES.Process(target=ranks.run, args=(r, size, str(folder), what)) for r in range(size)]
    for process in started:
        process.start()
    for process in started:
        process.join(60)
        if process.is_alive():
            process.kill()
            pytest.fail("a rank hangs")
    files = [folder / f"{rank}.pt" for rank in range(size)]
    return [torch.load(file, weights_only=True) if file.exists() else None for file in files]


def joined(parts: list[dict[str, Any]], name: str) -> Any:
    values = [part[name] for part in parts]
    if isinstance(values[0], tuple):
        return tuple(torch.cat(fields) for fields in zip(*values, strict=True))
    return torch.cat(values)


def assert_same(got: Any, want: Any) -> None:
    for a, b in zip(*((v if isinstance(v, tuple) else (v,)) for v in (got, want)), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("size", [2, 4])
def test_ranks_give_the_bits_of_one_process(size: int, tmp_path: Path) -> None:
    parts = start(size, tmp_path, "everything")
    x, y = ranks.cloud(37, 0), ranks.cloud(500, 1)
    for metric in ("euclidean", "inner_product", "chebyshev"):
        assert_same(joined(parts, metric), tuple(neighbors.knn(x, y, 9, metric=metric)))
    assert_same(joined(parts, "all"), tuple(neighbors.knn(x, y, 500)))
    assert_same(joined(parts, "itself"), tuple(neighbors.knn(y, k=4, exclude_self=True)))
    assert_same(joined(parts, "count"), neighbors.count_within(x, y, 2.0, strict=True))
    radii = torch.linspace(0, 4, 500)
    assert_same(joined(parts, "count_per"), neighbors.count_within(x, y, radii, per="reference"))
    assert_same(joined(parts, "count_itself"), neighbors.count_within(y, y, 1.5, exclude_self=True))
    assert_same(joined(parts, "sum"), neighbors.kernel_sum(x, y, bandwidth=0.7))
    assert_same(joined(parts, "sum_itself"), neighbors.kernel_sum(y, kernel="energy", exclude_self=True))
    assert_same(joined(parts, "log"), neighbors.log_kernel_sum(100 * x, y, bandwidth=0.7))
    weights = torch.rand(500, generator=torch.Generator().manual_seed(3))
    want = neighbors.kernel_sum(x, y, bandwidth=0.7, weights=weights)
    # float64 sums of 500 positive terms in another order, then rounded to float32 once
    torch.testing.assert_close(joined(parts, "sum_any"), want, rtol=2**-23, atol=0)

    a, b = x.clone().requires_grad_(), y.clone().requires_grad_()
    (neighbors.knn(a, b, 5).distances * torch.arange(1.0, 6.0)).sum().backward()
    # at most 37 edges of weight <= 5 meet at a point, each a unit vector: float32 sums in another order
    bound = 37 * 5 * 37 * 2.0**-24
    torch.testing.assert_close(joined(parts, "grad_queries"), a.grad, rtol=0, atol=bound)
    torch.testing.assert_close(joined(parts, "grad_references"), b.grad, rtol=0, atol=bound)

    ids = torch.arange(500.0)
    for name, log in (("sums", False), ("logs", True)):
        p, q, h, w = (t.double().requires_grad_() for t in (x, y, 0.5 + (ids % 7) / 7, 1 + ids % 5))
        total = (neighbors.log_kernel_sum if log else neighbors.kernel_sum)(p, q, bandwidth=h, weights=w)
        (total * p.detach().sum(1)).sum().backward()
        for ours, leaf in zip(joined(parts, f"grad_{name}"), (p, q, h, w), strict=True):
            # up to 500 float64 terms, by ranks, and with exponents below 200
            bound = 1000 * 2.0**-53 * float(leaf.grad.abs().max()) * 200
            torch.testing.assert_close(ours, leaf.grad, rtol=0, atol=bound)
    p = y.clone().requires_grad_()
    neighbors.kernel_sum(p, kernel="energy", exclude_self=True).sum().backward()
    # each pair gives a unit vector from either side
    torch.testing.assert_close(joined(parts, "grad_itself"), p.grad, rtol=0, atol=1000 * 2.0**-24 * 8)

    # a report is of the whole on every rank
    want = metrics.evaluate(x, y, holdout=ranks.cloud(40, 2), tolerance=0.5, resamples=50, strict=False)
    many = metrics.evaluate(y, x, k=2, resamples=20)
    for part in parts:
        assert part["report"] == [want.to_json()]
        assert_same(part["report_rows"], (want.copies, want.sources))
        assert part["report_many"] == [many.to_json()]
        assert_same(part["nearest"], many.generated.nearest)

    # samples
    assert_same(joined(parts, "latent"), latent.sample(ranks.decoder(), 11, seed=5).detach())
    prompts = [torch.arange(1, 2 + i % 3) for i in range(7)]
    params = decode.SamplingParams(temperature=torch.linspace(0.5, 1.5, 14))
    want = decode.generate(ranks.model(), prompts, num_samples=2, max_new_tokens=6, end_token=3, seed=2, params=params)
    assert_same(joined(parts, "generate"), tuple(want))
    assert_same(joined(parts, "few"), tuple(decode.generate(ranks.model(), n=1, max_new_tokens=6, seed=2)))
    grid = torch.stack(torch.meshgrid(*[torch.arange(2.0)] * 3, indexing="ij"), -1).reshape(1, 8, 3) * 1.2
    run = dynamics.simulate(
        dynamics.LennardJones(), grid.repeat(6, 1, 1), steps=20, seed=4,
        integrator=dynamics.BAOAB(0.002, torch.linspace(0.1, 0.6, 6), 1.0),
    )  # fmt: skip
    assert_same(joined(parts, "simulate"), (run.positions, run.velocities))
    run = dynamics.simulate(dynamics.LennardJones(cutoff=1.4), **ranks.alike(grid))
    assert_same(joined(parts, "alike"), (run.positions, run.velocities))
    ends, seeds = torch.tensor([3, 5, 7]), torch.tensor([1, 2, 3])
    drawn = decode.generate(ranks.model(), n=3, max_new_tokens=6, end_token=ends, seed=seeds)
    assert_same(joined(parts, "ends"), tuple(drawn))


def test_a_mistake_of_one_rank_is_told_to_all(tmp_path: Path) -> None:
    first, second = start(2, tmp_path, "disagree")
    assert second["nan"] == "ValueError: queries: got nan at [2, 1]; takes finite numbers"
    assert first["nan"] == "RuntimeError: distributed.knn: rank 1: queries: got nan at [2, 1]; takes finite numbers"
    assert second["report"] == "ValueError: train: got nan at [2, 1]; takes finite numbers"
    assert first["report"].startswith("RuntimeError: distributed.evaluate: rank 1: train: got nan at [2, 1]")
    for told in (first, second):
        assert "k=1" in told["k"]
        assert "k=2" in told["k"]
        assert told["many"].startswith("ValueError: k: got 11; takes an int >= 1 and <= 10")
        assert "gradients" in told["gradient"]
        assert "gradients" in told["sum"]
        assert "seed=1" in told["seed"]
        assert told["few"].startswith("ValueError: generated: got 1 samples; takes 2 or more")
        assert "n=3" in told["n"]
        assert "n=4" in told["n"]
        assert torch.equal(told["after"][0], torch.zeros(5, 1))


def test_a_dead_rank_is_told(tmp_path: Path) -> None:
    began = time.monotonic()
    first, second, third = start(3, tmp_path, "dies")
    assert second is None
    assert first["told"]
    assert third["told"]
    assert time.monotonic() - began < 50  # the group's timeout is 20 s


def test_no_group() -> None:
    for call in (lambda: distributed.knn(torch.zeros(2, 2)), lambda: distributed.share(3)):
        with pytest.raises(RuntimeError, match="init_process_group"):
            call()
