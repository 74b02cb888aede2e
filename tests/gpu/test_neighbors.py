"""Neighbours on a real GPU: the CPU's distances, indices and counts, and gradients."""

from __future__ import annotations

import pytest
import torch

from gmkern.neighbors import count_within, knn, knn_certificate
from gmkern.neighbors.count_within import ops as count_ops
from gmkern.neighbors.knn import ops

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("metric", ["euclidean", "sqeuclidean", "manhattan", "chebyshev", "cosine", "inner_product"])
@pytest.mark.parametrize(
    ("n", "m", "d", "k"), [(1, 1, 1, 1), (1000, 3001, 3, 5), (257, 5000, 65, 64), (100, 4000, 512, 2048)]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_the_bits_of_the_cpu(metric, n, m, d, k, dtype):
    made = torch.Generator().manual_seed(0)
    x, y = (torch.randn(rows, d, generator=made).mul(4).round().add(0.5).div(4).to(dtype) for rows in (n, m))
    ours, theirs = knn(x.cuda(), y.cuda(), k, metric=metric), knn(x, y, k, metric=metric)
    if metric != "cosine":  # directions divide and take roots in PyTorch
        assert torch.equal(ours.indices.cpu(), theirs.indices)
        assert torch.equal(ours.distances.cpu(), theirs.distances)
    torch.testing.assert_close(ours.distances.cpu(), theirs.distances, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ["normal", "clusters", "copies", "far off"])
@pytest.mark.parametrize(("n", "m", "d", "k"), [(1000, 5003, 16, 1), (333, 9001, 65, 5), (65, 20_000, 700, 100)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_screened_by_halves(kind, n, m, d, k, dtype):
    made = torch.Generator().manual_seed(2)
    x, y = (torch.randn(1, rows, d, generator=made) for rows in (n, m))
    if kind == "clusters":
        y = y[:, torch.arange(m) % 50] + 0.01 * y
        x = y[:, :n] + 0.01 * x
    elif kind == "copies":  # more of each than there is room for
        y = y[:, torch.arange(m) % 3]
        x[:, ::2] = y[:, : (n + 1) // 2]
    elif kind == "far off":
        x, y = x + 100, y + 100
    x, y = x.to(dtype), y.to(dtype)
    ours, theirs = ops.knn(x.cuda(), y.cuda(), k, 0, False, 0, 2), ops.knn(x, y, k, 0, False, 0, 1)
    assert torch.equal(ours[1].cpu(), theirs[1])
    assert torch.equal(ours[0].cpu(), theirs[0])


def test_within_one_set_of_many():
    x = torch.randn(1, 20_000, 48, generator=torch.Generator().manual_seed(3))
    ours, theirs = ops.knn(x.cuda(), x.cuda(), 6, 1, True, 0, 2), ops.knn(x, x, 6, 1, True, 0, 0)
    assert torch.equal(ours[1].cpu(), theirs[1])
    assert torch.equal(ours[0].cpu(), theirs[0])
    course = knn_certificate(x[0].cuda(), k=6, exclude_self=True)
    assert course.method == "screened by halves"
    assert course.share > 0.99
    assert course.candidates < 12


@pytest.mark.parametrize("per", ["query", "reference"])
def test_counts(per):
    x = torch.randn(3000, 17).mul(2).round().cuda()
    radii = knn(x, None, 5, exclude_self=True).distances[:, -1]
    for strict in (False, True):
        ours = count_within(x, x, radii, per=per, strict=strict)
        assert torch.equal(ours.cpu(), count_within(x.cpu(), x.cpu(), radii.cpu(), per=per, strict=strict))


@pytest.mark.parametrize("per_reference", [False, True])
@pytest.mark.parametrize("kind", ["normal", "ties", "copies"])
@pytest.mark.parametrize(("n", "m", "d"), [(1000, 5003, 20), (333, 9001, 300)])
def test_counts_screened_by_halves(kind, per_reference, n, m, d):
    made = torch.Generator().manual_seed(4)
    x, y = (torch.randn(1, rows, d, generator=made) for rows in (n, m))
    if kind == "ties":
        x, y = x.round(), y.round()
    elif kind == "copies":
        y = y[:, torch.arange(m) % 3]
    sides = (y, x) if per_reference else (x, y)
    radii = ops.knn(*sides, 5, 0, False, 0, 0)[0][:, :, 4].contiguous()
    for strict in (False, True):
        ours = count_ops.count_within(x.cuda(), y.cuda(), radii.cuda(), per_reference, strict, False, 2)
        assert torch.equal(ours.cpu(), count_ops.count_within(x, y, radii, per_reference, strict, False, 0))


def test_gradients_are_the_same_each_time():
    def gradients(device: str) -> tuple[torch.Tensor, torch.Tensor]:
        made = torch.Generator().manual_seed(1)
        x, y = (torch.randn(rows, 8, generator=made).to(device).requires_grad_() for rows in (500, 40))
        knn(x, y, 7).distances.square().sum().backward()
        return x.grad.cpu(), y.grad.cpu()

    first, again, on_cpu = gradients("cuda"), gradients("cuda"), gradients("cpu")
    for a, b, c in zip(first, again, on_cpu, strict=True):
        assert torch.equal(a, b)
        torch.testing.assert_close(a, c, rtol=1e-4, atol=1e-4)


def test_on_another_stream():
    x, y = torch.randn(2000, 32), torch.randn(9000, 32)
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        found = knn(x.cuda(), y.cuda(), 3)
    stream.synchronize()
    assert torch.equal(found.indices.cpu(), knn(x, y, 3).indices)
