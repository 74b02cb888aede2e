"""Every kind of term on a GPU: runs, log-probabilities, energies, forces, and gradients, against the CPU's."""

from __future__ import annotations

import pytest
import torch

from gmkern._backend import has_cuda
from gmkern.dynamics import (
    BAOAB,
    EulerMaruyama,
    Harmonic,
    LearnedPair,
    LennardJones,
    energy_and_forces,
    path_log_prob,
    simulate,
)
from tests.dynamics.cuda_cases import fields, network, state, types_of
from tests.dynamics.truth import lattice

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not has_cuda(), reason="this build has no CUDA kernels (GMKERN_CUDA=1)"),
]

NAMES = ("pairs", "terms", "types", "bonds", "learnt", "learnt types")
SIZES = (13, 5, 70)
PTR = [0, 13, 18, 88]


def case(name, dtype):
    field, count = fields()[name]
    x, _ = state(SIZES, 3, dtype)
    return field, x, types_of(len(x), count)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("periodic", [False, True])
def test_lists_of_neighbours_have_the_bits_of_all_pairs(periodic, dtype):
    """Lists serve from 3,000 atoms on; a system of 1,200 alone goes by all pairs. Second derivatives go by them too."""
    sizes, side = (1200, 4000), 18.0
    x = torch.cat([lattice(n)[torch.randperm(n)] for n in sizes])
    x = (x + 0.05 * torch.randn(x.shape, dtype=torch.float64)).to(dtype).cuda().requires_grad_()
    box = {"cell": 2 * side * torch.eye(3), "pbc": True} if periodic else {}
    field = LennardJones(cutoff=2.5) + Harmonic(0.1)
    both = energy_and_forces(field, x, system_ptr=[0, 1200, 5200], backend="cuda", **box)
    y = x.detach()[:1200].requires_grad_()
    alone = energy_and_forces(field, y, backend="cuda", **box)
    assert torch.equal(both.forces[:1200], alone.forces)
    assert torch.equal(both.energy[:1], alone.energy.reshape(1))
    u = torch.randn(x.shape, device="cuda", dtype=dtype)
    ours, theirs = (
        torch.autograd.grad((f * u[: len(f)]).sum(), z)[0] for f, z in ((both.forces, x), (alone.forces, y))
    )
    assert torch.equal(ours[:1200], theirs)
    cpu = energy_and_forces(field, x.detach().cpu(), system_ptr=[0, 1200, 5200], **box)
    bound = (
        400 * torch.finfo(dtype).eps * float(cpu.forces.abs().max())
    )  # some hundred neighbours, a rounding and more each
    assert float((both.forces.detach().cpu() - cpu.forces).abs().max()) < bound


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", NAMES)
def test_energies_and_forces(name, dtype):
    field, x, types = case(name, dtype)
    cpu = energy_and_forces(field, x, types=types, system_ptr=PTR)
    gpu = energy_and_forces(field, x.cuda(), types=types, system_ptr=PTR, backend="cuda")
    bound = 8 * 70 * torch.finfo(dtype).eps * max(float(cpu.forces.abs().max()), 1.0)  # as in tests/dynamics
    assert float((gpu.forces.cpu() - cpu.forces).abs().max()) < bound
    assert float((gpu.energy.cpu() - cpu.energy).abs().max()) < 70 * bound
    alone = energy_and_forces(field, x[:13].cuda(), types=None if types is None else types[:13], backend="cuda")
    assert torch.equal(alone.forces, gpu.forces[:13])
    assert torch.equal(alone.energy, gpu.energy[:1])


