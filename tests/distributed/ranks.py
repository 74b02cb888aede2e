"""What each rank of a test runs: a module of its own, since processes import it by name."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from gmkern import distributed, neighbors
from gmkern.decode import SamplingParams, Transformer, TransformerConfig
from gmkern.dynamics import BAOAB, LennardJones
from tests.distributed.processes import told

# (N, M) of each rank: some without queries, some without references, some with fewer than k
SIZES = {2: [(30, 256), (7, 244)], 4: [(10, 16), (0, 481), (20, 3), (7, 0)]}
IN_LANES = {2: [256, 244], 4: [16, 400, 0, 84]}  # M in whole lanes
METRICS = ("euclidean", "sqeuclidean", "manhattan", "chebyshev", "inner_product", "cosine")
NARROW = (torch.float64, torch.bfloat16, torch.float16)


def cloud(rows: int, seed: int) -> Tensor:
    """Ties everywhere, and no row of zeros."""
    return torch.randint(-3, 4, (rows, 3), generator=torch.Generator().manual_seed(seed)) + 0.5


def model() -> Transformer:
    torch.manual_seed(0)
    return Transformer(TransformerConfig(17, n_layers=1, n_heads=2, d_model=16, max_seq_len=32, bos_id=0))


def decoder() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))


def grid() -> Tensor:
    return torch.stack(torch.meshgrid(*[torch.arange(2.0)] * 3, indexing="ij"), -1).reshape(1, 8, 3) * 1.2


def alike() -> dict[str, Any]:
    """Three systems, three dimensions, three steps: sizes alone do not tell what is one a system."""
    return {
        "positions": grid().repeat(3, 1, 1), "steps": 3, "seed": 4, "cell": 4 * torch.eye(3), "pbc": True,
        "integrator": BAOAB(torch.full((3, 1), 0.002), [0.1, 0.3, 0.6], 1.0), "masses": torch.linspace(1, 2, 8),
    }  # fmt: skip


def on(group: dist.ProcessGroup | None) -> SimpleNamespace:
    """gmkern.distributed's functions on a group."""
    return SimpleNamespace(**{name: partial(getattr(distributed, name), group=group) for name in distributed.__all__})


