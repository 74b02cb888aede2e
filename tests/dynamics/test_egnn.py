"""The equivariant graph network: beside a loop over pairs, its symmetries, bits, gradients, and as a field of runs."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from gmkern.dynamics import (
    BAOAB,
    EGNN,
    RK4,
    EulerMaruyama,
    Heun,
    LennardJones,
    VectorField,
    VelocityVerlet,
    energy_and_forces,
    path_log_prob,
    simulate,
)
from gmkern.dynamics.systems import systems_of
from gmkern.testing import run_isa, tolerance

pytestmark = pytest.mark.sanitize

F64 = torch.float64


def network(width: int = 12, layers: int = 2, dtype: torch.dtype = F64, seed: int = 0, **arguments) -> EGNN:
    """An EGNN whose positions move by numbers of order 1."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = EGNN(width, layers, **arguments)
        for layer in net.layers:
            if not net.conservative:
                torch.nn.init.normal_(layer.move_out.weight, std=0.5)
        if net.conservative:
            torch.nn.init.normal_(net.energy_of_type)
    return net.to(dtype)


def cloud(seed: int, *shape: int, dtype: torch.dtype = F64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64).to(dtype)


def truth(net: EGNN, x: np.ndarray, t: float, types: np.ndarray, cell: np.ndarray | None = None):
    """Velocities [N, D] and energy of one system, message by message in float64 NumPy."""

    def lin(layer, v):
        return layer.weight.detach().double().numpy() @ v + (
            0.0 if layer.bias is None else layer.bias.detach().double().numpy()
        )

    def silu(v):
        return v / (1 + np.exp(-v))

    h = net.of_type.weight.detach().double().numpy()[types]
    if net.of_time is not None:
        h = h + t * net.of_time.detach().double().numpy()
    place = x.copy()
    for layer in net.layers:
        moved, summed = np.zeros_like(place), np.zeros_like(h)
        for i in range(len(x)):
            for j in range(len(x)):
                if i == j:
                    continue
                r = place[i] - place[j]
                if cell is not None:  # the nearest of the images around
                    near = [r + a * cell[0] + b * cell[1] for a in (-1, 0, 1) for b in (-1, 0, 1)]
                    r = min(near, key=lambda v: v @ v)
                s = r @ r
                if net.cutoff is not None and s >= net.cutoff**2:
                    continue
                w = 1.0 if net.cutoff is None else (1 - s / net.cutoff**2) ** 3
                m = silu(lin(layer.message_out, silu(lin(layer.message_in, np.concatenate([h[i], h[j], [s]])))))
                summed[i] += w * m / net.neighbors
                if not net.conservative:
                    g = lin(layer.move_out, silu(lin(layer.move_in, m)))[0]
                    moved[i] += w * g * r / (1 + math.sqrt(s)) / net.neighbors
        h = np.stack([a + lin(layer.update_out, silu(lin(layer.update_in, np.concatenate([a, b])))) for a, b in
                      zip(h, summed, strict=True)])  # fmt: skip
        place = place + moved
    energy = 0.0
    if net.conservative:
        energy = sum(lin(net.energy_of_features, a)[0] for a in h)
        energy += net.energy_of_type.detach().double().numpy()[types].sum()
    return place - x, energy


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_field_is_the_sum_of_its_messages(backend, dtype):
    for dim, width, cutoff, time, atoms in ((3, 20, None, True, 7), (2, 16, 1.7, False, 9), (5, 33, 5.0, True, 4)):
        net = network(width, 2, dtype, types=3, time=time, cutoff=cutoff, neighbors=2.5)
        x, types = cloud(dim, 3, atoms, dim, dtype=dtype), torch.arange(3 * atoms).reshape(3, atoms) % 3
        t = torch.tensor([0.0, 0.3, -1.2], dtype=dtype)
        cell = torch.tensor([[3.6, 0.2], [0.3, 4.1]]) if dim == 2 else None
        got = net(x, t, types=types, cell=cell, pbc=cell is not None, backend=backend)
        for s in range(3):
            box = None if cell is None else cell.double().numpy()
            want, _ = truth(net, x[s].double().numpy(), float(t[s]), types[s].numpy(), box)
            # a chain of products of depth 2 width + 1, in each of 2 layers, summed over the atoms
            slack = 4 * tolerance(dtype, 2 * width + 1) * atoms
            assert np.abs(got[s].detach().double().numpy() - want).max() < slack * (1 + np.abs(want).max())
            assert np.abs(want).max() > 5e-3


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_energy_and_its_forces(backend):
    """Energies message by message; forces by central differences of them."""
    net = network(types=2, conservative=True, cutoff=3.0, start_time=0.4)
    x, types = cloud(4, 2, 5, 3), torch.tensor([0, 1, 1, 0, 1])
    energy, forces = energy_and_forces(net, x, types=types, backend=backend)
    for s in range(2):
        want = truth(net, x[s].numpy(), 0.4, types.numpy())[1]
        assert abs(float(energy[s].detach()) - want) < 1e-12 * (1 + abs(want))
    step = 1e-5
    for atom, axis in ((0, 0), (3, 2), (4, 1)):
        ends = []
        for sign in (1, -1):
            there = x.clone()
            there[:, atom, axis] += sign * step
            ends.append(net.energy(there, 0.4, types=types, backend=backend))
        slope = (ends[0] - ends[1]) / (2 * step)
        assert (forces[:, atom, axis] + slope).abs().max() < 1e-8  # step^2 times a third derivative of order 1
    assert torch.equal(net(x, types=types, backend=backend), forces)
    assert forces.detach().abs().max() > 1e-2


