"""gmkern.neighbors.knn against float64 NumPy, against its reference to the bit, and its promises."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gmkern.neighbors import knn
from gmkern.testing import run_isa, tolerance

pytestmark = pytest.mark.sanitize

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
DIMS = (1, 2, 3, 4, 5, 8, 9, 16, 17, 31, 64, 100)


def truth(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """All distances [N, M] in float64, as differences."""
    return np.sqrt(((x[:, None].astype(np.float64) - y[None].astype(np.float64)) ** 2).sum(-1))


@pytest.mark.parametrize("dim", DIMS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_against_numpy(dim: int, dtype: torch.dtype) -> None:
    x, y = torch.randn(23, dim).to(dtype), torch.randn(131, dim).to(dtype)
    all_distances = truth(x.double().numpy(), y.double().numpy())
    for metric, power in (("euclidean", 1), ("sqeuclidean", 2)):
        got = knn(x, y, 7, metric=metric)
        want = np.sort(all_distances, 1)[:, :7] ** power
        wide = got.distances.dtype
        assert wide == (torch.float64 if dtype == torch.float64 else torch.float32)
        # Each term passes a difference, a product and at most ceil(dim / 16) + 4 sums, each within u: relative to the
        # sum of the terms, which are all positive, (ceil(dim / 16) + 6) u; the root halves it and adds its own u.
        bound = (-(-dim // 16) + 8) * torch.finfo(wide).eps
        np.testing.assert_allclose(got.distances.double().numpy(), want, rtol=bound)
        # The index is of a point that is at the distance told, and no index comes twice.
        at = np.take_along_axis(all_distances, got.indices.numpy(), 1) ** power
        np.testing.assert_allclose(got.distances.double().numpy(), at, rtol=bound)
        assert all(len(set(row)) == 7 for row in got.indices.tolist())


@pytest.mark.parametrize("dim", DIMS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("metric", ["euclidean", "sqeuclidean"])
def test_reference_bits(dim: int, dtype: torch.dtype, metric: str) -> None:
    # Coarse coordinates in low dimension give many ties.
    x, y = (torch.randn(n, dim) * 2 for n in (37, 211))
    if dim <= 4:
        x, y = x.round() / 2, y.round() / 2
    y[50:60] = x[:10]
    for k in (1, 2, 29, 211):
        got, want = (knn(x.to(dtype), y.to(dtype), k, metric=metric, backend=b) for b in ("cpu", "reference"))
        assert torch.equal(got.distances, want.distances)
        assert torch.equal(got.indices, want.indices)


@pytest.mark.parametrize("exclude_self", [False, True])
def test_within_and_batches(exclude_self: bool) -> None:
    x = torch.randn(3, 70, 5).round()
    most = 70 - exclude_self
    for k in (1, 4, most):
        got = knn(x, k=k, exclude_self=exclude_self)
        want = knn(x, k=k, exclude_self=exclude_self, backend="reference")
        assert torch.equal(got.distances, want.distances)
        assert torch.equal(got.indices, want.indices)
        for b in range(3):
            alone = knn(x[b], x[b].clone(), k, exclude_self=exclude_self)
            assert torch.equal(alone.indices, got.indices[b])
        itself = (got.indices == torch.arange(70)[:, None]).any(2)
        assert itself.any() != exclude_self


@pytest.mark.parametrize("offset", [0.0, 10.0, 100.0, 1e4])
@pytest.mark.parametrize("dim", [3, 512])
def test_a_copy_is_at_zero(offset: float, dim: int) -> None:
    y = torch.randn(300, dim) + offset
    y[200] = y[100]
    got = knn(y[100:103], y, 2)
    assert got.distances[0].tolist() == [0.0, 0.0]
    assert got.indices[0].tolist() == [100, 200]
    assert got.distances[1:, 0].tolist() == [0.0, 0.0]
    assert (got.distances[1:, 1] > 0).all()


def test_ties_of_the_reported_distance_go_to_the_lower_index() -> None:
    # Two neighbouring squares in [1, 2) that have one root (there are more floats in [1, 2) than in [1, sqrt 2)): the
    # larger is given the lower index.
    grid = (torch.arange(1000, dtype=torch.int32) + torch.tensor(0.75).view(torch.int32)).view(torch.float32)
    squares = grid * grid + torch.tensor(0.75) * torch.tensor(0.75)
    roots = squares.double().sqrt().float()
    i = int(((roots[1:] == roots[:-1]) & (squares[1:] > squares[:-1])).nonzero()[0, 0])
    y = torch.tensor([[grid[i + 1], 0.75], [grid[i], 0.75]])
    euclidean, squared = (knn(torch.zeros(1, 2), y, 2, metric=m) for m in ("euclidean", "sqeuclidean"))
    assert euclidean.indices.tolist() == [[0, 1]]
    assert squared.indices.tolist() == [[1, 0]]


def test_all_points_equal() -> None:
    for dim in (2, 20):
        got = knn(torch.ones(9, dim), torch.ones(1000, dim), 50)
        assert torch.equal(got.indices, torch.arange(50).expand(9, 50))
        assert not got.distances.any()


def test_overflowing_squares_are_infinite_and_ordered() -> None:
    y = torch.full((40, 17), 1e30)
    y[33] = 1.0
    got = knn(torch.zeros(1, 17), y, 40)
    assert got.indices[0].tolist() == [33, *range(33), *range(34, 40)]
    assert got.distances[0, 0] == torch.tensor(17.0).sqrt()
    assert got.distances[0, 1:].isinf().all()


@pytest.mark.parametrize(
    ("dtype", "dim"), [(torch.float32, 2), (torch.float32, 40), (torch.float64, 40), (torch.bfloat16, 7)]
)
def test_one_result_on_every_instruction_set(isa: str, dtype: torch.dtype, dim: int) -> None:
    x, y = torch.randn(45, dim).to(dtype), torch.randn(1111, dim).to(dtype)
    code = "from gmkern.neighbors import knn\nout = [tuple(knn(x, y, k)) for k in (1, 20)]"
    for got, k in zip(run_isa(isa, code, x=x, y=y), (1, 20), strict=True):
        want = knn(x, y, k)
        assert torch.equal(got[0], want.distances)
        assert torch.equal(got[1], want.indices)


@pytest.mark.parametrize("dim", [2, 8, 48])
def test_one_result_for_any_threads_blocks_batch_and_k(dim: int, threads) -> None:
    x, y = torch.randn(101, dim).round(decimals=1), torch.randn(3001, dim).round(decimals=1)
    want = knn(x, y, 64)
    for n in (1, 2, 3):
        threads(n)
        assert torch.equal(knn(x, y, 64).indices, want.indices)
    for rows in (1, 17, 1000, 10_000):
        assert torch.equal(knn(x, y, 64, block_rows=rows).indices, want.indices)
    assert torch.equal(knn(x, y, 64, block_rows=2**63 - 1).indices, want.indices)
    for k in (1, 2, 5, 63):
        got = knn(x, y, k)
        assert torch.equal(got.indices, want.indices[:, :k])
        assert torch.equal(got.distances, want.distances[:, :k])
    assert torch.equal(knn(x[40:41], y, 64).distances, want.distances[40:41])
    # Negative control: the comparison can fail.
    assert not torch.equal(knn(x + 0.01, y, 64).distances, want.distances)


def test_numpy_and_memory_maps(tmp_path) -> None:
    y = np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32)
    np.save(tmp_path / "y.npy", y)
    mapped = np.load(tmp_path / "y.npy", mmap_mode="r")
    assert torch.equal(knn(y[:5], mapped, 2).indices, knn(torch.from_numpy(y[:5]), torch.from_numpy(y), 2).indices)


def test_no_queries_and_strided_input() -> None:
    y = torch.randn(6, 30)
    assert knn(torch.empty(0, 6), y.T, 3).indices.shape == (0, 3)
    assert torch.equal(knn(y.T[::3], y.T, 3).indices, knn(y.T[::3].clone(), y.T.contiguous(), 3).indices)


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_is_named_with_its_place(backend: str, value: float) -> None:
    y = torch.randn(5000, 3)
    y[4321, 2], y[4400, 0] = value, value
    with pytest.raises(ValueError, match=rf"^references: got {value} at \[4321, 2\]; takes finite numbers"):
        knn(torch.zeros(2, 3), y, backend=backend)
    with pytest.raises(ValueError, match=r"^queries: got .* at \[1, 4321, 2\]"):
        knn(torch.stack([torch.zeros(5000, 3), y]), backend=backend)
    half = y.to(torch.bfloat16)
    with pytest.raises(ValueError, match=r"^references: .*4321, 2"):
        knn(half[:1], half, backend=backend)


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"k": 0}, ValueError, "^k: got 0"),
        ({"k": 21}, ValueError, "^k: got 21.*20"),
        ({"k": 2.0}, TypeError, "^k: "),
        ({"references": None, "k": 10, "exclude_self": True}, ValueError, "^k: got 10.*9"),
        ({"exclude_self": True}, ValueError, "^exclude_self: "),
        ({"metric": "hamming"}, ValueError, "^metric: got 'hamming'.*'sqeuclidean'"),
        ({"references": torch.zeros(20, 4)}, ValueError, r"^references: .*\[M, 3\]"),
        ({"references": torch.zeros(20, 3).double()}, TypeError, "^references: .*float32"),
        ({"references": torch.zeros(2, 20, 3)}, ValueError, "^references: .*2 dimensions"),
        ({"queries": torch.zeros(10, 3).int()}, TypeError, "^queries: .*int32"),
        ({"queries": torch.zeros(10, 0)}, ValueError, "^queries: .*coordinate"),
        ({"block_rows": 0}, ValueError, "^block_rows: got 0"),
        ({"backend": "cuda"}, ValueError, "cuda"),
        ({"queries": [1.0]}, TypeError, "^queries: "),
    ],
)
def test_bad_input(arguments: dict, error: type[Exception], text: str) -> None:
    given = {"queries": torch.zeros(10, 3), "references": torch.zeros(20, 3), **arguments}
    with pytest.raises(error, match=text):
        knn(**given)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"k": 0}, "k: got 0"),
        ({"k": 21}, "k: got 21"),
        ({"metric": 9}, "metric: got 9"),
        ({"queries": torch.zeros(10, 3)}, "queries: got shape"),
        ({"references": torch.zeros(1, 20, 4)}, "references: got shape"),
        ({"references": torch.zeros(1, 20, 3).double()}, "references: got dtype"),
        ({"references": torch.zeros(1, 3, 20).mT}, "references: takes a contiguous"),
        ({"queries": torch.zeros(1, 10, 3).int(), "references": torch.zeros(1, 20, 3).int()}, "queries: got dtype"),
        ({"exclude_self": True}, "exclude_self"),
        ({"block_rows": -1}, "block_rows: got -1"),
    ],
)
def test_the_op_checks_too(change: dict, text: str) -> None:
    given = {"queries": torch.zeros(1, 10, 3), "references": torch.zeros(1, 20, 3), "k": 1, "metric": 0}
    given |= {"exclude_self": False, "block_rows": 0, "method": 0, **change}
    with pytest.raises(RuntimeError, match=text):
        torch.ops.gmkern.knn(**given)


def test_small_distances_keep_their_precision() -> None:
    # A copy with noise of 1e-3 around a mean of 10: the form |x|^2 + |y|^2 - 2xy is off by 0.2 here.
    y = torch.randn(500, 512, dtype=torch.float64) + 10
    x = y[:20] + 1e-3 * torch.randn(20, 512, dtype=torch.float64)
    got = knn(x.float(), y.float(), 1)
    want = truth(x.float().numpy(), y.float().numpy())[np.arange(20), np.arange(20)]
    assert torch.equal(got.indices[:, 0], torch.arange(20))
    # 512 positive terms of one rounding each besides the sums
    np.testing.assert_allclose(got.distances[:, 0].numpy(), want, rtol=tolerance(torch.float32, 512))