def searches(group: dist.ProcessGroup | None) -> dict[str, Any]:
    """Each collective's result on this rank, among references that are spread over the group."""
    on_ranks, rank, size = on(group), dist.get_rank(group), dist.get_world_size(group)

    def shard(x: Tensor, sizes: list[int]) -> Tensor:
        return x.split(sizes)[rank].clone()

    queries, references = cloud(37, 0), cloud(500, 1)
    n, m = ([s[i] for s in SIZES[size]] for i in (0, 1))
    x, y = shard(queries, n), shard(references, m)
    lanes = shard(references, IN_LANES[size])
    out: dict[str, Any] = {metric: tuple(on_ranks.knn(x, y, 9, metric=metric)) for metric in METRICS}
    for dtype in NARROW:
        out[f"{dtype}"] = tuple(on_ranks.knn(x.to(dtype), y.to(dtype), 5))
        out[f"{dtype} counts"] = on_ranks.count_within(x.to(dtype), y.to(dtype), 2.0)
        out[f"{dtype} sums"] = on_ranks.kernel_sum(x.to(dtype), lanes.to(dtype), bandwidth=0.7)
    out["all"] = tuple(on_ranks.knn(x, y, 500))
    out["itself"] = tuple(on_ranks.knn(y, k=499, exclude_self=True, block_rows=100))
    out["numpy"] = tuple(on_ranks.knn(x.numpy(), y.numpy(), 2))
    out["far"] = tuple(on_ranks.knn(9e37 * x, 9e37 * y, 490))  # squares overflow: infinite, in the order of indices
    given = dist.group.WORLD if group is None else group
    out["by neighbors"] = tuple(neighbors.knn(x, y, 3, metric="manhattan", group=given))
    out["none ask"] = tuple(on_ranks.knn(x[:0], y, 2))
    out["count"] = on_ranks.count_within(x, y, 2.0, strict=True)
    radii = torch.linspace(0, 4, 500)
    out["count_per"] = on_ranks.count_within(x, y, shard(radii, m), per="reference")
    out["count_itself"] = on_ranks.count_within(y, y, 1.5, exclude_self=True)
    out["count_others"] = on_ranks.count_within(y, y, shard(radii, m), exclude_self=True, strict=True)
    out["sum"] = on_ranks.kernel_sum(x, lanes, bandwidth=0.7)
    out["sum_any"] = on_ranks.kernel_sum(
        x, y, bandwidth=0.7, weights=shard(torch.rand(500, generator=torch.Generator().manual_seed(3)), m)
    )
    out["sum_itself"] = on_ranks.kernel_sum(lanes, kernel="energy", exclude_self=True)
    out["log"] = on_ranks.log_kernel_sum(100 * x, lanes, bandwidth=0.7)
    a, b = x.clone().requires_grad_(), y.clone().requires_grad_()
    near = on_ranks.knn(a, b, 5)
    (near.distances * torch.arange(1.0, 6.0)).sum().backward()
    out["grad_queries"], out["grad_references"] = a.grad, b.grad
    report = on_ranks.evaluate(
        x, y, holdout=shard(cloud(40, 2), [40 // size] * size), tolerance=0.5, resamples=50, strict=False
    )
    out["report"], out["report_rows"] = [report.to_json()], (report.copies, report.sources)
    report = on_ranks.evaluate(y.double(), x.double(), k=2, resamples=20)
    out["report_many"], out["nearest"] = [report.to_json()], report.generated.nearest
    ids = torch.arange(500.0)
    for name, log in (("sums", False), ("logs", True)):
        p, q = (t.double().requires_grad_() for t in (x, y))
        h, w = (shard(t.double(), m).requires_grad_() for t in (0.5 + (ids % 7) / 7, 1 + ids % 5))
        total = (on_ranks.log_kernel_sum if log else on_ranks.kernel_sum)(p, q, bandwidth=h, weights=w)
        (total * p.detach().sum(1)).sum().backward()
        out[f"grad_{name}"] = (p.grad, q.grad, h.grad, w.grad)
    p = x[:1].clone().requires_grad_()  # the slope of a sum of one number is that number, expanded
    on_ranks.kernel_sum(p, y, bandwidth=0.7).sum().backward()
    out["grad_one"] = p.grad
    p = y.clone().requires_grad_()
    on_ranks.kernel_sum(p, kernel="energy", exclude_self=True).sum().backward()
    out["grad_itself"] = p.grad
    return out


def draws(group: dist.ProcessGroup | None) -> dict[str, Any]:
    """This rank's share of samples of each process."""
    on_ranks = on(group)
    out: dict[str, Any] = {"latent": on_ranks.sample(decoder(), 11, seed=5).detach()}
    out["latent_ids"] = on_ranks.sample(decoder(), 3, seed=5, sample_ids=[9, 4, 1 << 40]).detach()
    prompts = [torch.arange(1, 2 + i % 3) for i in range(7)]
    params = SamplingParams(temperature=torch.linspace(0.5, 1.5, 14))
    out["generate"] = tuple(
        on_ranks.generate(model(), prompts, num_samples=2, max_new_tokens=6, end_token=3, seed=2, params=params)
    )
    out["few"] = tuple(on_ranks.generate(model(), n=1, max_new_tokens=6, seed=2))
    run = on_ranks.simulate(
        LennardJones(), grid().repeat(6, 1, 1), steps=20, seed=4,
        integrator=BAOAB(0.002, torch.linspace(0.1, 0.6, 6), 1.0),
    )  # fmt: skip
    out["simulate"] = (run.positions, run.velocities)
    run = on_ranks.simulate(LennardJones(cutoff=1.4), **alike())
    out["alike"] = (run.positions, run.velocities)
    drawn = on_ranks.generate(
        model(), n=3, max_new_tokens=6, end_token=torch.tensor([3, 5, 7]), seed=torch.tensor([1, 2, 3])
    )
    out["ends"] = tuple(drawn)
    return out


GROUPS = {1: [2], 2: [1, 3], 3: [0, 2, 3]}  # ranks of four


def everything(_: Path) -> dict[str, Any]:
    """On four ranks, and on one, two and three of them."""
    rank, out = dist.get_rank(), {}
    groups = {size: dist.new_group(members) for size, members in GROUPS.items()}
    out["4"] = {**searches(None), **draws(None)}
    for size, members in GROUPS.items():
        if rank in members:
            out[f"{size}"] = draws(groups[size]) | (searches(groups[size]) if size == 2 else {})
    if rank not in GROUPS[2]:
        out["no member"] = told(lambda: distributed.knn(cloud(5, 0), group=groups[2]))
    return out


def instruction_sets(_: Path) -> dict[str, Any]:
    """Where bits do not depend on the instruction set, and where they do."""
    x, y = cloud(9, 0), cloud(50, 1)
    out: dict[str, Any] = {"knn": tuple(distributed.knn(x, y, 4)), "count": distributed.count_within(x, y, 2.0)}
    out["sum"] = distributed.kernel_sum(x, y[:48], bandwidth=0.7)
    out["distances"] = distributed.evaluate(x, y, resamples=10).generated.distances
    for name, call in {
        "generate": lambda: distributed.generate(model(), n=2, max_new_tokens=2, seed=1),
        "latent": lambda: distributed.sample(decoder(), 2, seed=1),
        "simulate": lambda: distributed.simulate(LennardJones(), **alike()),
    }.items():
        out[name] = told(call)
    return out


def by_triton(_: Path) -> dict[str, Any]:
    """What GPUs run, in the interpreter: two ranks with shards of different sizes, or one with all."""
    sizes = [[9], [31]] if dist.get_world_size() == 1 else [[4, 5], [30, 1]]
    x, y = (cloud(sum(n), seed).split(n)[dist.get_rank()] for seed, n in enumerate(sizes))
    some = {"bandwidth": 1.5, "backend": "triton"}
    return {
        "knn": tuple(distributed.knn(x, y, 3, backend="triton")),
        "count": distributed.count_within(x, y, 3.0, backend="triton"),
        "sum": distributed.kernel_sum(x, y, **some),
        "log": distributed.log_kernel_sum(x, y, kernel="laplace", **some),
        "gradient": told(lambda: distributed.kernel_sum(x.clone().requires_grad_(), y, **some)),
    }