def test_symmetries():
    """Rotated, reflected, moved and relabelled input gives rotated, reflected, the same and relabelled output."""
    net, x = network(seed=1), cloud(5, 2, 8, 3)
    turn = torch.linalg.qr(cloud(6, 3, 3)).Q
    turn[:, 0] *= -torch.sign(torch.linalg.det(turn))  # with a reflection
    order = torch.randperm(8, generator=torch.Generator().manual_seed(1))
    want = net(x, 0.3)
    assert (net(x @ turn, 0.3) - want @ turn).abs().max() < 1e-12
    assert (net(x + 5.0, 0.3) - want).abs().max() < 1e-11
    assert (net(x[:, order], 0.3) - want[:, order]).abs().max() < 1e-12
    assert (net(x, 0.4) - want).abs().max() > 1e-4  # and time matters


def test_bits_are_those_of_the_system_alone():
    """In any batch, place, thread count; a change of order within the system is the negative control."""
    for conservative in (False, True):
        net = network(24, 3, torch.float32, conservative=conservative, cutoff=4.0).requires_grad_(False)
        sizes = [5, 17, 0, 33, 1, 64, 2]
        ptr = np.cumsum([0, *sizes])
        x = cloud(7, int(ptr[-1]), 3, dtype=torch.float32)
        t = torch.linspace(0, 1, len(sizes))
        whole = net(x, t, system_ptr=ptr)
        threads = torch.get_num_threads()
        try:
            torch.set_num_threads(1)
            assert torch.equal(net(x, t, system_ptr=ptr), whole)
        finally:
            torch.set_num_threads(threads)
        for s, (a, b) in enumerate(pairwise(ptr)):
            assert torch.equal(net(x[a:b], t[s : s + 1]), whole[a:b])
        assert torch.equal(net(x[None, 22:55].repeat(3, 1, 1), t[3])[1], whole[22:55])
        assert not torch.equal(net(x[22:55].flip(0), t[3]).flip(0), whole[22:55])


@pytest.mark.parametrize("conservative", [False, True])
def test_gradients_and_their_gradients(conservative):
    """The layer's compiled adjoint beside autograd through the reference, and both orders by finite differences."""
    net = network(5, 2, types=2, cutoff=2.5, conservative=conservative, neighbors=1.5)
    x, ptr, types = cloud(8, 6, 3), [0, 2, 2, 6], torch.tensor([0, 1, 1, 0, 1, 0])
    names = [name for name, _ in net.named_parameters()]
    values = tuple(p.detach().clone().requires_grad_() for p in net.parameters())

    def field(x: Tensor, *values: Tensor) -> Tensor:
        arguments = {"types": types, "system_ptr": ptr}
        return torch.func.functional_call(net, dict(zip(names, values, strict=True)), (x, 0.3), arguments)

    x.requires_grad_()
    inputs = (x, *values)
    assert torch.autograd.gradcheck(field, inputs, fast_mode=True)
    assert torch.autograd.gradgradcheck(lambda x, w: field(x, w, *values[1:]), (x, values[0]), fast_mode=True)
    weight = cloud(9, 6, 3)
    got = torch.autograd.grad((field(*inputs) * weight).sum(), inputs, allow_unused=True)
    kept = net(x, 0.3, types=types, system_ptr=ptr, backend="reference")
    own = dict(net.named_parameters())
    want = torch.autograd.grad((kept * weight).sum(), (x, *[own[n] for n in names]), allow_unused=True)
    for a, b in zip(got, want, strict=True):
        if a is None or b is None:  # an energy of the type alone pulls on nothing
            assert a is None
            assert b is None
            continue
        assert (a - b).abs().max() < 1e-11 * (1 + b.abs().max())


