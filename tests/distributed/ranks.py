"""What each rank of a test runs: a module of its own, since processes import it by name."""

from __future__ import annotations

import datetime
import os
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from gmkern import distributed
from gmkern.decode import SamplingParams, Transformer, TransformerConfig
from gmkern.dynamics import BAOAB, LennardJones

SIZES = {1: [(37, 500)], 2: [(30, 256), (7, 244)], 4: [(10, 16), (0, 400), (20, 3), (7, 81)]}  # (N, M) of each rank
IN_LANES = {1: [(37, 500)], 2: [(30, 256), (7, 244)], 4: [(10, 16), (0, 400), (20, 0), (7, 84)]}  # M whole lanes


def cloud(rows: int, seed: int) -> Tensor:
    return torch.randint(-3, 4, (rows, 3), generator=torch.Generator().manual_seed(seed)).float()  # ties everywhere


def shard(x: Tensor, sizes: list[int]) -> Tensor:
    return x.split(sizes)[dist.get_rank()].clone()


def model() -> Transformer:
    torch.manual_seed(0)
    return Transformer(TransformerConfig(17, n_layers=1, n_heads=2, d_model=16, max_seq_len=32, bos_id=0))


def decoder() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))


def alike(grid: Tensor) -> dict[str, Any]:
    """Three systems, three dimensions, three steps: sizes alone do not tell what is one a system."""
    return {
        "positions": grid.repeat(3, 1, 1), "steps": 3, "seed": 4, "cell": 4 * torch.eye(3), "pbc": True,
        "integrator": BAOAB(torch.full((3, 1), 0.002), [0.1, 0.3, 0.6], 1.0), "masses": torch.linspace(1, 2, 8),
    }  # fmt: skip


