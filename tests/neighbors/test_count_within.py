"""gmkern.neighbors.count_within against NumPy, its reference, and knn's own distances."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gmkern.neighbors import count_within, knn

pytestmark = pytest.mark.sanitize


@pytest.mark.parametrize("dim", [1, 2, 3, 7, 16, 40])
@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("per", ["query", "reference"])
def test_integer_points_against_numpy(dim: int, strict: bool, per: str) -> None:
    # Integer coordinates and squared radii: every decision is exact in float64, ties included.
    x, y = torch.randint(-3, 4, (37, dim)).float(), torch.randint(-3, 4, (120, dim)).float()
    squared_radii = torch.randint(0, 12 * dim, (37 if per == "query" else 120,))
    squares = ((x.numpy()[:, None] - y.numpy()[None]) ** 2).sum(-1)
    limits = squared_radii.numpy()[:, None] if per == "query" else squared_radii.numpy()[None]
    # The root of an integer square is its radius to the bit on both sides of the comparison.
    radii = squared_radii.double().sqrt().float()
    want = (squares < limits if strict else squares <= limits).sum(1)
    np.testing.assert_array_equal(count_within(x, y, radii, per=per, strict=strict).numpy(), want)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("dim", [2, 5, 16, 33])
def test_reference(dtype: torch.dtype, dim: int) -> None:
    x, y = torch.randn(2, 41, dim).to(dtype), torch.randn(2, 67, dim).to(dtype)
    y[:, :20] = x[:, :20]
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    for per, n in (("query", 41), ("reference", 67)):
        # Radii that are the distances of pairs themselves, and those one step away.
        radii = knn(x, y, 3).distances[..., 2] if per == "query" else knn(y, x, 3).distances[..., 2]
        radii = torch.where(torch.rand(2, n) < 0.3, torch.nextafter(radii, torch.tensor(0.0, dtype=wide)), radii)
        for strict in (False, True):
            got = count_within(x, y, radii, per=per, strict=strict)
            assert torch.equal(got, count_within(x, y, radii, per=per, strict=strict, backend="reference"))
            alone = count_within(x[1], y[1], radii[1], per=per, strict=strict)
            assert torch.equal(got[1], alone)
    within = count_within(x, x, 1.5, exclude_self=True)
    assert torch.equal(within, count_within(x, x, 1.5) - 1)
    assert torch.equal(within, count_within(x, x, 1.5, exclude_self=True, backend="reference"))


@pytest.mark.parametrize("dim", [2, 9, 64])
def test_the_kth_distance_counts_k(dim: int) -> None:
    x, y = torch.randn(200, dim), torch.randn(900, dim)
    found = knn(x, y, 10).distances
    assert (found[:, 1:] > found[:, :-1]).all()  # no ties in these draws
    for k in (1, 4, 10):
        assert torch.equal(count_within(x, y, found[:, k - 1]), torch.full((200,), k))
        assert torch.equal(count_within(x, y, found[:, k - 1], strict=True), torch.full((200,), k - 1))


@pytest.mark.parametrize("strict", [False, True])
def test_edges(strict: bool) -> None:
    y = torch.tensor([[0.0], [1.0], [1e30]])
    counts = [int(count_within(torch.zeros(1, 1), y, r, strict=strict)[0]) for r in (-1.0, 0.0, 1.0, 1e20, torch.inf)]
    # (1e30)^2 overflows: its distance is infinite, within an infinite radius alone
    assert counts == ([0, 0, 1, 2, 2] if strict else [0, 1, 2, 2, 3])
    assert count_within(torch.zeros(2, 3), torch.zeros(0, 3), 1.0, strict=strict).tolist() == [0, 0]
    tiny = torch.tensor([[0.0], [1e-30]])
    assert count_within(tiny[:1], tiny, torch.tensor([0.0])).tolist() == [2]  # the square of 1e-30 is 0 in float32


def test_opcheck_and_fullgraph() -> None:
    x, y = torch.randn(1, 20, 4), torch.randn(1, 30, 4)
    torch.library.opcheck(torch.ops.gmkern.count_within.default, (x, y, torch.rand(1, 20), False, True, False, 0))
    torch.library.opcheck(torch.ops.gmkern.count_within.default, (x, y, torch.rand(1, 30), True, False, False, 0))
    compiled = torch.compile(lambda x, y, r: count_within(x, y, r), fullgraph=True, backend="aot_eager")
    radii = torch.rand(20) * 3
    assert torch.equal(compiled(x[0], y[0], radii), count_within(x[0], y[0], radii))


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        ({"radii": torch.zeros(7)}, ValueError, r"^radii: .*\[10\]"),
        ({"radii": torch.zeros(10), "per": "reference"}, ValueError, r"^radii: .*\[20\]"),
        ({"radii": torch.zeros(10).double()}, TypeError, "^radii: .*float32"),
        ({"radii": torch.full((10,), torch.nan)}, ValueError, "^radii: got nan"),
        ({"per": "both"}, ValueError, "^per: got 'both'"),
        ({"strict": 1}, TypeError, "^strict: got 1 .*True or False"),
        ({"queries": torch.zeros(10, 3, device="meta")}, ValueError, "^queries: got a tensor on meta"),
        ({"exclude_self": True}, ValueError, "^exclude_self: "),
        ({"references": torch.zeros(20, 2)}, ValueError, "^references: "),
        ({"references": torch.full((20, 3), torch.nan)}, ValueError, r"^references: got nan at \[0, 0\]"),
    ],
)
@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_bad_input(change: dict, error: type[Exception], text: str, backend: str) -> None:
    given = {"queries": torch.zeros(10, 3), "references": torch.zeros(20, 3), "radii": torch.zeros(10), **change}
    with pytest.raises(error, match=text):
        count_within(**given, backend=backend)


def test_the_op_checks_too() -> None:
    x, y = torch.zeros(1, 10, 3), torch.zeros(1, 20, 3)
    for radii in (torch.zeros(1, 20), torch.zeros(10), torch.zeros(1, 10).double(), torch.zeros(1, 20)[:, ::2]):
        with pytest.raises(RuntimeError, match="radii: "):
            torch.ops.gmkern.count_within(x, y, radii, False, False, False, 0)
