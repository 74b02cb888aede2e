"""The Triton kernels of neighbours, in the interpreter: the C++ kernels' bits."""

from __future__ import annotations

import pytest
import torch

from gmkern.neighbors import count_within, knn

METRICS = ("euclidean", "sqeuclidean", "manhattan", "chebyshev", "cosine", "inner_product")


def points(n: int, d: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> torch.Tensor:
    """[n, d] on a coarse grid, so that ties and copies abound, with some off it."""
    made = torch.Generator().manual_seed(seed)
    x = torch.randint(-2, 3, (n, d), generator=made).double() + 0.5
    return torch.where(torch.rand(n, 1, generator=made) < 0.5, x, x + torch.randn(n, d, generator=made)).to(dtype)


def same(x, y, k, **options) -> None:
    ours, theirs = knn(x, y, k, backend="triton", **options), knn(x, y, k, backend="cpu", **options)
    assert ours.distances.dtype == theirs.distances.dtype
    assert torch.equal(ours.indices, theirs.indices)
    assert torch.equal(ours.distances, theirs.distances)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(
    ("n", "m", "d", "k"), [(1, 1, 1, 1), (17, 33, 3, 1), (19, 70, 17, 5), (5, 70, 33, 40), (3, 90, 16, 77)]
)
def test_nearest(metric, n, m, d, k):
    same(points(n, d), points(m, d, seed=1), k, metric=metric)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("k", [1, 6])
def test_dtypes(dtype, k):
    same(points(9, 20, dtype), points(40, 20, dtype, seed=1), k)


@pytest.mark.parametrize("k", [1, 7, 39])
def test_within_one_set(k):
    same(points(40, 5), None, k, exclude_self=True)


def test_batches_and_strides():
    x = points(60, 10).view(3, 20, 10).transpose(0, 1)[:, :, ::2]
    same(x, points(20 * 23, 5, seed=2).view(20, 23, 5), 4)


def test_parts_are_merged(monkeypatch):
    from gmkern.neighbors.knn import triton_kernels

    monkeypatch.setattr(
        triton_kernels, "programs", lambda rows, batch, references, tile: (-(-references // tile), tile)
    )
    for k in (1, 9):
        same(points(18, 4), points(100, 4, seed=1), k)


def test_overflow_and_nothing():
    far = torch.full((3, 2), 3e38)
    same(torch.cat([far, -far]), torch.cat([-far, far]), 6)
    same(torch.tensor([[3e38, 3e38]]), torch.tensor([[3e38, -3e38], [-3e38, -3e38]]), 2, metric="inner_product")
    assert knn(torch.empty(0, 3), points(5, 3), 2, backend="triton").indices.shape == (0, 2)


@pytest.mark.parametrize("per", ["query", "reference"])
@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_counts(per, strict, dtype):
    x = points(37, 6, dtype)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    radii = knn(x, None, 4, exclude_self=True).distances[:, -1].to(wide)  # decided by ties
    radii[:3] = torch.tensor([0.0, -1.0, torch.inf], dtype=wide)
    for exclude in (False, True):
        given = {"per": per, "strict": strict, "exclude_self": exclude}
        ours = count_within(x, x, radii, backend="triton", **given)
        assert torch.equal(ours, count_within(x, x, radii, backend="cpu", **given))
        assert ours.unique().numel() > 3


def test_what_is_refused():
    x = points(4, 3)
    for call in (lambda x: knn(x, None, 1, backend="triton"), lambda x: count_within(x, x, 1.0, backend="triton")):
        bad = x.clone()
        bad[2, 1] = torch.nan
        with pytest.raises(ValueError, match="queries: got nan at"):
            call(bad)
    with pytest.raises(ValueError, match="radii: got nan"):
        count_within(x, x, torch.tensor([1.0, torch.nan, 1.0, 1.0]), backend="triton")
    with pytest.raises(ValueError, match="takes CUDA tensors where a gradient is wanted"):
        knn(x.requires_grad_(), None, 1, backend="triton")


@pytest.mark.parametrize("form", range(4))
def test_the_pull_of_edges_is_that_of_the_cpu(form):
    from gmkern.neighbors.knn import ops

    x, y = points(7, 5, torch.float64)[None], points(6, 5, torch.float64, seed=1)[None]
    indices = torch.randint(0, 6, (1, 7, 3), generator=torch.Generator().manual_seed(0))
    weights = points(7, 3, torch.float64, seed=2)[None]
    for ours, theirs in zip(
        ops._pull_by_columns(x, y, indices, weights, form), ops.edge_pull(x, y, indices, weights, form), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-14, atol=1e-13)