def everything(size: int) -> dict[str, Any]:
    """Each collective's result on this rank."""
    queries, references = cloud(37, 0), cloud(500, 1)
    n, m = ([s[i] for s in SIZES[size]] for i in (0, 1))
    x, y = shard(queries, n), shard(references, m)
    lanes = shard(references, [s[1] for s in IN_LANES[size]])
    out: dict[str, Any] = {}
    for metric in ("euclidean", "inner_product", "chebyshev"):
        out[metric] = tuple(distributed.knn(x, y, 9, metric=metric))
    out["all"] = tuple(distributed.knn(x, y, 500))
    out["itself"] = tuple(distributed.knn(y, k=4, exclude_self=True))
    out["count"] = distributed.count_within(x, y, 2.0, strict=True)
    radii = torch.linspace(0, 4, 500)
    out["count_per"] = distributed.count_within(x, y, shard(radii, m), per="reference")
    out["count_itself"] = distributed.count_within(y, y, 1.5, exclude_self=True)
    out["sum"] = distributed.kernel_sum(x, lanes, bandwidth=0.7)
    out["sum_any"] = distributed.kernel_sum(
        x, y, bandwidth=0.7, weights=shard(torch.rand(500, generator=torch.Generator().manual_seed(3)), m)
    )
    out["sum_itself"] = distributed.kernel_sum(lanes, kernel="energy", exclude_self=True)
    out["log"] = distributed.log_kernel_sum(100 * x, lanes, bandwidth=0.7)
    a, b = x.clone().requires_grad_(), y.clone().requires_grad_()
    near = distributed.knn(a, b, 5)
    (near.distances * torch.arange(1.0, 6.0)).sum().backward()
    out["grad_queries"], out["grad_references"] = a.grad, b.grad
    report = distributed.evaluate(
        x, y, holdout=shard(cloud(40, 2), [40 // size] * size), tolerance=0.5, resamples=50, strict=False
    )
    out["report"], out["report_rows"] = [report.to_json()], (report.copies, report.sources)
    report = distributed.evaluate(y, x, k=2, resamples=20)
    out["report_many"], out["nearest"] = [report.to_json()], report.generated.nearest
    ids = torch.arange(500.0)
    for name, log in (("sums", False), ("logs", True)):
        p, q = (t.double().requires_grad_() for t in (x, y))
        h, w = (shard(t.double(), m).requires_grad_() for t in (0.5 + (ids % 7) / 7, 1 + ids % 5))
        total = (distributed.log_kernel_sum if log else distributed.kernel_sum)(p, q, bandwidth=h, weights=w)
        (total * p.detach().sum(1)).sum().backward()
        out[f"grad_{name}"] = (p.grad, q.grad, h.grad, w.grad)
    p = y.clone().requires_grad_()
    distributed.kernel_sum(p, kernel="energy", exclude_self=True).sum().backward()
    out["grad_itself"] = p.grad
    out["latent"] = distributed.sample(decoder(), 11, seed=5).detach()
    prompts = [torch.arange(1, 2 + i % 3) for i in range(7)]
    params = SamplingParams(temperature=torch.linspace(0.5, 1.5, 14))
    out["generate"] = tuple(
        distributed.generate(model(), prompts, num_samples=2, max_new_tokens=6, end_token=3, seed=2, params=params)
    )
    out["few"] = tuple(distributed.generate(model(), n=1, max_new_tokens=6, seed=2))
    grid = torch.stack(torch.meshgrid(*[torch.arange(2.0)] * 3, indexing="ij"), -1).reshape(1, 8, 3) * 1.2
    run = distributed.simulate(
        LennardJones(),
        grid.repeat(6, 1, 1),
        integrator=BAOAB(0.002, torch.linspace(0.1, 0.6, 6), 1.0),
        steps=20,
        seed=4,
    )
    out["simulate"] = (run.positions, run.velocities)
    run = distributed.simulate(LennardJones(cutoff=1.4), **alike(grid))
    out["alike"] = (run.positions, run.velocities)
    drawn = distributed.generate(
        model(), n=3, max_new_tokens=6, end_token=torch.tensor([3, 5, 7]), seed=torch.tensor([1, 2, 3])
    )
    out["ends"] = tuple(drawn)
    return out


def disagree(size: int) -> dict[str, Any]:
    """What each rank is told of one rank's mistake, and of a quarrel."""
    x, rank = cloud(5, 0), dist.get_rank()
    bad = x.clone()
    if rank == 1:
        bad[2, 1] = torch.nan
    told = {}
    for name, call in (
        ("nan", lambda: distributed.knn(bad, x)),
        ("k", lambda: distributed.knn(x, x, 1 + rank)),
        ("many", lambda: distributed.knn(x, x, 5 * size + 1)),
        ("gradient", lambda: distributed.knn(x.clone().requires_grad_(rank == 0), x)),
        ("report", lambda: distributed.evaluate(x, bad)),
        ("few", lambda: distributed.evaluate(x[:0] if rank else x[:1], x)),
        ("seed", lambda: distributed.evaluate(x, x, seed=rank)),
        ("sum", lambda: distributed.kernel_sum(x.clone().requires_grad_(rank == 0), x, kernel="linear")),
        ("n", lambda: distributed.sample(decoder(), 3 + rank, seed=0)),
    ):
        try:
            call()
        except (TypeError, ValueError, RuntimeError) as error:
            told[name] = f"{type(error).__name__}: {error}"
    told["after"] = tuple(distributed.knn(x, x))  # the group still works
    return told


def dies(size: int, folder: Path) -> dict[str, Any]:
    """Rank 1 is gone once all have joined the group: the others are told."""
    x = cloud(5, 0)
    (folder / f"{dist.get_rank()}.joined").touch()
    if dist.get_rank() == 1:
        while len(list(folder.glob("*.joined"))) < size:
            time.sleep(0.01)
        os._exit(3)
    try:
        distributed.knn(x, x)
    except RuntimeError as error:
        return {"told": str(error)}
    return {}


def run(rank: int, size: int, folder: str, what: str) -> None:
    torch.set_num_threads(1)
    store = f"file://{folder}/store"
    dist.init_process_group("gloo", store, datetime.timedelta(seconds=20), size, rank)
    result = {"everything": everything, "disagree": disagree, "dies": partial(dies, folder=Path(folder))}[what](size)
    torch.save(result, Path(folder) / f"{rank}.pt")
    if what != "dies":
        dist.destroy_process_group()
