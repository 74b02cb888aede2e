"""The noise contract on a real GPU: the bits of the CPU, and inside a CUDA graph."""

from __future__ import annotations

import pytest
import torch

import gmkern

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", ["uniform", "normal", "gumbel"])
@pytest.mark.parametrize("n", [1, 5, 1001, 100_003])
def test_the_bits_of_the_cpu(kind, dtype, n):
    ids = torch.tensor([0, -5, 1 << 40])
    seeds, steps = torch.tensor([1, -3, 1 << 62]), torch.tensor([0, 3, (1 << 32) - 1])
    draw = getattr(gmkern.random, kind)
    on_gpu = draw(seeds.cuda(), ids.cuda(), steps.cuda(), n, dtype=dtype)
    assert on_gpu.is_cuda
    assert torch.equal(on_gpu.cpu(), draw(seeds, ids, steps, n, dtype=dtype, backend="cpu"))
    reference = draw(seeds.cuda(), ids.cuda(), steps.cuda(), n, dtype=dtype, backend="reference")
    assert torch.equal(on_gpu, reference)


def test_rare_tail_words():
    """2^25 Gumbels hold about two words below 256."""
    on_gpu = gmkern.random.gumbel(5, 16, 0, 1 << 21, device="cuda")
    assert torch.equal(on_gpu.cpu(), gmkern.random.gumbel(5, 16, 0, 1 << 21))


def test_replays_of_a_graph_differ_by_step():
    seed, step = torch.tensor(3, device="cuda"), torch.tensor(0, device="cuda")
    ids = torch.arange(4, device="cuda")
    gmkern.random.normal(seed, ids, step, 100)  # compile before capture
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        drawn = gmkern.random.normal(seed, ids, step, 100)
        step += 1
    step.zero_()
    for at in range(3):
        graph.replay()
        assert torch.equal(drawn.cpu(), gmkern.random.normal(3, 4, at, 100))


def test_on_another_stream():
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        drawn = gmkern.random.normal(3, 4, 0, 1 << 20, device="cuda")
    stream.synchronize()
    assert torch.equal(drawn.cpu(), gmkern.random.normal(3, 4, 0, 1 << 20))
