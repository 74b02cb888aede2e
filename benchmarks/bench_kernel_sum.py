"""kernel_sum, log_kernel_sum and a gradient beside torch (cdist, exp and a sum in blocks of queries) and KeOps.

torch.cdist takes the Gram form above 25 rows, by matrix products, which is off where points lie far from the origin;
gmkern takes differences. The gap narrows, or turns, with the number of coordinates.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from _case import OURS, Case, Point, Run, across
from _rivals import lazy_tensor
from torch import Tensor

from gmkern.neighbors import kernel_sum, log_kernel_sum

ROWS = 500  # queries of a block of torch's
FEW = 8  # queries that are held to float64


class Points(NamedTuple):
    x: Tensor
    y: Tensor

    @property
    def h(self) -> float:
        return float(self.x.shape[1]) ** 0.5


Sums = Callable[[Points, Tensor], Tensor]
"""Of all points, and of the queries again, which may be a leaf or a part."""


def points(dim: int, n: int, m: int) -> Points:
    generator = torch.Generator().manual_seed(0)
    return Points(*(torch.randn(count, dim, generator=generator) for count in (n, m)))


def exponents(given: Points, x: Tensor) -> Tensor:
    return torch.cdist(x, given.y).square().mul(-0.5 / given.h**2)


def lazy_exponents(given: Points, x: Tensor) -> object:
    lazy = lazy_tensor()
    return ((lazy(x[:, None]) - lazy(given.y[None])) ** 2).sum(-1) * (-0.5 / given.h**2)


SUMS: dict[str, Sums] = {
    OURS: lambda given, x: kernel_sum(x, given.y, bandwidth=given.h),
    "torch.cdist": lambda given, x: torch.cat([exponents(given, part).exp().sum(1) for part in x.split(ROWS)]),
    "pykeops": lambda given, x: lazy_exponents(given, x).exp().sum(1)[:, 0],
}
LOGS: dict[str, Sums] = {
    OURS: lambda given, x: log_kernel_sum(x, given.y, bandwidth=given.h),
    "torch.cdist": lambda given, x: torch.cat([exponents(given, part).logsumexp(1) for part in x.split(ROWS)]),
    "pykeops": lambda given, x: lazy_exponents(given, x).logsumexp(1)[:, 0],
}


def values(sums: Sums, given: Points) -> Run:
    return lambda _: sums(given, given.x)


def gradients(sums: Sums, given: Points) -> Run:
    def run(_: int) -> Tensor:
        leaf = given.x.clone().requires_grad_()
        return torch.autograd.grad(sums(given, leaf).sum(), leaf)[0]

    return run


def check(
    how: Callable[[Sums, Points], Run], plain: Sums, given: Points, tool: str, ours: Tensor, theirs: Tensor
) -> None:
    """Exponents of size 1 by the Gram form in float32 err by some 1e-5, and so do sums and their logarithms."""
    if tool == OURS:
        ours, theirs = ours[:FEW], how(plain, Points(given.x[:FEW].double(), given.y.double()))(1)
    worst = float(((ours - theirs).abs() / ours.abs().clamp(min=1)).max())
    assert worst <= 1e-3, f"{tool}: sums differ from ours by {worst:.2e}"


KINDS = {"kernel_sum": (values, SUMS), "log_kernel_sum": (values, LOGS), "gradient of kernel_sum": (gradients, SUMS)}


def case(kind: str, dim: int, n: int, m: int, *, keops: bool = False, point: Point | None = None) -> Case:
    how, tools = KINDS[kind]
    taken = {name: partial(how, sums) for name, sums in tools.items() if keops or name != "pykeops"}
    name = f"{kind}, D={dim} N={n} M={m}"
    # Bytes of points and sums; a difference, a product and a sum a coordinate, twice for a gradient.
    moved, flop = 4.0 * (dim * (n + m) + n), 3.0 * dim * n * m * (2 if how is gradients else 1)
    return Case(
        name, partial(points, dim, n, m), taken, partial(check, how, tools["torch.cdist"]), moved, flop, point=point
    )


CASES = [
    case("kernel_sum", 2, 1000, 10_000, keops=True),
    case("kernel_sum", 2, 4000, 20_000, keops=True),
    case("kernel_sum", 16, 4000, 20_000),
    case("kernel_sum", 64, 4000, 20_000, keops=True),
    case("kernel_sum", 512, 1000, 10_000),
    case("log_kernel_sum", 2, 4000, 20_000, keops=True),
    case("log_kernel_sum", 64, 4000, 20_000),
    case("gradient of kernel_sum", 2, 4000, 20_000, keops=True),
    case("gradient of kernel_sum", 64, 4000, 20_000),
]
CURVES = [case("kernel_sum", dim, 1000, 10_000, point=Point("kernel_sum", "D", dim)) for dim in (8, 32, 128, 512)] + [
    case("kernel_sum", 16, 1000, m, point=Point("kernel_sum", "M", m)) for m in (5000, 10_000, 20_000, 40_000)
]


@across(CASES)
def test_kernel_sum(case, tool, raced):
    raced(case, tool)


@across(CURVES)
def test_kernel_sum_grows(case, tool, raced):
    raced(case, tool)
