"""simulate() on a GPU: the CUDA kernel against the reference and the CPU, its invariances, streams and graphs."""

from __future__ import annotations

import math

import pytest
import torch

import gmkern
from gmkern._backend import has_cuda
from gmkern.dynamics import (
    BAOAB,
    RK4,
    EulerMaruyama,
    Harmonic,
    Heun,
    LennardJones,
    VelocityVerlet,
    path_log_prob,
    simulate,
)
from gmkern.dynamics.systems import model_of, systems_of
from tests.dynamics.truth import cloud, lattice, stationary_baoab

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not has_cuda(), reason="this build has no CUDA kernels (GMKERN_CUDA=1)"),
]


@pytest.mark.parametrize("integrator", [VelocityVerlet(0.003), BAOAB(0.003, 0.5, 2.0), EulerMaruyama(3e-4, 1.0),
                                        Heun(3e-4), RK4(3e-4)], ids=lambda i: type(i).__name__)  # fmt: skip
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("n", "dim"), [(1, 3), (7, 2), (32, 3), (65, 3), (256, 2), (300, 3)])
def test_against_the_reference_and_the_cpu(integrator, dtype, n, dim):
    """The bound of tests/dynamics/test_simulate.py: a few roundings a step."""
    x = cloud(3, n, dim).to(dtype)
    field = LennardJones(cutoff=2.5) + Harmonic(0.2, 0.3)
    kw = {"integrator": integrator, "steps": 30, "seed": 5, "masses": 1.5, "record_every": 8}
    cpu = simulate(field, x, **kw)
    gpu = simulate(field, x.cuda(), **kw)
    reference = simulate(field, x.cuda(), backend="reference", **kw)
    bound = 30 * 30 * torch.finfo(dtype).eps * float(cpu.positions.abs().max() + 1)
    for want in (cpu, reference):
        assert float((gpu.positions.cpu() - want.positions.cpu()).abs().max()) < bound
        assert float((gpu.frames.cpu() - want.frames.cpu()).abs().max()) < bound


def test_kicks_are_the_contract_noise():
    x = torch.zeros(4, 9, 3, device="cuda")
    path = simulate(
        Harmonic(0.0), x, integrator=EulerMaruyama(1.0, 1.0), steps=1, seed=11, start_step=6, backend="cuda"
    )
    want = gmkern.random.normal(11, 4, 6, 27, stream=gmkern.random.KICK)
    assert torch.equal(path.positions.reshape(4, 27).cpu(), want)


def test_same_bits_alone_and_in_any_batch_and_slice():
    sizes = [5, 33, 0, 16, 1, 200]
    ptr = torch.tensor([0, *sizes]).cumsum(0)
    x = torch.cat([lattice(n) + 0.05 * torch.randn(n, 3, dtype=torch.float64) for n in sizes]).float().cuda()
    kw = {"seed": 2, "integrator": BAOAB(0.003, 0.5, 2.0), "backend": "cuda"}
    whole = simulate(LennardJones(), x, steps=25, system_ptr=ptr, **kw)
    for s in (1, 5):
        rows = slice(int(ptr[s]), int(ptr[s + 1]))
        alone = simulate(LennardJones(), x[rows], steps=25, sample_ids=[s], **kw)
        assert torch.equal(alone.positions, whole.positions[rows])
        first = simulate(LennardJones(), x[rows], steps=11, sample_ids=[s], **kw)
        rest = simulate(LennardJones(), first.positions, velocities=first.velocities, steps=14, start_step=11,
                        sample_ids=[s], **kw)  # fmt: skip
        assert torch.equal(rest.positions, alone.positions)


def test_stationary_law():
    k, mass, temperature, dt, friction = 1.3, 0.8, 0.7, 0.5, 1.0
    want = stationary_baoab(k, mass, dt, temperature, friction)
    path = simulate(Harmonic(k), torch.zeros(20_000, 4, 3, device="cuda"), masses=mass, steps=200, seed=3,
                    integrator=BAOAB(dt, temperature, friction))  # fmt: skip
    n = path.positions.numel()
    for got, variance in ((path.positions, want[0, 0]), (path.velocities, want[1, 1])):
        assert abs(float((got.double() ** 2).mean()) - variance) < 5 * math.sqrt(2 / n) * variance


