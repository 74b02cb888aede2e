"""kernel_sum and log_kernel_sum on a CPU beside torch: cdist, exp and a sum (logsumexp) in blocks of queries.

    python benchmarks/bench_kernel_sum.py [--rounds 5]     a table of ratios, in turns, results checked

torch.cdist takes the Gram form above 25 rows, by matrix products, which is off where points lie far from the origin;
gmkern takes differences. The gap narrows, or turns, with the number of coordinates.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from typing import Any

import torch
from _compare import circumstances, interleaved

from gmkern.neighbors import kernel_sum, log_kernel_sum

# D, queries, references
CASES = [(2, 4000, 20_000), (16, 4000, 20_000), (64, 4000, 20_000), (512, 1000, 10_000)]
ROWS = 500  # queries of a block of torch's
Run = Callable[[], torch.Tensor]


def check(name: str, ours: Any, rival: Any) -> None:
    """Exponents of size 1 by the Gram form in float32 err by some 1e-5, and so do sums and their logarithms."""
    worst = float(((ours - rival).abs() / ours.abs().clamp(min=1)).max())
    assert worst <= 1e-3, f"{name}: sums differ from ours by {worst:.2e}"


def runs(dim: int, n: int, m: int) -> list[tuple[str, Run, Run]]:
    """(what, ours, torch's) for one case."""
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randn(count, dim, generator=generator) for count in (n, m))
    h = float(dim) ** 0.5

    def exponents(part: torch.Tensor) -> torch.Tensor:
        return torch.cdist(part, y).square().mul(-0.5 / h**2)

    def ours(points: torch.Tensor) -> torch.Tensor:
        return kernel_sum(points, y, bandwidth=h)

    def plain(points: torch.Tensor) -> torch.Tensor:
        return torch.cat([exponents(p).exp().sum(1) for p in points.split(ROWS)])

    def gradient(sums: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
        leaf = x.clone().requires_grad_()
        return torch.autograd.grad(sums(leaf).sum(), leaf)[0]

    return [
        ("kernel_sum", lambda: ours(x), lambda: plain(x)),
        (
            "log_kernel_sum",
            lambda: log_kernel_sum(x, y, bandwidth=h),
            lambda: torch.cat([exponents(p).logsumexp(1) for p in x.split(ROWS)]),
        ),
        ("gradient", lambda: gradient(ours), lambda: gradient(plain)),
    ]


def table(rounds: int) -> None:
    """Prints a row for each case as it comes."""
    for case in CASES:
        for what, ours, rival in runs(*case):
            told = "{} D={} N={} M={}".format(what, *case)
            print(interleaved(told, ours, {"torch": rival}, check, rounds=rounds), flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="times each is run in a case")
    given = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", torch.get_num_threads())))
    for key, value in circumstances().items():
        print(f"{key}: {value}")
    table(given.rounds)