def test_force_matching_reaches_every_parameter():
    """The gradient of a loss of forces, by a second backward pass, equals that through the reference."""
    net = network(6, 2, conservative=True, start_time=0.4)
    x, target = cloud(10, 3, 4, 2), cloud(11, 3, 4, 2)
    grads = []
    for backend in ("cpu", "reference"):
        net.zero_grad()
        ((energy_and_forces(net, x, backend=backend).forces - target) ** 2).sum().backward()
        grads.append({name: p.grad for name, p in net.named_parameters()})
    for name, want in grads[1].items():
        if want is None:  # an energy of the type alone pulls on nothing
            assert name == "energy_of_type"
            continue
        assert (grads[0][name] - want).abs().max() < 1e-11 * (1 + want.abs().max())
        if name != "layers.1.update_out.bias":
            assert want.abs().max() > 0


def test_atoms_at_one_point():
    """No NaN, in value or in either derivative: the direction is 0 where the distance is."""
    for conservative in (False, True):
        net = network(6, 1, conservative=conservative)
        x = cloud(12, 1, 4, 3)
        x[0, 1] = x[0, 0]
        x.requires_grad_()
        for backend in ("cpu", "reference"):
            out = net(x, backend=backend)
            (slope,) = torch.autograd.grad(out.square().sum(), x, create_graph=True)
            (second,) = torch.autograd.grad(slope.square().sum(), x)
            assert torch.isfinite(out).all()
            assert torch.isfinite(slope).all()
            assert torch.isfinite(second).all()


def test_a_lost_system_stays_alone():
    net = network(6, 2, torch.float32, cutoff=2.0)
    x = cloud(13, 3, 5, 3, dtype=torch.float32)
    bound_x = x.clone()
    bound_x[1, 0, 0] = math.nan
    systems = simulate(VectorField(lambda x, t: torch.zeros_like(x)), x, integrator=Heun(0.1), steps=1)
    assert torch.equal(systems.positions, x)
    op = torch.ops.gmkern.egnn_layer
    ptr, box = torch.tensor([0, 5, 10, 15]), torch.empty(0, 3, 3, dtype=F64)
    weights, h = net.layers[0].packed(torch.float32).detach(), torch.ones(15, 6)
    out = op(bound_x.reshape(-1, 3), h, weights, ptr, box, box, True, 2.0, 1.0)[0].reshape(3, 5, 3)
    want = op(x.reshape(-1, 3), h, weights, ptr, box, box, True, 2.0, 1.0)[0].reshape(3, 5, 3)
    assert torch.equal(out[[0, 2]], want[[0, 2]])
    assert torch.isnan(out[1]).any()