def test_a_graph_replays_with_the_step_it_finds():
    x = cloud(8, 32).float().cuda().reshape(-1, 3)
    none = torch.empty(0, 3, 3, dtype=torch.float64, device="cuda")
    parameters = torch.tensor([1.0, 1.0, 0.0, 0.0, math.inf, 0.0], dtype=torch.float64, device="cuda")
    coefficients = torch.tensor([[[0.003, 1.0, 1.0, 1.0, 0.0]]], dtype=torch.float64, device="cuda")
    step = torch.zeros((), dtype=torch.int64, device="cuda")
    fixed = (torch.zeros_like(x), torch.ones(256, device="cuda"), torch.arange(9, device="cuda") * 32,
             torch.empty(0, dtype=torch.int64, device="cuda"), [0], [6], parameters,
             none, none, 1, coefficients, torch.tensor(1, device="cuda"), torch.arange(8, device="cuda"), step, 4, 0, 0,
             32, torch.empty(2, 0, dtype=torch.float64, device="cuda"), 0, x[:0])  # fmt: skip
    torch.ops.gmkern.simulate(x, *fixed)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = torch.ops.gmkern.simulate(x, *fixed)[0]
    seen = []
    for value in (0, 4):
        step.fill_(value)
        graph.replay()
        torch.cuda.synchronize()
        assert torch.equal(captured, torch.ops.gmkern.simulate(x, *fixed)[0])
        seen.append(captured.clone())
    assert not torch.equal(*seen)


def test_a_large_system_among_small_ones_changes_no_bit():
    """Above 256 atoms a system is spread over the device, and the others are not."""
    sizes = [31, 600, 256]
    ptr = torch.tensor([0, *sizes]).cumsum(0)
    x = torch.cat([lattice(n) + 0.05 * torch.randn(n, 3, dtype=torch.float64) for n in sizes]).float().cuda()
    kw = {"seed": 2, "integrator": EulerMaruyama(1e-4, 1.0), "steps": 25, "backend": "cuda", "log_prob": True}
    whole = simulate(LennardJones(), x, system_ptr=ptr, **kw)
    for s in range(3):
        rows = slice(int(ptr[s]), int(ptr[s + 1]))
        alone = simulate(LennardJones(), x[rows], sample_ids=[s], **kw)
        assert torch.equal(alone.positions, whole.positions[rows])
        assert torch.equal(alone.log_prob_backward, whole.log_prob_backward[s : s + 1])
    cpu = simulate(LennardJones(), x.double().cpu(), system_ptr=ptr, **kw | {"backend": "cpu"})
    gpu = simulate(LennardJones(), x.double(), system_ptr=ptr, **kw)
    assert torch.allclose(cpu.positions, gpu.positions.cpu(), atol=1e-10)
    assert torch.allclose(cpu.log_prob_forward, gpu.log_prob_forward.cpu(), rtol=1e-7)