@pytest.mark.parametrize("name", NAMES)
def test_runs_with_log_probabilities_and_their_path(name):
    field, x, types = case(name, torch.float64)
    falling = EulerMaruyama(torch.linspace(3e-4, 1e-4, 20).double()[:, None], 1.0)
    law = {"integrator": falling, "types": types, "system_ptr": PTR}
    for backward in ("same_drift", "reversed", "brownian", "bridge"):
        kw = law | {"backward": backward}
        runs = [simulate(field, y, steps=20, seed=3, record_every=1, log_prob=True, **kw) for y in (x, x.cuda())]
        for at in ("log_prob_forward", "log_prob_backward"):
            assert torch.allclose(getattr(runs[0], at), getattr(runs[1], at).cpu(), rtol=1e-8, atol=1e-6)
        again = path_log_prob(field, runs[1].frames, backend="cuda", **kw)
        assert torch.equal(again.forward, runs[1].log_prob_forward)
        assert torch.equal(again.backward, runs[1].log_prob_backward)
    kw = {"integrator": BAOAB(0.003, 0.5, 2.0), "steps": 20, "seed": 3, "log_prob": True, "types": types,
          "system_ptr": PTR}  # fmt: skip
    cpu, gpu = (simulate(field, y, **kw) for y in (x, x.cuda()))
    assert torch.allclose(cpu.log_prob_forward, gpu.log_prob_forward.cpu(), rtol=1e-8, atol=1e-6)


def test_gradients_of_energies_forces_and_trajectories():
    module = network(1)
    x = state((20,), 3, torch.float64)[0][None]

    def gradients(device):
        own = network(1).to(device)
        own.load_state_dict(module.state_dict())
        sigma = torch.tensor(1.0, dtype=torch.float64, device=device, requires_grad=True)
        y = x.to(device).requires_grad_()
        field = LearnedPair(own, 2.2) + LennardJones(0.3, sigma, cutoff=2.0) + Harmonic(0.3)
        energy, forces = energy_and_forces(field, y)
        loss = energy.square().sum() + forces.square().sum()
        inputs = [y, sigma, *own.parameters()]
        first = torch.autograd.grad(loss, inputs, create_graph=True)
        second = torch.autograd.grad(sum((g * g).sum() for g in first), inputs)
        path = simulate(field, y, integrator=EulerMaruyama(1e-3, 0.5), steps=12, seed=2, log_prob=True)
        moved = torch.autograd.grad(path.positions.square().sum() + path.log_prob_backward.sum(), inputs)
        fixed = simulate(field, y, integrator=EulerMaruyama(1e-3, 0.5), steps=12, seed=2, log_prob=True,
                         detach_path=True)  # fmt: skip
        held = torch.autograd.grad((fixed.log_prob_forward - fixed.log_prob_backward).sum(), inputs[1:])
        return [g.cpu() for g in (*first, *second, *moved, *held)]

    for cpu, gpu in zip(gradients("cpu"), gradients("cuda"), strict=True):
        assert torch.allclose(cpu, gpu, rtol=1e-7, atol=1e-9 * float(cpu.abs().max()))


def test_large_systems_have_forces():
    x = state((5000,), 3, torch.float32)[0]
    cpu = energy_and_forces(LennardJones(cutoff=2.5), x)
    gpu = energy_and_forces(LennardJones(cutoff=2.5), x.cuda(), backend="cuda")
    bound = 8 * 100 * torch.finfo(torch.float32).eps * float(cpu.forces.abs().max())  # of those within the cutoff
    assert float((gpu.forces.cpu() - cpu.forces).abs().max()) < bound
    assert torch.allclose(gpu.energy.cpu(), cpu.energy, rtol=1e-5)


def test_ops_are_well_behaved_and_captured_in_a_graph():
    x = state((32, 32), 3, torch.float32)[0].cuda()
    none = torch.empty(0, 3, 3, dtype=torch.float64, device="cuda")
    parameters = torch.tensor([1.0, 1.0, 0.0, 0.0, 2.5, 0.0], dtype=torch.float64, device="cuda")
    rest = (torch.tensor([0, 32, 64], device="cuda"), torch.empty(0, dtype=torch.int64, device="cuda"), [0], [6],
            parameters, none, none)  # fmt: skip
    call = torch.ops.gmkern.energy_and_forces
    torch.library.opcheck(call.default, (x.clone().requires_grad_(), *rest))
    call(x, *rest)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        energy, forces = call(x, *rest)
        slopes = torch.ops.gmkern.energy_and_forces_backward(x, torch.ones(2, device="cuda"), forces, *rest, True)
    x.mul_(1.01)
    graph.replay()
    torch.cuda.synchronize()
    assert torch.equal(forces, call(x, *rest)[1])
    assert torch.isfinite(slopes[1]).all()
    assert torch.isfinite(energy).all()
