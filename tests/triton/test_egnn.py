"""Layers of an EGNN in Triton, in the interpreter: the reference's values and gradients, bits of a system alone."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from gmkern.dynamics import EGNN, energy_and_forces, simulate
from gmkern.dynamics.egnn import ops, reference, triton_adjoint, triton_kernels
from gmkern.dynamics.integrators import Heun
from gmkern.dynamics.systems import padded_index
from gmkern.testing import tolerance

F64 = torch.float64


@pytest.fixture(autouse=True)
def _poisoned():
    """Memory that nothing was written to is NaN."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def network(width: int, layers: int = 1, **arguments) -> EGNN:
    net = EGNN(width, layers, **arguments)
    for layer in net.layers:
        if not net.conservative:
            torch.nn.init.normal_(layer.move_out.weight, std=0.5)
    return net


def case(width, dim, sizes, dtype, *, moves=True, cutoff=2.5, boxes=0) -> list:
    """The arguments of the op; the first two atoms lie at one point."""
    ptr = torch.tensor([0, *sizes]).cumsum(0)
    x, h = (torch.randn(int(ptr[-1]), columns, dtype=F64) for columns in (dim, width))
    x[1:2] = x[:1]
    cell = (6 * torch.eye(dim, dtype=F64) + 0.3 * torch.randn(max(boxes, 1), dim, dim, dtype=F64))[:boxes]
    inverse = torch.linalg.inv(cell).contiguous() if boxes else cell
    weights = network(width, conservative=not moves).layers[0].packed(dtype).detach()
    return [(1.5 * x).to(dtype), h.to(dtype), weights, ptr, cell, inverse, moves, cutoff, 1.5]


def truth(arguments: list, by_x: Tensor, by_h: Tensor) -> list[Tensor]:
    """Positions, features and the gradients of all inputs, by the reference in float64."""
    x, h, weights, ptr, cell, inverse, moves, cutoff, neighbors = arguments
    inputs = [t.double().requires_grad_() for t in (x, h, weights)]
    rows, inside = padded_index(ptr)
    padded = [torch.where(inside[..., None], t[rows], t.new_zeros(())) for t in inputs[:2]]
    own = reference.unpacked(inputs[2], h.shape[1], moves)
    outs = [t[inside] for t in reference.egnn_layer(*padded, own, inside, cell, inverse, cutoff, neighbors)]
    total = (outs[0] * by_x).sum() + (outs[1] * by_h).sum()
    return [*[t.detach() for t in outs], *torch.autograd.grad(total, inputs)]


def close(ours: Tensor, theirs: Tensor, width: int, atoms: int) -> None:
    """As on the CPU: products of depth 2 width + 1, summed over the atoms, and with a gradient twice as deep."""
    slack = 8 * tolerance(ours.dtype, 2 * width + 1) * atoms
    assert ours.shape == theirs.shape
    assert not theirs.numel() or float((ours.double() - theirs).abs().max()) < slack * (1 + float(theirs.abs().max()))


