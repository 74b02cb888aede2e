"""The screened search gives the bits of the direct one, on data made to break it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from gmkern.testing import run_isa

pytestmark = pytest.mark.sanitize

DIRECT, SCREENED, WORDS = 1, 2, 4


def search(x: Tensor, y: Tensor, k: int, method: int, *, metric: int = 0, exclude_self: bool = False, rows: int = 0):
    return torch.ops.gmkern.knn(x[None], y[None], k, metric, exclude_self, rows, method)


def clusters(m: int, dim: int) -> Tensor:
    """Ten tight clusters far from each other: nearest distances are small against the norms."""
    return 50 * torch.randn(10, dim)[torch.randint(10, (m,))] + 0.01 * torch.randn(m, dim)


def heavy(m: int, dim: int) -> Tensor:
    """Norms over several orders of magnitude."""
    return torch.randn(m, dim) * torch.exp(2 * torch.randn(m, 1))


def one_wide_coordinate(m: int, dim: int) -> Tensor:
    """One coordinate takes the whole lattice: the others round to almost nothing, and rows fail to certify."""
    y = torch.randn(m, dim)
    y[:, 0] *= 3000
    return y


def with_giant(m: int, dim: int) -> Tensor:
    y = torch.randn(m, dim)
    y[m // 2] = 1e30
    y[m // 3] = -1e17
    return y


DATA = {
    "gaussian": torch.randn,
    "far from the origin": lambda m, dim: torch.randn(m, dim) + 1000,
    "clusters": clusters,
    "heavy": heavy,
    "one wide coordinate": one_wide_coordinate,
    "hypercube": lambda m, dim: torch.randint(0, 2, (m, dim)).float(),
    "one point": lambda m, dim: torch.ones(m, dim),
    "tiny": lambda m, dim: torch.randn(m, dim) * 1e-20,
    "at the smallest scale": lambda m, dim: torch.randn(m, dim) * 1e-15,
    "huge": lambda m, dim: torch.randn(m, dim) * 1e18,
    "a giant": with_giant,
    "zeros and one": lambda m, dim: torch.eye(m, dim) * 2,
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("method", [SCREENED, WORDS], ids=["screened", "words"])
@pytest.mark.parametrize("name", DATA)
def test_screened_is_direct(name: str, method: int, dtype: torch.dtype) -> None:
    for m, dim, k in ((600, 9, 2), (700, 17, 1), (1301, 64, 30), (515, 300, 5)):
        y = DATA[name](m, dim).to(dtype)
        x = y[: m // 10] + DATA[name](m // 10, dim).to(dtype) * 0.1
        x[::5] = y[: m // 10][::5]  # copies
        for arguments in ({}, {"metric": 1, "rows": 64}):
            got, want = (search(x, y, k, how, **arguments) for how in (method, DIRECT))
            assert torch.equal(got[0], want[0])
            assert torch.equal(got[1], want[1])
        got, want = (search(y, y, k, how, exclude_self=True) for how in (method, DIRECT))
        assert torch.equal(got[0], want[0])
        assert torch.equal(got[1], want[1])


def test_every_instruction_set_screens_alike(isa: str) -> None:
    x, y = torch.randn(50, 70), clusters(900, 70) * 0.1 + torch.randn(900, 70)
    code = "import gmkern; out = [torch.ops.gmkern.knn(x[None], y[None], 9, 0, False, 0, m) for m in (2, 4)]"
    want = search(x, y, 9, DIRECT)
    for threads in (1, 2):
        for got in run_isa(isa, code, threads=threads, x=x, y=y):
            assert all(map(torch.equal, got, want))


@pytest.mark.parametrize("k", [3, pytest.param(210, marks=pytest.mark.endless)])
@pytest.mark.parametrize("method", [SCREENED, WORDS], ids=["bytes", "words"])
def test_within_one_set_pairs_tell_both(threads, method: int, k: int) -> None:
    # Wide and many enough for parts that meet each other. At k = 210 their lists take more than one slab (by words 726
    # candidates of 12 bytes and 384 bytes a row, in 64 MB). Clusters, copies, points without a lattice and one wide
    # coordinate, whose rows fail to certify.
    m, dim = (2300 if k == 3 else 7500), 192
    y = torch.cat([torch.randn(m - 700, dim), clusters(400, dim), one_wide_coordinate(300, dim)])
    y[5::7] = y[3]
    y[m // 2], y[m // 2 + 1] = 1e30, -1e17
    y = y[torch.randperm(m)]
    rows = torch.randint(m, (40,))
    direct = search(y[rows], y, k + 1, DIRECT)
    for count in (1, 2):
        threads(count)
        for exclude_self in (False, True):
            both, one_way = (search(y, z, k, method, exclude_self=exclude_self) for z in (y, y.clone()))
            assert all(map(torch.equal, both, one_way))
        own = search(y, y, k + 1, method)
        assert torch.equal(own[0][0, rows], direct[0][0])
        assert torch.equal(own[1][0, rows], direct[1][0])


def test_longest_words() -> None:
    # Points along one coordinate, along a diagonal, and in 2^15 coordinates: the integers of a word are at their
    # largest, alone or in length, and dot products near 2^31.
    y = torch.zeros(600, 64)
    y[:300, 5] = torch.linspace(-1, 1, 300)
    y[300:] = torch.linspace(-1, 1, 300)[:, None]
    wide = torch.randint(0, 2, (40, 1 << 15)).float() * 2 - 1
    for points, k in ((y, 7), (wide, 3), (torch.cat([wide, -wide]), 3)):
        assert all(map(torch.equal, search(points, points, k, WORDS), search(points, points, k, DIRECT)))


def test_many_neighbours_go_by_words() -> None:
    x, y = torch.randn(20, 40), torch.randn(6000, 40)
    assert all(map(torch.equal, search(x, y, 300, 0), search(x, y, 300, DIRECT)))


def test_a_pilot_chooses() -> None:
    # Enough queries for a pilot: distances concentrate (words), or copies stand out (bytes).
    far = torch.randn(4200, 300)
    for x, y in ((torch.randn(200, 300), far), (far[:200] + 0.01 * torch.randn(200, 300), far)):
        assert all(map(torch.equal, search(x, y, 60, SCREENED), search(x, y, 60, DIRECT)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_automatic_choice_at_size(dtype: torch.dtype) -> None:
    # Large enough that the public call screens; the truth is float64 NumPy in the Gram form, within its own error.
    x, y = torch.randn(200, 96, dtype=dtype), torch.randn(6000, 96, dtype=dtype)
    y[100:300] = x
    got = search(x, y, 20, 0)
    want = search(x, y, 20, DIRECT)
    assert all(map(torch.equal, got, want))
    a, b = x.double().numpy(), y.double().numpy()
    squares = (a**2).sum(1)[:, None] + (b**2).sum(1)[None] - 2 * a @ b.T
    nearest = np.sqrt(np.maximum(np.sort(squares, 1)[:, 1:20], 0))
    # fp32: (96 / 16 + 8) u of the distance; fp64 truth: a few hundred u of squares of size 200, at distances above 5
    np.testing.assert_allclose(got[0][0, :, 1:].numpy(), nearest, rtol=14 * 2.0**-24)
    assert not got[0][0, :, 0].any()


def test_the_op_says_what_it_cannot_screen() -> None:
    for x, k in ((torch.zeros(5, 8), 1), (torch.zeros(3000, 20), 2049)):
        with pytest.raises(RuntimeError, match="method: "):
            search(x, x, k, SCREENED)
    with pytest.raises(RuntimeError, match="method: got 5"):
        search(torch.zeros(5, 20), torch.zeros(5, 20), 1, 5)
