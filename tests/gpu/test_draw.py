"""context.draw on a real GPU: the CPU's sets, gradients, graphs."""

from __future__ import annotations

import pytest
import torch

from gmkern import context

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize(("m", "n", "size", "shape"), [(1, 3, 1, ()), (500, 257, 10, (28, 28)), (3000, 5, 1024, (3,))])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.uint8])
def test_the_sets_of_the_cpu(m, n, size, shape, dtype):
    train = torch.randn(m, *shape).mul(50).to(dtype)
    ours, theirs = context.draw(train.cuda(), n, size, seed=3), context.draw(train, n, size, seed=3)
    assert torch.equal(ours.indices.cpu(), theirs.indices)
    assert torch.equal(ours.points.cpu(), theirs.points)


def test_larger_sets_are_the_cpus_too():
    train = torch.randn(2000, 2)
    ours, theirs = context.draw(train.cuda(), 3, 1500, seed=3), context.draw(train, 3, 1500, seed=3)
    assert torch.equal(ours.indices.cpu(), theirs.indices)


def test_gradients_are_the_same_each_time():
    train = torch.randn(40, 7)
    weights = torch.randn(300, 10, 7)

    def gradient(device: str) -> torch.Tensor:
        x = train.to(device).requires_grad_()
        (context.draw(x, 300, 10, seed=1).points * weights.to(device)).sum().backward()
        return x.grad.cpu()

    assert torch.equal(gradient("cuda"), gradient("cuda"))
    # 75 terms of about 1 are added to each: rounding of each addition, in another order
    torch.testing.assert_close(gradient("cuda"), gradient("cpu"), rtol=0, atol=75 * 10 * torch.finfo(torch.float32).eps)


def test_in_a_graph():
    train, seed, ids = torch.randn(100, 5).cuda(), torch.tensor(0).cuda(), torch.arange(9).cuda()
    context.draw(train, 9, 4, seed=seed, sample_ids=ids)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        drawn = context.draw(train, 9, 4, seed=seed, sample_ids=ids)
    for value in (4, 5):
        seed.fill_(value)
        graph.replay()
        assert torch.equal(drawn.indices, context.draw(train, 9, 4, seed=value).indices)
