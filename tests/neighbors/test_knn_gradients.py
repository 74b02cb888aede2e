"""Gradients of neighbour distances, the op's fake kernel, and compiled callers."""

from __future__ import annotations

import pytest
import torch

from gmkern.neighbors import knn
from gmkern.testing import run_isa

pytestmark = pytest.mark.sanitize

METRICS = ("euclidean", "sqeuclidean")
OTHERS = ("manhattan", "chebyshev", "inner_product", "cosine")


@pytest.mark.parametrize("metric", METRICS + OTHERS)
@pytest.mark.parametrize("dim", [1, 3, 20])
def test_gradcheck(metric: str, dim: int) -> None:
    if metric == "cosine" and dim == 1:
        pytest.skip("on a line every cosine is 1 or -1: no derivative but 0, at a minimum of a square")
    x = torch.randn(2, 2, dim, dtype=torch.float64, requires_grad=True)  # second derivatives: all pairs of numbers
    y = torch.randn(2, 4, dim, dtype=torch.float64, requires_grad=True)

    def distances(x, y):
        return knn(x, y, 3, metric=metric).distances

    assert torch.autograd.gradcheck(distances, (x, y))
    assert torch.autograd.gradgradcheck(distances, (x, y))


@pytest.mark.parametrize("metric", METRICS)
def test_gradcheck_within(metric: str) -> None:
    x = torch.randn(7, 3, dtype=torch.float64, requires_grad=True)

    def distances(x):
        return knn(x, k=3, exclude_self=True, metric=metric).distances

    assert torch.autograd.gradcheck(distances, (x,))
    assert torch.autograd.gradgradcheck(distances, (x,))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_against_the_reference(dtype: torch.dtype) -> None:
    x, y = torch.randn(40, 30).to(dtype), torch.randn(90, 30).to(dtype)
    y[3] = x[5]
    gradients = []
    for backend in ("cpu", "reference"):
        leaves = x.clone().requires_grad_(), y.clone().requires_grad_()
        distances = knn(*leaves, 4, backend=backend).distances
        weights = torch.linspace(-1, 1, distances.numel()).view_as(distances)
        gradients.append(torch.autograd.grad((distances * weights).sum(), leaves))
    for got, want in zip(*gradients, strict=True):
        assert got.dtype == dtype
        # At most 40 * 4 edges of weight <= 1 along unit vectors end in a point, each term within 4 roundings of the
        # accumulation's u; then one rounding to the points' dtype.
        bound = 160 * 4 * torch.finfo(torch.float32).eps + torch.finfo(dtype).eps * want.abs().double()
        assert ((got.double() - want.double()).abs() <= bound).all()


def test_copies_have_gradient_zero_and_finite() -> None:
    x = torch.randn(6, 5).repeat(2, 1).requires_grad_()
    distances = knn(x, k=2).distances  # itself and its copy: both at 0
    assert not distances.any()
    (gradient,) = torch.autograd.grad(distances.sum(), x, create_graph=True)
    assert torch.equal(gradient, torch.zeros_like(x))
    (second,) = torch.autograd.grad(gradient.square().sum() + gradient.sum(), x)
    assert second.isfinite().all()


def test_known_gradient() -> None:
    x = torch.tensor([[0.0, 0.0]], requires_grad=True)
    y = torch.tensor([[3.0, 4.0], [30.0, 40.0]], requires_grad=True)
    knn(x, y).distances.sum().backward()
    torch.testing.assert_close(x.grad, torch.tensor([[-0.6, -0.8]]), rtol=2e-7, atol=0)
    torch.testing.assert_close(y.grad, torch.tensor([[0.6, 0.8], [0.0, 0.0]]), rtol=2e-7, atol=0)


def test_one_gradient_for_any_threads_and_instruction_set(isa: str, threads) -> None:
    x, y = torch.randn(200, 19), torch.randn(70, 19)
    code = """
        from gmkern.neighbors import knn
        x.requires_grad_(), y.requires_grad_()
        out = torch.autograd.grad(knn(x, y, 5).distances.sum(), (x, y))
    """
    want = run_isa(None, code, threads=1, x=x, y=y)
    assert all(map(torch.equal, run_isa(isa, code, threads=2, x=x, y=y), want))


def test_opcheck() -> None:
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        x = torch.randn(2, 7, 3).to(dtype).requires_grad_()
        y = torch.randn(2, 9, 3).to(dtype).requires_grad_()
        torch.library.opcheck(torch.ops.gmkern.knn.default, (x, y, 3, 0, False, 0, 0))
        torch.library.opcheck(torch.ops.gmkern.knn.default, (x, x, 3, 1, True, 4, 0))
    x = torch.randn(2, 7, 3, requires_grad=True)
    y = torch.randn(2, 9, 3, requires_grad=True)
    indices, weights = torch.randint(9, (2, 7, 4)), torch.randn(2, 7, 4, requires_grad=True)
    torch.library.opcheck(torch.ops.gmkern.edge_pull.default, (x, y, indices, weights, 0))


def test_fullgraph() -> None:
    def loss(x, y, k):
        found = knn(x, y, k)
        return found.distances.square().sum(), found.indices

    compiled = torch.compile(loss, fullgraph=True, dynamic=True, backend="aot_eager")
    for n, k in ((12, 2), (33, 5)):
        x, y = torch.randn(n, 4, requires_grad=True), torch.randn(50, 4)
        got, want = compiled(x, y, k), loss(x, y, k)
        assert torch.equal(got[1], want[1])
        torch.testing.assert_close(got[0], want[0], rtol=n * k * torch.finfo(torch.float32).eps, atol=0)
        (a,), (b,) = (torch.autograd.grad(v[0], x) for v in (got, want))
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)  # k terms of a few u, of size 10


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"indices": torch.full((1, 3, 2), 5)}, "indices: got 5"),
        ({"indices": torch.full((1, 3, 2), -1)}, "indices: got -1"),
        ({"weights": torch.zeros(1, 3, 3)}, "weights: got shape"),
        ({"weights": torch.zeros(1, 3, 2).double()}, "weights: got dtype"),
        ({"references": torch.zeros(1, 5, 3)}, "references: got shape"),
        ({"form": 4}, "form: got 4"),
    ],
)
def test_edge_pull_checks(change: dict, text: str) -> None:
    given = {"queries": torch.zeros(1, 3, 2), "references": torch.zeros(1, 5, 2)}
    given |= {"indices": torch.zeros(1, 3, 2, dtype=torch.int64), "weights": torch.zeros(1, 3, 2), "form": 0} | change
    with pytest.raises(RuntimeError, match=text):
        torch.ops.gmkern.edge_pull(**given)
