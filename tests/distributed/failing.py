"""Ranks that give bad arguments, raise in the middle, die or stall."""

from __future__ import annotations

import datetime
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from gmkern import distributed
from gmkern.decode import SamplingParams
from gmkern.dynamics import BAOAB, EulerMaruyama, LennardJones, VectorField
from tests.distributed.processes import told
from tests.distributed.ranks import alike, cloud, decoder, grid, model


def mistakes(_: Path) -> dict[str, Any]:
    """What each of two ranks is told where rank 1 alone errs, and of quarrels. The group works on after each."""
    x, rank = cloud(5, 0), dist.get_rank()
    bad, numbers = x.clone(), torch.ones(5)
    if rank == 1:
        bad[2, 1] = torch.nan
        numbers[3] = -1.0
    leaf = x.clone().requires_grad_(rank == 0)

    def raises(*_: Any) -> Any:
        if rank == 1:
            raise KeyError("mine")
        return None

    def mask_fn(tokens: Tensor, lengths: Tensor) -> Tensor:
        return raises() or torch.ones(len(tokens), 17, dtype=torch.bool)

    class Broken(nn.Linear):
        def forward(self, z: Tensor) -> Tensor:
            raises()
            return super().forward(z)

    out = {}
    for name, call in {
        "nan": lambda: distributed.knn(bad, x),
        "dtype": lambda: distributed.knn(x.int() if rank else x, x),
        "width": lambda: distributed.knn(x[:, : 3 - rank], x[:, : 3 - rank]),
        "k": lambda: distributed.knn(x, x, 1 + rank),
        "many": lambda: distributed.knn(x, x, 11),
        "metric": lambda: distributed.knn(x, x, metric="far" if rank else "cosine"),
        "backend": lambda: distributed.knn(x, x, backend="cuda" if rank else "cpu"),
        "cosine": lambda: distributed.knn(x, torch.zeros(3, 3) if rank else x, metric="cosine"),
        "self": lambda: distributed.knn(x, x[: 5 - rank], exclude_self=True),
        "gradient": lambda: distributed.knn(leaf, x),
        "strict": lambda: distributed.count_within(x, x, 1.0, strict="no" if rank else False),
        "radii": lambda: distributed.count_within(x, x, torch.ones(5 - rank)),
        "bandwidth": lambda: distributed.kernel_sum(x, x, bandwidth=bad[:, 1].square() if rank else 1.0),
        "log weights": lambda: distributed.log_kernel_sum(x, x, bandwidth=1.0, weights=numbers),
        "sum": lambda: distributed.kernel_sum(leaf, x, kernel="linear"),
        "report": lambda: distributed.evaluate(x, bad),
        "progress": lambda: distributed.evaluate(x, x, progress=0 if rank else False),
        "few": lambda: distributed.evaluate(x[:0] if rank else x[:1], x),
        "seed": lambda: distributed.evaluate(x, x, seed=rank),
        "n": lambda: distributed.sample(decoder(), 3 + rank, seed=0),
        "noise": lambda: distributed.sample(decoder(), 3, seed=rank),
        "radius": lambda: distributed.count_within(x, x, 1.0 + rank),
        "rate": lambda: distributed.kernel_sum(x, x, bandwidth=1.0 + rank),
        "alpha": lambda: distributed.kernel_sum(x, x, kernel="rational_quadratic", bandwidth=1.0, alpha=1.0 + rank),
        "picture": lambda: distributed.evaluate(x, x, image_shape=(3, 1) if rank else None),
        "call": lambda: distributed.log_kernel_sum(x, bandwidth=1.0) if rank else distributed.knn(x),
        "latent_dim": lambda: distributed.sample(nn.Identity(), 3, seed=0, latent_dim=2 + rank, progress=rank == 2),
        "temperature": lambda: distributed.generate(
            model(), n=2, max_new_tokens=2, seed=0, params=SamplingParams(temperature=1.0 + rank)
        ),
        "own prompts": lambda: distributed.generate(
            model(), [torch.tensor([rank, 2]), torch.tensor([3])], max_new_tokens=2, seed=0
        ),
        "steps": lambda: distributed.simulate(LennardJones(), **alike() | {"steps": 3 + rank}),
        "time": lambda: distributed.simulate(LennardJones(), **alike() | {"integrator": BAOAB(0.1 + rank, 1.0, 1.0)}),
        "depth": lambda: distributed.simulate(LennardJones(1.0 + rank), **alike()),
        "own systems": lambda: distributed.simulate(LennardJones(), **alike() | {"positions": grid() + rank}),
        "record": lambda: distributed.simulate(LennardJones(), **alike() | ({"record_every": 1} if rank else {})),
        "ids": lambda: distributed.generate(model(), n=2, max_new_tokens=2, seed=0, sample_ids=[rank, 5]),
        "length": lambda: distributed.generate(model(), n=2, max_new_tokens=1 - 2 * rank, seed=0),
        "in a decoder": lambda: distributed.sample(Broken(2, 3), 4, seed=0),
        "in a mask": lambda: distributed.generate(model(), n=4, max_new_tokens=2, seed=0, mask_fn=mask_fn),
        "in a field": lambda: distributed.simulate(
            VectorField(lambda p, t: raises() or p), torch.ones(4, 2), steps=1, seed=0,
            integrator=EulerMaruyama(0.1, 1.0),
        ),
        "prompts": lambda: distributed.generate(model(), torch.tensor(3), max_new_tokens=1, seed=0),
        "one system": lambda: distributed.simulate(LennardJones(), **alike() | {"positions": grid()[0]}),
        "ptr": lambda: distributed.simulate(None, x, system_ptr=torch.tensor([0, 5])),
    }.items():  # fmt: skip
        out[name] = told(call)
        assert torch.equal(distributed.knn(x, x).distances, torch.zeros(5, 1)), name
    return out


