"""The search in a tree of boxes gives the bits of the direct one, on data made to break it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from gmkern.neighbors import knn
from gmkern.testing import run_isa

pytestmark = pytest.mark.sanitize

DIRECT, TREE = 1, 3


def search(x: Tensor, y: Tensor, k: int, method: int, *, metric: int = 0, exclude_self: bool = False):
    return torch.ops.gmkern.knn(x[None], y[None], k, metric, exclude_self, 0, method)


def clusters(m: int, dim: int) -> Tensor:
    """Ten tight clusters far from each other."""
    return 50 * torch.randn(10, dim)[torch.randint(10, (m,))] + 1e-4 * torch.randn(m, dim)


def one_wide_coordinate(m: int, dim: int) -> Tensor:
    y = torch.randn(m, dim)
    y[:, 0] *= 1000
    return y


def with_giants(m: int, dim: int) -> Tensor:
    """Squares of some differences overflow."""
    y = torch.randn(m, dim)
    y[::7] = 1e30
    y[3::11] = -1e25
    return y


def line(m: int, dim: int) -> Tensor:
    y = torch.zeros(m, dim)
    y[:, -1] = torch.rand(m)
    return y


DATA = {
    "gaussian": torch.randn,
    "far from the origin": lambda m, dim: torch.randn(m, dim) + 1000,
    "clusters": clusters,
    "one wide coordinate": one_wide_coordinate,
    "lattice": lambda m, dim: torch.randint(0, 4, (m, dim)).float(),  # ties everywhere
    "one point": lambda m, dim: torch.ones(m, dim),
    "three points": lambda m, dim: torch.randint(0, 3, (m, 1)).float().expand(m, dim).contiguous(),
    "line": line,
    "subnormal squares": lambda m, dim: torch.randn(m, dim) * 1e-21,
    "at the smallest scale": lambda m, dim: torch.randn(m, dim) * 1e-38,
    "huge": lambda m, dim: (torch.rand(m, dim) * 2 - 1) * 3e38,
    "giants": with_giants,
    "sorted": lambda m, dim: torch.arange(m * dim).view(m, dim).float(),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("name", DATA)
def test_tree_is_direct(name: str, dtype: torch.dtype) -> None:
    # One group, one node that is not full, one level, two levels with a remainder; k in order and in a reservoir.
    for m, dim, ks in (
        (5, 3, (1, 5)),
        (17, 1, (2, 17)),
        (250, 2, (1, 16, 249)),
        (4300, 3, (5, 100)),
        (700, 7, (1, 40)),
    ):
        y = DATA[name](m, dim).to(dtype)
        x = DATA[name](m // 4 + 1, dim).to(dtype)
        x[::3] = y[: len(x)][::3]  # copies
        for k in ks:
            for metric in (0, 1):
                got, want = (search(x, y, k, method, metric=metric) for method in (TREE, DIRECT))
                assert torch.equal(got[0], want[0])
                assert torch.equal(got[1], want[1])
            within = min(k, m - 1)
            got, want = (search(y, y, within, method, exclude_self=True) for method in (TREE, DIRECT))
            assert torch.equal(got[0], want[0])
            assert torch.equal(got[1], want[1])


@pytest.mark.parametrize("k", [2, 5, 6, 256, 257])
def test_queries_that_lie_far_apart(k: int) -> None:
    # From far away every reference is about as near as the next; sixteen queries have little in common.
    x, y = 1000 * torch.nn.functional.normalize(torch.randn(1100, 3), dim=1), torch.randn(4300, 3)
    x[::2] = 30 * torch.randn(550, 3)
    assert all(map(torch.equal, search(x, y, k, TREE), search(x, y, k, DIRECT)))


def test_self_goes_by_index_where_the_sets_differ() -> None:
    x, y = torch.randint(0, 5, (2, 400, 2)).float()
    got, want = (search(x, y, 3, method, exclude_self=True) for method in (TREE, DIRECT))
    assert all(map(torch.equal, got, want))
    assert not (got[1][0] == torch.arange(400)[:, None]).any()


def test_every_instruction_set_and_any_threads(isa: str) -> None:
    code = """
        import gmkern
        near = torch.ops.gmkern.knn
        cut = lambda t, d: t[None, :, :d].contiguous()
        out = [near(cut(x, d), cut(y, d), k, 0, False, 0, 3) for d in (1, 2, 3, 8) for k in (1, 9, 30)]
    """
    x, y = torch.randn(50, 8), torch.cat([torch.randn(1000, 8), torch.randn(1000, 8).round()])
    for threads in (1, 2):
        found = iter(run_isa(isa, code, threads=threads, x=x, y=y))
        for dim in (1, 2, 3, 8):
            for k in (1, 9, 30):
                want = search(x[:, :dim].contiguous(), y[:, :dim].contiguous(), k, DIRECT)
                assert all(map(torch.equal, next(found), want))


@pytest.mark.parametrize("dim", [1, 2, 3, 4, 8])
def test_the_automatic_choice_at_size(dim: int) -> None:
    y = torch.randn(2, 9000, dim)
    x = torch.randn(2, 500, dim)
    x[:, :100] = y[:, 500:600]
    got = knn(x, y, 10)
    for b in range(2):
        assert all(map(torch.equal, (got.distances[b], got.indices[b]), (t[0] for t in search(x[b], y[b], 10, DIRECT))))
    want = np.sort(((x[0].double()[:, None] - y[0].double()[None]) ** 2).sum(-1).sqrt().numpy(), 1)[:, :10]
    # A difference (twice), a product and at most 4 sums of terms of one sign, and the root: 8 u of the distance.
    np.testing.assert_allclose(got.distances[0].numpy(), want, rtol=8 * 2.0**-24)


def test_the_op_says_where_it_has_no_tree() -> None:
    with pytest.raises(RuntimeError, match="method: got 3; takes it for up to 8 coordinates"):
        search(torch.zeros(5, 9), torch.zeros(5, 9), 1, TREE)
    with pytest.raises(RuntimeError, match="method: got 5"):
        search(torch.zeros(5, 9), torch.zeros(5, 9), 1, 5)
