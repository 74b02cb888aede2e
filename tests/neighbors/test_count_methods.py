"""Each way to count within radii gives the counts of the differences of all pairs, on data made to break it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from gmkern.neighbors import count_within, knn
from gmkern.testing import run_isa
from tests.neighbors import test_screened, test_tree

pytestmark = pytest.mark.sanitize

DIRECT, SCREENED, TREE, WORDS = 1, 2, 3, 4


def count(x: Tensor, y: Tensor, radii: Tensor, per: str, strict: bool, method: int, *, exclude_self: bool = False):
    return torch.ops.gmkern.count_within(
        x[None], y[None], radii[None].contiguous(), per == "reference", strict, exclude_self, method
    )


def radii_of(x: Tensor, y: Tensor, per: str) -> Tensor:
    """Distances of pairs themselves, from the nearest to all; some a step away, none, 0 and infinity."""
    few, many = (x, y) if per == "query" else (y, x)
    found = knn(few, many, min(len(many), 40)).distances
    radii = found.gather(1, torch.randint(found.shape[1], (len(few), 1)))[:, 0]
    step = torch.rand(len(few))
    radii = torch.where(step < 0.2, torch.nextafter(radii, torch.tensor(0.0, dtype=radii.dtype)), radii)
    radii = torch.where(step > 0.8, 2 * found[:, -1], radii)
    radii[3::41], radii[5::41], radii[7::41] = -1, 0, torch.inf
    return radii


def check(x: Tensor, y: Tensor, methods: tuple[int, ...]) -> None:
    for per in ("query", "reference"):
        for strict in (False, True):
            radii = radii_of(x, y, per)
            want = count(x, y, radii, per, strict, DIRECT)
            for method in methods:
                assert torch.equal(count(x, y, radii, per, strict, method), want)
        radii = radii_of(y, y, per)
        want = count(y, y, radii, per, False, DIRECT, exclude_self=True)
        for method in methods:
            assert torch.equal(count(y, y, radii, per, False, method, exclude_self=True), want)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("name", test_tree.DATA)
def test_tree_is_direct(name: str, dtype: torch.dtype) -> None:
    # One group, one node that is not full, two levels with a remainder; more queries than references, and fewer.
    for n, m, dim in ((40, 5, 3), (90, 250, 2), (17, 4300, 1), (60, 700, 7)):
        y = test_tree.DATA[name](m, dim).to(dtype)
        x = test_tree.DATA[name](n, dim).to(dtype)
        x[: m // 2 : 3] = y[: m // 2][: len(x)][::3]  # copies
        check(x, y, (TREE,))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("name", test_screened.DATA)
def test_screened_is_direct(name: str, dtype: torch.dtype) -> None:
    for n, m, dim in ((70, 301, 17), (30, 200, 9), (25, 150, 100)):
        y = test_screened.DATA[name](m, dim).to(dtype)
        x = y[:n] + test_screened.DATA[name](n, dim).to(dtype) * 0.1
        x[::5] = y[:n][::5]  # copies
        check(x, y, (SCREENED, WORDS))


def test_every_instruction_set_and_any_threads(isa: str) -> None:
    code = """
        import gmkern
        ops = torch.ops.gmkern.count_within
        low = lambda t: t[None, :, :3].contiguous()
        out = [ops(x[None], y[None], r[None], True, True, False, method) for method in (1, 2, 4)]
        out.append(ops(low(x), low(y), r[None] / 20, True, True, False, 3))
    """
    x, y = torch.randn(50, 70), torch.cat([torch.randn(700, 70), torch.randn(300, 70).round()])
    y[:20] = x[:20]
    r = torch.rand(1000) * 20
    want = count(x, y, r, "reference", True, DIRECT)
    low = count(x[:, :3].contiguous(), y[:, :3].contiguous(), r / 20, "reference", True, DIRECT)
    for threads in (1, 2):
        *high, tree = run_isa(isa, code, threads=threads, x=x, y=y, r=r)
        assert all(torch.equal(got, want) for got in high)
        assert torch.equal(tree, low)


@pytest.mark.parametrize("dim", [2, 8, 40])
def test_the_automatic_choice(dim: int) -> None:
    x, y = torch.randn(2, 400, dim), torch.randn(2, 3000, dim)
    radii = 0.3 * dim**0.5 * (1 + torch.rand(2, 400))
    got = count_within(x, y, radii, strict=True)
    for b in range(2):
        assert torch.equal(got[b], count(x[b], y[b], radii[b], "query", True, DIRECT)[0])
    # Lattice points at radii that many pairs lie at exactly: differences decide most of them.
    x, y = torch.randint(0, 2, (400, dim)).float(), torch.randint(0, 2, (600, dim)).float()
    at = torch.full((400,), float(dim // 2)).sqrt()
    assert torch.equal(count_within(x, y, at), count(x, y, at, "query", False, DIRECT)[0])


def test_the_op_says_where_it_has_no_such_method() -> None:
    points = {dim: torch.zeros(5, dim) for dim in (8, 9)}
    with pytest.raises(RuntimeError, match="method: got 3; takes it for up to 8 coordinates"):
        count(points[9], points[9], torch.zeros(5), "query", False, TREE)
    for method in (SCREENED, WORDS):
        with pytest.raises(RuntimeError, match="method: got .; takes it for 9 to 2.15 coordinates"):
            count(points[8], points[8], torch.zeros(5), "query", False, method)
    with pytest.raises(RuntimeError, match="method: got 5"):
        count(points[9], points[9], torch.zeros(5), "query", False, 5)
