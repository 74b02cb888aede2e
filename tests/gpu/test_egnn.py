"""EGNN on a real GPU: the reference's values and gradients in float64, bits of a system alone, graphs, no syncs."""

from __future__ import annotations

import copy
import math

import pytest
import torch

from gmkern.dynamics import EGNN, EulerMaruyama, energy_and_forces, simulate
from gmkern.testing import tolerance

pytestmark = pytest.mark.gpu
PTR = [0, 13, 13, 18, 88, 89]


def network(width: int, dtype: torch.dtype = torch.float32, **arguments) -> EGNN:
    net = EGNN(width, 2, **arguments)
    for layer in net.layers:
        if not net.conservative:
            torch.nn.init.normal_(layer.move_out.weight, std=0.5)
    return net.to(dtype)


def close(ours: torch.Tensor, theirs: torch.Tensor, dtype: torch.dtype, width: int) -> None:
    """Products of depth 2 width + 1 in each of 2 layers, summed over 70 atoms, and with a gradient twice as deep."""
    slack = 8 * tolerance(dtype, 2 * width + 1) * 2 * 70
    assert float((ours.cpu().double() - theirs).abs().max()) < slack * (1 + float(theirs.abs().max()))


@pytest.mark.parametrize(
    ("width", "dim", "options", "dtype"),  # few, as each compiles for some seconds
    [
        (64, 3, {}, torch.float32),
        (64, 3, {}, torch.float64),
        (7, 3, {"cutoff": 2.5, "types": 3}, torch.float32),
        (33, 2, {"cutoff": 1.7}, torch.float64),
        (200, 3, {"cutoff": 2.5, "neighbors": 9.0}, torch.float32),
        (64, 3, {"conservative": True, "cutoff": 2.5}, torch.float32),
    ],
)
def test_values_and_gradients(width, dim, options, dtype):
    net = network(width, dtype, **{"neighbors": 20.0} | options)
    x = 2.0 * torch.randn(PTR[-1], dim, dtype=dtype)
    given = {"system_ptr": PTR, "types": torch.arange(PTR[-1]) % 3 if "types" in options else None}
    if dim == 2:
        given |= {"cell": torch.tensor([[3.6, 0.2], [0.3, 4.1]]), "pbc": True}
    results = []
    for cast, device, backend in ((dtype, "cuda", None), (dtype, "cuda", None), (torch.float64, "cpu", "reference")):
        own, at = copy.deepcopy(net).to(device, cast), x.to(device, cast).requires_grad_()
        field = own(at, 0.3, backend=backend, **given)
        by = torch.autograd.grad(field.square().sum(), [at, *own.parameters()], allow_unused=True)
        results.append([field.detach(), *[g for g in by if g is not None]])
    for ours, again, theirs in zip(*results, strict=True):
        assert torch.equal(ours, again)
        close(ours, theirs, dtype, width)


def test_bits_are_those_of_the_system_alone():
    for conservative in (False, True):
        net = network(64, conservative=conservative, cutoff=3.0).cuda().requires_grad_(False)
        x = torch.randn(PTR[-1], 3).cuda()
        whole = net(x, 0.3, system_ptr=PTR)
        for first, last in ((0, 13), (18, 88), (88, 89)):
            assert torch.equal(net(x[first:last], 0.3), whole[first:last])  # at an odd address too
        assert not torch.equal(net(x[18:88].flip(0), 0.3).flip(0), whole[18:88])


def test_runs_and_force_matching():
    net = network(32, torch.float64, conservative=True, time=False)
    x = torch.randn(3, 9, 3, dtype=torch.float64)
    path = [
        simulate(n, x.to(d), integrator=EulerMaruyama(1e-3, 0.5), steps=4, seed=1, log_prob=True)
        for n, d in ((net, "cpu"), (copy.deepcopy(net).cuda(), "cuda"))
    ]
    close(path[1].positions.detach(), path[0].positions.detach(), torch.float64, 32)
    close(path[1].log_prob_forward.detach(), path[0].log_prob_forward.detach(), torch.float64, 32)
    grads = []
    for device in ("cpu", "cuda"):
        own = copy.deepcopy(net).to(device)
        energy_and_forces(own, x.to(device)).forces.square().sum().backward()
        grads.append(torch.cat([p.grad.flatten() for p in own.parameters() if p.grad is not None]))
    close(grads[1], grads[0], torch.float64, 32)


def arguments() -> list:
    ptr, box = torch.tensor(PTR, device="cuda"), torch.empty(0, 3, 3, dtype=torch.float64, device="cuda")
    weights = network(64).layers[0].packed(torch.float32).detach().cuda()
    return [torch.randn(89, 3).cuda(), torch.randn(89, 64).cuda(), weights, ptr, box, box, True, math.inf, 20.0]


def adjoint(given: list, sums: torch.Tensor) -> tuple[torch.Tensor, ...]:
    return torch.ops.gmkern.egnn_layer_backward(*given, sums, given[0], given[1], True)


def test_graph():
    given = arguments()
    adjoint(given, torch.ops.gmkern.egnn_layer(*given)[2])  # compiles
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        forward = torch.ops.gmkern.egnn_layer(*given)
        captured = [*forward, *adjoint(given, forward[2])]
    given[0].copy_(torch.randn(89, 3))
    graph.replay()
    forward = torch.ops.gmkern.egnn_layer(*given)
    assert all(map(torch.equal, captured, [*forward, *adjoint(given, forward[2])]))


def test_nothing_synchronises():
    given = arguments()
    adjoint(given, torch.ops.gmkern.egnn_layer(*given)[2])  # compiles
    torch.cuda.set_sync_debug_mode("error")
    try:
        adjoint(given, torch.ops.gmkern.egnn_layer(*given)[2])
    finally:
        torch.cuda.set_sync_debug_mode("default")