def liquids(dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Positions of 1,000 and 4,096 atoms on jittered grids in an order of no meaning, their offsets and their boxes."""
    parts, sides = [], []
    for per_side in (10, 16):
        side = 1.08 * per_side
        axis = (torch.arange(per_side, dtype=torch.float64) + 0.5) * 1.08
        grid = torch.cartesian_prod(axis, axis, axis)[torch.randperm(per_side**3)]
        parts.append(grid + 0.03 * torch.randn(grid.shape, dtype=torch.float64))
        sides.append(side)
    cells = torch.tensor(sides, dtype=torch.float64)[:, None, None] * torch.eye(3, dtype=torch.float64)
    return torch.cat(parts).to(dtype).cuda(), torch.tensor([0, 1000, 5096]), cells


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("periodic", [False, True])
def test_lists_of_neighbours_have_the_bits_of_all_pairs(periodic, dtype):
    """Lists serve where a system of the batch has 3,000 atoms: so the small one goes by all pairs alone."""
    x, ptr, cells = liquids(dtype)
    field, law = LennardJones(cutoff=2.5), BAOAB(0.004, 2.0, 1.0)
    kw = {"seed": 2, "integrator": law, "steps": 60, "record_every": 20, "log_prob": True, "backend": "cuda"}
    boxes = ({"cell": c, "pbc": True} if periodic else {} for c in (cells, cells[:1]))
    both = simulate(field, x, system_ptr=ptr, **next(boxes), **kw)
    alone = simulate(field, x[:1000], system_ptr=ptr[:2], **next(boxes), **kw)
    assert float((alone.positions - x[:1000]).abs().max()) > 0.15 * 2.5
    assert torch.equal(both.positions[:1000], alone.positions)
    assert torch.equal(both.energies[:, :1], alone.energies)
    assert torch.equal(both.log_prob_forward[:1], alone.log_prob_forward)
    again = simulate(field, x, system_ptr=ptr, **({"cell": cells, "pbc": True} if periodic else {}), **kw)
    assert torch.equal(both.positions, again.positions)
    if dtype == torch.float64:
        short = kw | {"steps": 20}
        given = {"system_ptr": ptr, **({"cell": cells, "pbc": True} if periodic else {})}
        gpu, cpu = (simulate(field, y, **given, **short | {"backend": b}) for y, b in ((x, "cuda"), (x.cpu(), "cpu")))
        assert torch.allclose(gpu.positions.cpu(), cpu.positions, atol=1e-9)


def test_a_path_by_lists_is_scored_to_the_bit_and_a_graph_makes_its_own_lists():
    x, ptr, cells = liquids(torch.float32)
    field, law = LennardJones(cutoff=2.5), EulerMaruyama(2e-4, 1.0)
    kw = {"system_ptr": ptr, "cell": cells, "pbc": True}
    run = simulate(field, x, integrator=law, steps=40, seed=1, record_every=1, log_prob=True, backend="cuda", **kw)
    scores = path_log_prob(field, run.frames, integrator=law, backend="cuda", **kw)
    for ours, theirs in zip(scores, (run.log_prob_forward, run.log_prob_backward), strict=True):
        assert torch.equal(ours, theirs)
    made = model_of(field, systems_of(x, ptr), None, cells, True, x.device)
    none = torch.empty(2, 0, dtype=torch.float64, device="cuda")
    table = torch.tensor([[[2e-4, 0.0, 0.0, 1.0, 0.0]]], dtype=torch.float64, device="cuda")
    step = torch.zeros((), dtype=torch.int64, device="cuda")
    fixed = (torch.zeros_like(x), torch.ones(len(x), device="cuda"), *made.arguments, law.kind, table,
             torch.tensor(1, device="cuda"), torch.arange(2, device="cuda"), step, 20, 0, 0, 4096, none, 0,
             x[:0])  # fmt: skip
    torch.ops.gmkern.simulate(x, *fixed)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = torch.ops.gmkern.simulate(x, *fixed)[0]
    for value in (0, 20):
        step.fill_(value)
        x.copy_(run.frames[value])
        graph.replay()
        torch.cuda.synchronize()
        assert torch.equal(captured, run.frames[value + 20])


def test_other_streams_and_what_the_kernel_does_not_serve():
    x = cloud(4, 32).float().cuda()
    kw = {"integrator": VelocityVerlet(0.003), "steps": 10}
    with torch.cuda.stream(torch.cuda.Stream()):
        there = simulate(LennardJones(), x, **kw).positions
    assert torch.equal(there, simulate(LennardJones(), x, **kw).positions)
    four = torch.rand(2, 5, 4, device="cuda")
    with pytest.raises(ValueError, match="cuda: takes positions of dimension 2 or 3, got 4"):
        simulate(Harmonic(), four, **kw, backend="cuda")
    assert simulate(Harmonic(), four, **kw).positions.is_cuda  # the reference serves
