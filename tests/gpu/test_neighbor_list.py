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


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("box", ["free", "cube", "triclinic slab", "thin wire"])
def test_a_large_system_by_cells(box, dtype):
    """Atoms outside their box and two at one point; systems of many sizes, of which the large ones have cells."""
    sizes = [20_000, 0, 1, 300, 5_000]
    cell = 24.0 * torch.eye(3, dtype=torch.float64)
    pbc = {"free": False, "cube": True, "triclinic slab": [True, True, False], "thin wire": True}[box]
    if box == "triclinic slab":
        cell[1, 0], cell[0, 2] = 7.0, -5.0
    if box == "thin wire":
        cell = torch.diag(torch.tensor([0.8, 1.0, 20_000.0], dtype=torch.float64))
    x = ((1.6 * torch.rand(sum(sizes), 3, dtype=torch.float64) - 0.3) @ cell).to(dtype)
    x[5] = x[6]
    kw = {"cell": None if pbc is False else cell, "pbc": pbc, "system_ptr": torch.tensor([0, *sizes]).cumsum(0)}
    cpu, gpu = neighbor_list(x, 1.1, **kw), neighbor_list(x.cuda(), 1.1, backend="cuda", **kw)
    assert cpu.i.numel() > 10_000
    for ours, theirs in zip(gpu, cpu, strict=True):
        assert torch.equal(ours.cpu(), theirs)


def test_derivatives():
    x = torch.rand(2, 40, 3, dtype=torch.float64)
    grads = []
    for device in ("cpu", "cuda"):
        y = x.to(device).requires_grad_()
        found = neighbor_list(y, 0.4)
        grads.append(torch.autograd.grad(found.distance.square().sum() + found.vector.sin().sum(), y)[0].cpu())
    assert torch.allclose(*grads, rtol=1e-12)


@pytest.mark.parametrize("atoms", [60, 4000])  # all pairs, and cells
def test_a_graph_replays_with_the_positions_it_finds(atoms):
    side = (atoms / 60) ** (1 / 3)
    x = side * torch.rand(atoms, 3, device="cuda")
    cell = torch.zeros(1, 3, 3, dtype=torch.float64, device="cuda")
    rest = (torch.tensor([0, atoms], device="cuda"), cell, torch.eye(3, dtype=torch.float64, device="cuda")[None],
            [0, 0, 0], 0.3, False, 50 * atoms)  # fmt: skip
    call = torch.ops.gmkern.neighbor_list
    call(x, *rest)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = call(x, *rest)
    x.copy_(side * torch.rand(atoms, 3))
    graph.replay()
    torch.cuda.synchronize()
    for ours, theirs in zip(out, call(x, *rest), strict=True):
        assert torch.equal(ours, theirs)