class _Ops(TorchDispatchMode):
    """The ops that run within it."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, op, types, args=(), kwargs=None):
        self.names.add(op.name())
        return op(*args, **(kwargs or {}))


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_a_step_reads_no_value(backend):
    """Of systems of one size: what a GPU would wait for, and a graph could not hold. A call reads its positions."""
    net, x = network(4, 1).requires_grad_(False), cloud(2, 2, 3, 3)
    field = net.bind(systems_of(x, None), x, None, None, False, backend)
    times = field.time_of(0.5, x)
    reads = {"aten::_local_scalar_dense", "aten::nonzero", "aten::is_nonzero"}
    with _Ops() as of_step:
        moved = field.field(x, times)
    with _Ops() as of_call:
        assert torch.equal(net(x, 0.5, backend=backend), moved)
    assert len(of_step.names) > 5
    assert not reads & of_step.names
    assert reads & of_call.names


def test_runs():
    """simulate() along an EGNN: by hand, as a VectorField, ragged, from the middle, and with gradients."""
    net = network(8, 2, types=2, start_time=0.5)
    x, types = cloud(14, 3, 5, 3), torch.tensor([0, 1, 0, 1, 1])
    dt = 0.05
    got = simulate(net, x, integrator=Heun(dt), steps=3, types=types, record_every=1)
    by_hand = x
    for n in range(3):
        k1 = net(by_hand, 0.5 + n * dt, types=types)
        k2 = net(by_hand + dt * k1, 0.5 + (n + 1) * dt, types=types)
        by_hand = by_hand + 0.5 * dt * (k1 + k2)
    assert (got.positions - by_hand).abs().max() < 1e-13
    assert got.energies is None
    module = VectorField(lambda x, t: net(x, t, types=types), start_time=0.5)
    assert torch.equal(simulate(module, x, integrator=Heun(dt), steps=3).positions, got.positions)
    noisy = {"integrator": EulerMaruyama(dt, 0.3), "seed": 7}
    flat, ptr = x.reshape(-1, 3)[:12], [0, 5, 7, 12]
    kinds = types.repeat(3)[:12]
    ragged = simulate(net, flat, steps=4, types=kinds, system_ptr=ptr, log_prob=True, record_every=1, **noisy)
    for s, (a, b) in enumerate(pairwise(ptr)):
        alone = simulate(net, flat[a:b], steps=4, types=kinds[a:b], sample_ids=[s], log_prob=True, **noisy)
        assert torch.equal(alone.positions, ragged.positions[a:b])
        assert torch.equal(alone.log_prob_forward[0], ragged.log_prob_forward[s])
    first = simulate(net, x, steps=2, types=types, **noisy).positions
    after = simulate(net, first, steps=2, types=types, start_step=2, **noisy).positions
    assert torch.equal(after, simulate(net, x, steps=4, types=types, **noisy).positions)
    again = path_log_prob(net, ragged.frames, integrator=noisy["integrator"], types=kinds, system_ptr=ptr)
    assert torch.equal(again.forward, ragged.log_prob_forward)
    assert torch.equal(again.backward, ragged.log_prob_backward)
    weight = net.layers[0].message_in.weight
    start = x.clone().requires_grad_()
    end = simulate(net, start, integrator=RK4(dt), steps=5, types=types, checkpoint_every=2).positions
    in_start, in_weight = torch.autograd.grad(end.square().sum(), (start, weight))
    along, step = cloud(15, 3, 5, 3), 1e-5
    with torch.no_grad():
        ends = [
            simulate(net, x + s * step * along, integrator=RK4(dt), steps=5, types=types).positions for s in (1, -1)
        ]
    slope = (ends[0].square().sum() - ends[1].square().sum()) / (2 * step)
    assert abs(slope - (in_start * along).sum()) < 1e-7 * (1 + abs(slope))
    assert in_weight.abs().max() > 0


def test_a_conservative_run_keeps_its_energy():
    """Velocity Verlet along learnt forces: the error of the total energy falls as the square of the step."""
    net = network(8, 2, conservative=True, time=False)
    x = cloud(16, 2, 5, 3)
    drifts = []
    for steps in (20, 40):
        path = simulate(net, x, integrator=VelocityVerlet(2.0 / steps), steps=steps, record_every=steps)
        kinetic = 0.5 * path.velocities.square().sum((1, 2))
        drifts.append((path.energies[1] + kinetic - path.energies[0]).abs().max())
    assert 3.0 < drifts[0] / drifts[1] < 5.5
    thermal = simulate(net, x, integrator=BAOAB(0.05, 1.0, 1.0), steps=3, seed=1, log_prob=True)
    assert torch.isfinite(thermal.log_prob_forward).all()


def test_as_the_field_of_a_reversed_process():
    x, net = cloud(17, 3, 4, 3), network(6, 1)
    law = {"integrator": EulerMaruyama(0.02, 0.5), "steps": 3, "seed": 2, "log_prob": True, "record_every": 1}
    wrapped = VectorField(lambda x, t: net(x, t))
    for field in (LennardJones(epsilon=0.01), net, VectorField(lambda x, t: -x)):
        got = simulate(field, x, backward=net, **law).log_prob_backward
        want = simulate(field, x, backward=wrapped, **law).log_prob_backward
        assert (got - want).abs().max() < 1e-12 * want.abs().max()


def test_an_opcheck_and_a_state_dict():
    net = network(5, 1, cutoff=3.0)
    ptr, box = torch.tensor([0, 3, 7]), torch.empty(0, 3, 3, dtype=F64)
    x, h = cloud(18, 7, 3).requires_grad_(), cloud(19, 7, 5).requires_grad_()
    weights = net.layers[0].packed(F64).detach().requires_grad_()
    torch.library.opcheck(torch.ops.gmkern.egnn_layer.default, (x, h, weights, ptr, box, box, True, 3.0, 1.0))
    again = network(5, 1, cutoff=3.0, seed=3)
    again.load_state_dict(net.state_dict())
    assert torch.equal(again(x), net(x))


@pytest.mark.isas
def test_every_instruction_set(isa):
    net = network(20, 2, torch.float32, cutoff=3.0)
    x = cloud(20, 4, 11, 3, dtype=torch.float32)
    code = """
