"""knn by other metrics than the euclidean one: against SciPy in float64, the reference's bits, and gradients."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist

from gmkern.neighbors import knn
from gmkern.testing import run_isa

pytestmark = pytest.mark.sanitize

METRICS = ("manhattan", "chebyshev", "inner_product", "cosine")
WIDTHS = [1, 2, 3, 4, 7, 16, 17, 70]
NAMES = {"manhattan": "cityblock", "chebyshev": "chebyshev", "cosine": "cosine"}


def truth(x: torch.Tensor, y: torch.Tensor, metric: str) -> tuple[np.ndarray, np.ndarray]:
    """Distances of all pairs, and how far in units of u they may be off."""
    a, b = x.double().numpy(), y.double().numpy()
    roundings = a.shape[1] / 16 + 6  # a term's own, its lane's, the tree's
    if metric == "inner_product":
        return -a @ b.T, roundings * np.abs(a) @ np.abs(b).T
    d = cdist(a, b, NAMES[metric])
    if metric == "cosine":
        # Unit vectors are off by some (D / 16 + 9) / 2 + 2 u of each coordinate, and so in sum by that of their length;
        # the square of a difference of length l by 2 l times that of both, and by its own roundings.
        unit = 2 * (roundings + 6) * np.sqrt(2 * np.maximum(d, 0)) + roundings * d
        return d, unit + 64 * 2.0**-29  # SciPy's own, 64 u of float64
    return d, roundings * d


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dim", WIDTHS)
def test_against_scipy(metric: str, dim: int) -> None:
    x, y = torch.randn(30, dim) + 0.5, torch.randn(200, dim)
    found = knn(x, y, 200, metric=metric)
    want, units = truth(x, y, metric)
    assert torch.equal(found.indices.sort(1).values, torch.arange(200).expand(30, 200))
    assert (found.distances[:, 1:] >= found.distances[:, :-1]).all()
    got = np.take_along_axis(want, found.indices.numpy(), 1)
    bound = 6e-8 * np.take_along_axis(units, found.indices.numpy(), 1) + 1e-13
    assert (np.abs(found.distances.double().numpy() - got) <= bound).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("metric", METRICS)
def test_reference(metric: str, dtype: torch.dtype) -> None:
    for dim in WIDTHS:
        x, y = torch.randint(-2, 3, (2, 33, dim)).to(dtype), torch.randn(2, 90, dim).to(dtype)
        x[..., 0] = 3  # many ties, and no row of zeros
        y[:, 40:73] = x
        for k, exclude, references in ((1, False, y), (7, False, y), (90, False, y), (5, True, None)):
            got = knn(x, references, k, metric=metric, exclude_self=exclude)
            want = knn(x, references, k, metric=metric, exclude_self=exclude, backend="reference")
            assert torch.equal(got.distances, want.distances), (dim, k)
            assert torch.equal(got.indices, want.indices), (dim, k)
        first = knn(x, y, 3, metric=metric)
        assert torch.equal(first.indices, knn(x, y, 50, metric=metric).indices[..., :3])
        assert torch.equal(knn(x[1], y[1], 3, metric=metric, block_rows=16).distances, first.distances[1])


@pytest.mark.parametrize("metric", METRICS)
def test_one_result_on_every_instruction_set_and_any_threads(isa: str, metric: str) -> None:
    inputs = {"x": torch.randn(90, 21), "y": torch.randn(800, 21), "low": torch.randn(300, 3)}
    code = """
        from gmkern.neighbors import knn
        x.requires_grad_(), y.requires_grad_()
        found, planar = knn(x, y, 9, metric=metric), knn(low, k=4, exclude_self=True, metric=metric)
        out = [*found, *planar, *torch.autograd.grad(found.distances.sum(), (x, y))]
    """
    want = run_isa(None, code, threads=1, metric=metric, **inputs)
    assert all(map(torch.equal, run_isa(isa, code, threads=2, metric=metric, **inputs), want))


def test_copies() -> None:
    y = torch.randn(300, 40) + 10
    y[200] = y[100]
    for metric in ("manhattan", "chebyshev", "cosine"):
        got = knn(y[100:101], y, 2, metric=metric)
        assert got.distances.tolist() == [[0.0, 0.0]]
        assert got.indices.tolist() == [[100, 200]]
    assert knn(2 * y[100:101], y, 1, metric="cosine").distances.tolist() == [[0.0]]
    # an opposite direction is at 2, a right angle at 1, whatever the lengths
    far = knn(torch.tensor([[1e-30, 0.0]]), torch.tensor([[-1e30, 0.0], [0.0, 1e-38]]), 2, metric="cosine")
    assert far.distances.tolist() == [[1.0, 2.0]]
    assert far.indices.tolist() == [[1, 0]]


def test_inner_products_of_both_signs_and_beyond_the_range() -> None:
    y = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 5.0], [3e38, 3e38], [-3e38, -3e38], [3e38, -3e38]])
    for backend in ("cpu", "reference"):
        got = knn(torch.tensor([[2.0, 0.0]]), y, 6, metric="inner_product", backend=backend)
        assert got.indices.tolist() == [[3, 5, 0, 2, 1, 4]]
        assert got.distances.tolist() == [[-torch.inf, -torch.inf, -2.0, 0.0, 2.0, torch.inf]]
        # infinities of both signs make no number: the last place
        got = knn(torch.tensor([[10.0, 10.0]]), y, 6, metric="inner_product", backend=backend)
        assert got.indices.tolist() == [[3, 2, 0, 1, 4, 5]]
        assert got.distances[0, -1] == torch.inf


@pytest.mark.parametrize("metric", METRICS)
def test_gradients_against_the_reference_and_at_copies(metric: str) -> None:
    x, y = torch.randn(40, 30), torch.randn(90, 30)
    y[3] = x[5]
    gradients = []
    for backend in ("cpu", "reference"):
        leaves = x.clone().requires_grad_(), y.clone().requires_grad_()
        distances = knn(*leaves, 4, metric=metric, backend=backend).distances
        weights = torch.linspace(-1, 1, distances.numel()).view_as(distances)
        gradients.append(torch.autograd.grad((distances * weights).sum(), leaves))
    for got, want in zip(*gradients, strict=True):
        # At most 40 * 4 edges of weight <= 1 and coordinates <= 5 end in a point, each term within 4 roundings.
        assert ((got - want).abs() <= 160 * 5 * 4 * 2.0**-24).all()
    copies = torch.randn(6, 5).repeat(2, 1).requires_grad_()
    distances = knn(copies, k=2, metric=metric).distances
    (gradient,) = torch.autograd.grad(distances.sum(), copies)
    assert gradient.isfinite().all()
    if metric != "inner_product":
        assert not distances.any()
        assert not gradient.any()


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_bad_input(backend: str) -> None:
    x = torch.ones(4, 3)
    zero = x.clone()
    zero[2] = 0
    nan = x.clone()
    nan[1, 2] = torch.nan
    for queries, references, metric, text in (
        (zero, x, "cosine", r"^queries: got a row of zeros at \[2\]"),
        (x, zero, "cosine", r"^references: got a row of zeros at \[2\]"),
        (nan, x, "cosine", r"^queries: got nan at \[1, 2\]"),
        (x, nan, "inner_product", r"^references: got nan at \[1, 2\]"),
        (x, x, "hamming", "^metric: got 'hamming'"),
    ):
        with pytest.raises(ValueError, match=text):
            knn(queries, references, 1, metric=metric, backend=backend)


def test_opcheck_and_fullgraph() -> None:
    x, y = torch.randn(2, 7, 3, requires_grad=True), torch.randn(2, 9, 3, requires_grad=True)
    for metric in (2, 3, 4):
        torch.library.opcheck(torch.ops.gmkern.knn.default, (x, y, 3, metric, False, 0, 0))
    indices, weights = torch.randint(9, (2, 7, 4)), torch.randn(2, 7, 4, requires_grad=True)
    for form in range(4):
        torch.library.opcheck(torch.ops.gmkern.edge_pull.default, (x, y, indices, weights, form))
    x, y = torch.randn(12, 4), torch.randn(50, 4)
    for metric in METRICS:
        compiled = torch.compile(
            lambda x, y, metric=metric: knn(x, y, 3, metric=metric), fullgraph=True, backend="aot_eager"
        )
        assert torch.equal(compiled(x, y).indices, knn(x, y, 3, metric=metric).indices)
    with pytest.raises(RuntimeError, match="method: got 2"):
        torch.ops.gmkern.knn(torch.zeros(1, 4, 20), torch.zeros(1, 600, 20), 1, 2, False, 0, 2)
