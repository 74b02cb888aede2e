"""neighbor_list() on a GPU: the CPU's list to the bit, with a capacity in a graph, and its derivatives."""

from __future__ import annotations

import pytest
import torch

from gmkern._backend import has_cuda
from gmkern.dynamics import neighbor_list

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not has_cuda(), reason="this build has no CUDA kernels (GMKERN_CUDA=1)"),
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("pbc", [False, True, [True, False, True]])
@pytest.mark.parametrize("half", [False, True])
def test_the_cpus_list(dtype, pbc, half):
    x = (4 * torch.rand(3, 150, 3) - 1).to(dtype)
    cell = None if pbc is False else 3 * torch.eye(3) + 0.3 * torch.rand(3, 3, 3)
    kw = {"cell": cell, "pbc": pbc, "half": half, "skin": 0.1}
    cpu, gpu = neighbor_list(x, 0.8, **kw), neighbor_list(x.cuda(), 0.8, backend="cuda", **kw)
    for ours, theirs in zip(gpu, cpu, strict=True):
        assert torch.equal(ours.cpu(), theirs)
    with pytest.raises(ValueError, match="capacity"):
        neighbor_list(x.cuda(), 0.8, capacity=3, **kw)


def test_derivatives():
    x = torch.rand(2, 40, 3, dtype=torch.float64)
    grads = []
    for device in ("cpu", "cuda"):
        y = x.to(device).requires_grad_()
        found = neighbor_list(y, 0.4)
        grads.append(torch.autograd.grad(found.distance.square().sum() + found.vector.sin().sum(), y)[0].cpu())
    assert torch.allclose(*grads, rtol=1e-12)


def test_a_graph_replays_with_the_positions_it_finds():
    x = torch.rand(60, 3, device="cuda")
    cell = torch.zeros(1, 3, 3, dtype=torch.float64, device="cuda")
    rest = (torch.tensor([0, 60], device="cuda"), cell, torch.eye(3, dtype=torch.float64, device="cuda")[None],
            [0, 0, 0], 0.3, False, 3000)  # fmt: skip
    call = torch.ops.gmkern.neighbor_list
    call(x, *rest)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = call(x, *rest)
    x.copy_(torch.rand(60, 3))
    graph.replay()
    torch.cuda.synchronize()
    for ours, theirs in zip(out, call(x, *rest), strict=True):
        assert torch.equal(ours, theirs)