import gmkern
net = gmkern.dynamics.EGNN(20, 2, cutoff=3.0)
net.load_state_dict(state)
x.requires_grad_()
v = net(x, 0.5)
out = v.detach(), torch.autograd.grad(v.square().sum(), x)[0]
"""
    got, slope = run_isa(isa, code, x=x, state=net.state_dict())
    start = x.double().requires_grad_()
    want = net.double()(start, 0.5, backend="reference")
    want_slope = torch.autograd.grad(want.square().sum(), start)[0]
    slack = 8 * tolerance(torch.float32, 41) * 11
    assert (got.double() - want).abs().max() < slack * (1 + want.abs().max())
    assert (slope.double() - want_slope).abs().max() < 4 * slack * (1 + want_slope.abs().max())


def test_inference_mode():
    """Forces by autograd inside, whose tensors inference mode does not make."""
    net, x = network(5, 1, conservative=True), cloud(21, 2, 4, 3)
    want = simulate(net, x, integrator=Heun(0.1), steps=2, record_every=1)
    with torch.inference_mode():
        got = simulate(net, x + 0.0, integrator=Heun(0.1), steps=2, record_every=1)
    assert torch.equal(got.positions, want.positions)
    assert torch.equal(got.energies, want.energies)


def test_empty_input():
    net = network(4, 1, torch.float32)
    for shape in ((0, 3, 3), (2, 0, 3), (0, 3), (2, 1, 3)):
        for backend in ("cpu", "reference"):
            assert torch.equal(net(torch.zeros(shape), backend=backend), torch.zeros(shape))
    two = network(4, 1, torch.float32, types=2)
    assert torch.equal(two(torch.zeros(2, 0, 3), types=torch.empty(0, dtype=torch.int64)), torch.zeros(2, 0, 3))
    force = network(4, 1, torch.float32, conservative=True)
    assert torch.equal(energy_and_forces(force, torch.zeros(2, 0, 3)).energy, torch.zeros(2))


def test_bad_arguments_are_named():
    net, x = network(4, 1, torch.float32, types=2), torch.zeros(2, 3, 3)
    types = [0, 1, 1]
    for name, error, call in [
        ("width", ValueError, lambda: EGNN(0)),
        ("layers", ValueError, lambda: EGNN(4, 0)),
        ("types", ValueError, lambda: EGNN(4, types=0)),
        ("cutoff", ValueError, lambda: EGNN(4, cutoff=0.0)),
        ("neighbors", ValueError, lambda: EGNN(4, neighbors=0)),
        ("conservative", TypeError, lambda: EGNN(4, conservative=1)),
        ("time", TypeError, lambda: EGNN(4, time="yes")),
        ("types", ValueError, lambda: net(x)),
        ("types", ValueError, lambda: net(x, types=[0, 1, 2])),
        ("t", ValueError, lambda: net(x, torch.zeros(3), types=types)),
        ("t", TypeError, lambda: net(x, "late", types=types)),
        ("positions", ValueError, lambda: net(x[0, 0], types=types)),
        ("cutoff", ValueError, lambda: net(x, types=types, cell=torch.eye(3) * 9, pbc=True)),
        ("backend", ValueError, lambda: net(x, types=types, backend="fast")),
        ("cpu", ValueError, lambda: net(torch.zeros(1, 3, 9), types=types, backend="cpu")),
        ("conservative", ValueError, lambda: net.energy(x, types=types)),
        ("conservative", ValueError, lambda: energy_and_forces(net, x, types=types)),
    ]:
        with pytest.raises(error, match=rf"\b{name}\b"):
            call()