@pytest.mark.parametrize(
    ("width", "dim", "sizes", "options"),
    [
        (5, 3, [3, 0, 17, 1, 6], {}),
        (40, 3, [2, 5], {"cutoff": math.inf}),
        (70, 3, [3], {"cutoff": math.inf}),  # too wide for registers
        (16, 2, [9, 4], {"boxes": 2}),
        (17, 3, [9], {"boxes": 1, "moves": False}),
        (1, 1, [5], {"cutoff": math.inf, "moves": False}),
        (3, 8, [3], {"cutoff": 1e30}),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_values_and_gradients(width, dim, sizes, options, dtype):
    arguments = case(width, dim, sizes, dtype, **options)
    by_x, by_h = (torch.randn_like(t) for t in arguments[:2])
    x, h, sums = triton_kernels.egnn_layer(*arguments)
    gradients = triton_adjoint.egnn_layer_backward(*arguments, sums, by_x, by_h, True)
    wanted = truth(arguments, by_x.double(), by_h.double())
    for ours, theirs in zip((x, h, *gradients), wanted, strict=True):
        close(ours, theirs, width, sum(sizes))
    close(sums, torch.ops.gmkern.egnn_layer(*arguments)[2].double(), width, sum(sizes))
    assert (wanted[3] - by_h).abs().max() > 1e-3  # the update pulled
    without = triton_adjoint.egnn_layer_backward(*arguments, sums, by_x, by_h, False)
    assert torch.equal(without[0], gradients[0])
    assert torch.equal(without[1], gradients[1])
    assert without[2].shape == (0,)


def test_bits_are_those_of_the_system_alone(monkeypatch):
    """Wherever its atoms fall in a tile; values and gradients. A change of order is the negative control."""
    sizes = [5, 2, 19]
    arguments = case(20, 3, sizes, torch.float32, cutoff=3.0)
    by = [torch.randn_like(t) for t in arguments[:2]]

    def run(x, h, ptr, by_x, by_h) -> list[Tensor]:
        given = [x, h, arguments[2], ptr, *arguments[4:]]
        out = triton_kernels.egnn_layer(*given)
        return [*out, *triton_adjoint.egnn_layer_backward(*given, out[2], by_x, by_h, True)[:2]]

    whole = run(*arguments[:2], arguments[3], *by)
    for module in (triton_kernels, triton_adjoint):
        monkeypatch.setattr(module, "PROGRAMS", 2)  # which take tiles in turn
    monkeypatch.setattr(triton_kernels, "NARROW_PROGRAMS", 2)
    assert all(map(torch.equal, whole, run(*arguments[:2], arguments[3], *by)))
    alone = run(*[t[7:].contiguous() for t in arguments[:2]], torch.tensor([0, 19]), *[t[7:].contiguous() for t in by])
    assert all(torch.equal(a, b[7:]) for a, b in zip(alone, whole, strict=True))
    turned = [t[7:].flip(0).contiguous() for t in (*arguments[:2], *by)]
    other = run(*turned[:2], torch.tensor([0, 19]), *turned[2:])
    assert not all(torch.equal(a.flip(0), b) for a, b in zip(other, alone, strict=True))


def test_a_lost_system_stays_alone():
    arguments = case(6, 3, [3, 4, 3], torch.float32)
    want = triton_kernels.egnn_layer(*arguments)[0]
    arguments[0] = arguments[0].clone()
    arguments[0][4, 0] = math.nan
    got = triton_kernels.egnn_layer(*arguments)[0]
    others = [0, 1, 2, 7, 8, 9]
    assert torch.equal(got[others], want[others])
    assert got[3:7].isnan().any(1).all()


def test_as_a_field():
    """Through the public class: types, time, a box, ragged systems, a run; and what is not served on the CPU."""
    net = network(9, 2, types=2, cutoff=1.7, neighbors=2.0)
    x, types = torch.randn(9, 2), torch.arange(9) % 2
    given = {"types": types, "system_ptr": [0, 4, 9], "cell": torch.tensor([[3.6, 0.2], [0.3, 4.1]]), "pbc": True}
    t = torch.tensor([0.2, -0.7])
    with torch.no_grad():
        close(net(x, t, backend="triton", **given), net.double()(x.double(), t, backend="reference", **given), 9, 18)
        net.float()
        runs = [
            simulate(net, x, integrator=Heun(0.1), steps=2, backend=b, **given).positions for b in ("triton", "cpu")
        ]
        close(runs[0], runs[1].double(), 9, 72)
        with pytest.raises(ValueError, match="triton: takes up to 8 dimensions, got 9"):
            network(4)(torch.zeros(2, 9), backend="triton")
        with pytest.raises(ValueError, match="triton: takes CUDA tensors where a gradient is wanted"):
            network(4, conservative=True)(torch.zeros(2, 3), backend="triton")
    with pytest.raises(ValueError, match="triton: takes CUDA tensors where a gradient is wanted"):
        net(x, t, backend="triton", **given)


def test_autograd_through_the_adjoint(monkeypatch):
    """The op's formula with Triton's adjoint beneath: forces of an energy, and a network's gradients."""
    monkeypatch.setattr(ops, "egnn_layer_backward", triton_adjoint.egnn_layer_backward)
    x = torch.randn(2, 4, 2, dtype=F64)
    net = network(6, 2, conservative=True, time=False).double()
    forces = [energy_and_forces(net, x, backend=b).forces.detach() for b in ("cpu", "reference")]
    close(*forces, 12, 8)
    moving = network(6, 2, time=False).double()
    gradients = []
    for backend in ("cpu", "reference"):
        moving.zero_grad()
        moving(x, backend=backend).square().sum().backward()
        gradients.append(torch.cat([p.grad.flatten() for p in moving.parameters() if p.grad is not None]))
    close(*gradients, 12, 8)
    assert forces[0].abs().max() > 1e-3
    assert gradients[0].abs().max() > 1e-3


def test_nothing_to_do():
    for sizes, cutoff in (([], 1.0), ([0, 0], 1.0), ([1], 1.0), ([3], 1e-200)):
        arguments = case(4, 3, sizes, torch.float32, cutoff=cutoff)
        arguments[0][1:2] += 1.0
        x, h, sums = triton_kernels.egnn_layer(*arguments)
        assert torch.equal(x, arguments[0])
        assert torch.equal(sums, torch.zeros_like(h))
        gradients = triton_adjoint.egnn_layer_backward(*arguments, sums, x, h, True)
        assert torch.equal(gradients[0], x)
        assert gradients[2].shape == arguments[2].shape


def test_bad_arguments_are_named():
    good = case(4, 3, [3, 2], torch.float32)
    for at, name, bad in [
        (0, "positions", torch.zeros(5, 9)),
        (0, "positions", torch.zeros(5, 3, dtype=torch.float16)),
        (1, "features", torch.zeros(4, 4)),
        (2, "weights", good[2][:-1]),
        (3, "system_ptr", torch.tensor([0, 3, 5], dtype=torch.int32)),
        (4, "cell", torch.zeros(3, 3, 3, dtype=F64)),
        (5, "inverse", torch.zeros(1, 3, 3, dtype=F64)),
        (7, "cutoff", 0.0),
        (8, "neighbors", math.nan),
    ]:
        with pytest.raises(ValueError, match=f"^{name}: got"):
            triton_kernels.egnn_layer(*good[:at], bad, *good[at + 1 :])
    for ptr in ([-3, 1, 9], [5, 2, 1], [9, 9, 9]):  # not offsets: any result, and nothing outside is read
        triton_kernels.egnn_layer(*good[:3], torch.tensor(ptr), *good[4:])
    with pytest.raises(ValueError, match="^grad_positions: got"):
        triton_adjoint.egnn_layer_backward(*good, good[1], good[1], good[1], True)