def collectives(group: dist.ProcessGroup | None, mask_fn: Callable[..., Any] | None = None) -> dict[str, Any]:
    x = cloud(5, 0)
    return {
        "generate": lambda: distributed.generate(
            model(), n=2, max_new_tokens=3, seed=0, group=group, mask_fn=mask_fn
        ),
        "knn": lambda: distributed.knn(x, group=group),
        "count_within": lambda: distributed.count_within(x, x, 1.0, group=group),
        "kernel_sum": lambda: distributed.kernel_sum(x, bandwidth=1.0, group=group),
        "log_kernel_sum": lambda: distributed.log_kernel_sum(x, bandwidth=1.0, group=group),
        "evaluate": lambda: distributed.evaluate(x, x, k=2, group=group),
        "sample": lambda: distributed.sample(decoder(), 2, seed=0, group=group),
        "simulate": lambda: distributed.simulate(LennardJones(), group=group, **alike()),
    }  # fmt: skip


NAMES = tuple(collectives(None))
TIMEOUT = 8.0  # seconds that a stalled rank is waited for


def _leaves(folder: Path, leave: Callable[[], Any], timeout: float) -> dict[str, Any]:
    """Rank i waits in collective i with the last rank, which is in the middle of the first and leaves there."""
    rank, last = dist.get_rank(), len(NAMES)
    wait = datetime.timedelta(seconds=timeout)
    groups = [dist.new_group([other, last], timeout=wait) for other in range(last)]

    def mask_fn(tokens: Tensor, lengths: Tensor) -> Tensor:
        if rank == last:
            leave()
        return torch.ones(len(tokens), 17, dtype=torch.bool)

    mine = groups[0 if rank == last else rank]
    began = time.monotonic()
    said = told(collectives(mine, mask_fn)[NAMES[0 if rank == last else rank]])
    return {"told": said, "seconds": time.monotonic() - began}


def dies(folder: Path) -> dict[str, Any]:
    return _leaves(folder, lambda: os._exit(3), 120.0)


def stalls(folder: Path) -> dict[str, Any]:
    def stall() -> None:
        while len(list(folder.glob("*.pt"))) < len(NAMES):  # until all others have given up
            time.sleep(0.05)

    return _leaves(folder, stall, TIMEOUT)
