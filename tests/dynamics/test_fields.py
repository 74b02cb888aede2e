"""Every field against its formula pair by pair, forces and derivatives by autograd of that, and along trajectories."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from gmkern.dynamics import (
    BAOAB,
    WCA,
    Coulomb,
    DoubleWell,
    EulerMaruyama,
    Harmonic,
    HarmonicBonds,
    LennardJones,
    Morse,
    SoftSphere,
    VelocityVerlet,
    energy_and_forces,
    path_log_prob,
    simulate,
)
from gmkern.testing import relative_error, run_isa, tolerance
from tests.dynamics.truth import cloud

pytestmark = pytest.mark.sanitize

BACKENDS = ("cpu", "reference")
CUT = 2.2


def lj(r, epsilon, sigma):
    return 4 * epsilon * ((sigma / r) ** 12 - (sigma / r) ** 6)


def morse(r, depth, rate, distance):
    return depth * ((1 - torch.exp(-rate * (r - distance))) ** 2 - 1)


def reaction(r, q):
    k = 1.5 * q * (10.0 - 1) / (2 * 10.0 + 1) / CUT**3
    return 1.5 * q / r + k * r * r - 1.5 * q / CUT - k * CUT**2


def well(r, a, b, c, d):
    return a * (r - d) + b * (r - d) ** 2 + c * (r - d) ** 4


WCA_END = 2 ** (1 / 6)
# name: the field, its energy of a pair at r, and the distance beyond which there is none
FIELDS = {
    "lj": (LennardJones(0.7, 1.1), lambda r: lj(r, 0.7, 1.1), math.inf),
    "lj_cut": (LennardJones(0.7, 1.1, cutoff=CUT, shift=False), lambda r: lj(r, 0.7, 1.1), CUT),
    "wca": (WCA(0.8, 1.2), lambda r: lj(r, 0.8, 1.2) + 0.8, WCA_END * 1.2),
    "morse": (Morse(1.3, 1.7, 1.2), lambda r: morse(r, 1.3, 1.7, 1.2), math.inf),
    "morse_cut": (
        Morse(1.3, 1.7, 1.2, cutoff=CUT),
        lambda r: morse(r, 1.3, 1.7, 1.2) - morse(torch.tensor(CUT, dtype=r.dtype), 1.3, 1.7, 1.2),
        CUT,
    ),
    "coulomb": (Coulomb(-0.8, 1.5), lambda r: 1.5 * 0.64 / r, math.inf),
    "coulomb_shift": (Coulomb(0.8, 1.5, cutoff=CUT), lambda r: 1.5 * 0.64 * (1 / r - 1 / CUT), CUT),
    "reaction_field": (Coulomb(0.8, 1.5, cutoff=CUT, dielectric=10.0), lambda r: reaction(r, 0.64), CUT),
    "soft": (SoftSphere(2.0, 1.6), lambda r: 1.0 * (1 - r / 1.6) ** 2, 1.6),
    "hertz": (SoftSphere(2.0, 1.6, exponent=2.5), lambda r: 0.8 * (1 - r / 1.6).clamp(min=0) ** 2.5, 1.6),
    "double_well": (DoubleWell(0.3, -2.0, 0.6, 1.5), lambda r: well(r, 0.3, -2.0, 0.6, 1.5), math.inf),
}
names = pytest.mark.parametrize("name", FIELDS)


def truth(pair, end, x):
    """Energy and forces of one system by a loop over pairs, the forces by autograd."""
    x = x.detach().double().requires_grad_()
    energy = x.sum() * 0
    for i in range(len(x)):
        for j in range(i):
            r = (x[i] - x[j]).norm()
            if r < end:
                energy = energy + pair(r)
    return energy.detach(), -torch.autograd.grad(energy, x)[0]


@names
@pytest.mark.parametrize("backend", BACKENDS)
def test_pair_fields_against_their_formula(name, backend):
    field, pair, end = FIELDS[name]
    for dtype, n, dim in [(torch.float64, 19, 3), (torch.float64, 6, 2), (torch.float32, 17, 3)]:
        x = cloud(2, n, dim).to(dtype)
        energy, forces = energy_and_forces(field, x, backend=backend)
        for s in range(2):
            want_energy, want_forces = truth(pair, end, x[s])
            # terms of up to 13 powers of a difference, n of them, each at most n times the largest force or energy
            bound = 40 * tolerance(dtype, n) * n * (1 + float(want_forces.abs().max()) + abs(float(want_energy)))
            assert abs(float(energy[s]) - float(want_energy)) < bound
            assert float((forces[s].double() - want_forces).abs().max()) < bound
    assert float(want_forces.abs().max()) > 1e-3  # there was something to compare


def test_the_dw4_of_the_literature():
    """Four atoms in the plane: sum over ordered pairs of (-4 (d - 4)^2 + 0.9 (d - 4)^4) / 2."""
    x = 3.0 * torch.randn(5, 4, 2, dtype=torch.float64)
    d = torch.cdist(x, x)[:, ~torch.eye(4, dtype=torch.bool)] - 4.0
    want = (0.5 * (-4.0 * d**2 + 0.9 * d**4)).sum(1)
    assert relative_error(energy_and_forces(DoubleWell(), x).energy, want) < 1e-13


def typed():
    """A sum of four fields of three types, with what it is between atoms i and j of types t."""
    epsilon, sigma = torch.tensor([0.5, 1.0, 2.0]), torch.tensor([0.9, 1.0, 1.2])
    charges = torch.tensor([1.0, -0.5, 0.0], dtype=torch.float64)
    depth = torch.tensor([[1.0, 0.2, 0.3], [0.2, 2.0, 0.4], [0.3, 0.4, 0.0]], dtype=torch.float64)
    rows = [epsilon.double(), sigma.double(), charges, depth]
    for row in rows:
        row.requires_grad_()

    def field(epsilon, sigma, charges, depth):
        return (
            LennardJones(epsilon, sigma, cutoff=2.5) + Coulomb(charges, 0.7, cutoff=2.4)
            + Morse(depth, 1.5, 1.3) + SoftSphere(3.0, sigma, exponent=3.5)
        )  # fmt: skip

    def pair(a, b, r):
        e, s = (rows[0][a] * rows[0][b]).sqrt(), (rows[1][a] + rows[1][b]) / 2
        total = morse(r, rows[3][a, b], 1.5, 1.3)
        if r < 2.5:
            total = total + lj(r, e, s) - lj(2.5, e, s)
        if r < 2.4:
            total = total + 0.7 * rows[2][a] * rows[2][b] * (1 / r - 1 / 2.4)
        if r < s:
            total = total + 3.0 / 3.5 * (1 - r / s) ** 3.5
        return total

    return field, rows, pair


@pytest.mark.parametrize("backend", BACKENDS)
def test_types_sums_bonds_and_traps_of_ragged_systems(backend):
    make, rows, pair = typed()
    ptr, types = [0, 5, 16], torch.randint(0, 3, (16,))
    x = torch.cat([cloud(1, 5)[0], cloud(1, 11)[0]]).requires_grad_()
    bonds, k, length = [[0, 1], [1, 2], [4, 0]], torch.tensor([3.0, 4.0, 5.0]), torch.tensor([1.0, 0.9, 0.0])
    traps, centers = torch.tensor([0.3, 0.4, 0.5]), torch.randn(3, 3, dtype=torch.float64)
    field = make(*rows) + HarmonicBonds(bonds, k, length) + Harmonic(traps, centers)
    energy, forces = energy_and_forces(field, x, system_ptr=ptr, types=types, backend=backend)
    want = []
    for a, b in itertools.pairwise(ptr):
        y, t, total = x[a:b], types[a:b], 0.0
        for i in range(b - a):
            total = total + 0.5 * traps[t[i]] * ((y[i] - centers[t[i]]) ** 2).sum()
            for j in range(i):
                total = total + pair(t[i], t[j], (y[i] - y[j]).norm())
        for (i, j), k_b, l_b in zip(bonds, k, length, strict=True):
            total = total + 0.5 * k_b * ((y[i] - y[j]).norm() - l_b) ** 2
        want.append(total)
    want = torch.stack(want)
    grads = torch.autograd.grad(want.sum(), (x, *rows), retain_graph=True)
    assert relative_error(energy, want) < 1e-12
    assert relative_error(-forces, grads[0], grads[0].abs().max()) < 1e-12
    weights = torch.randn(2, dtype=torch.float64)
    ours = torch.autograd.grad((energy * weights).sum(), (x, *rows), retain_graph=True)
    theirs = torch.autograd.grad((want * weights).sum(), (x, *rows), retain_graph=True)
    for a, b in zip(ours, theirs, strict=True):
        a, b = (g if b is not theirs[-1] else 0.5 * (g + g.T) for g in (a, b))  # a table's halves are one parameter
        assert relative_error(a, b, b.abs().max()) < 1e-11
    # a loss on forces, to positions and parameters
    push = torch.randn_like(x)
    theirs = torch.autograd.grad(want.sum(), x, create_graph=True)[0]
    ours = torch.autograd.grad((forces * push).sum(), (x, *rows))
    theirs = torch.autograd.grad(-(theirs * push).sum(), (x, *rows))
    for a, b in zip(ours, theirs, strict=True):
        a, b = (g if b is not theirs[-1] else 0.5 * (g + g.T) for g in (a, b))
        assert relative_error(a, b, b.abs().max()) < 1e-11
    if backend == "cpu":  # one type in all terms is no types
        once = energy_and_forces(LennardJones() + Coulomb(0.3), x, system_ptr=ptr, types=types)
        same = energy_and_forces(LennardJones() + Coulomb([0.3] * 3), x, system_ptr=ptr, types=types)
        assert torch.equal(once.forces, same.forces)


PARAMETRIC = {
    "lj": lambda a, b: LennardJones(a, b, cutoff=2.5),
    "wca": lambda a, b: WCA(a, b),
    "morse": lambda a, b: Morse(a, 1.4, b, cutoff=2.5),
    "coulomb": lambda a, b: Coulomb(a, b, cutoff=2.5, dielectric=3.0),
    "soft": lambda a, b: SoftSphere(a, 1.4 * b, exponent=4.0),
    "double_well": lambda a, b: DoubleWell(a, b, 0.7, 1.3 * b),
    "bonds": lambda a, b: HarmonicBonds([[0, 1], [2, 1]], a, b),
    "traps": lambda a, b: Harmonic(a, torch.stack([b, a, a + b])),
}


@pytest.mark.parametrize("name", PARAMETRIC)
def test_first_and_second_derivatives(name):
    """In positions and parameters, of energies and of forces, with a box where there are pairs."""
    x = cloud(1, 4).requires_grad_()
    a, b = (torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in (0.8, 1.1))
    kw = {"backend": "cpu"}
    if name in ("lj", "coulomb"):
        kw.update(cell=6.0 * torch.eye(3), pbc=[True, True, False])

    def both(x, a, b):
        return tuple(energy_and_forces(PARAMETRIC[name](a, b), x, **kw))

    assert torch.autograd.gradcheck(both, (x, a, b))
    assert torch.autograd.gradgradcheck(both, (x, a, b))


FLUID = LennardJones([0.5, 1.0], [1.0, 1.1], cutoff=2.5) + Morse(0.5, 2.0, 1.2) + HarmonicBonds([[0, 1], [1, 2]], 20.0)


def test_trajectories_against_the_reference():
    types = torch.arange(13) % 2
    for dtype, integrator in [(torch.float64, BAOAB(0.003, 0.5, 2.0)), (torch.float32, EulerMaruyama(3e-4, 1.0))]:
        x = cloud(3, 13).to(dtype)
        kw = {"integrator": integrator, "steps": 20, "seed": 5, "types": types, "record_every": 10, "log_prob": True}
        got, want = (simulate(FLUID, x, backend=backend, **kw) for backend in BACKENDS)
        bound = 20 * 30 * torch.finfo(dtype).eps * float(want.positions.abs().max() + 1)
        assert float((got.frames - want.frames).abs().max()) < bound
        alone = simulate(FLUID, x[1], sample_ids=[1], **kw)
        assert torch.equal(alone.frames, got.frames[:, 1])
        assert torch.equal(alone.log_prob_forward[0], got.log_prob_forward[1])


def test_every_instruction_set(isa):
    x = cloud(2, 21).float()
    code = """
    from gmkern.dynamics import (Coulomb, DoubleWell, HarmonicBonds, LennardJones, Morse, SoftSphere, energy_and_forces)
    charges = torch.tensor([1.0, -0.5], requires_grad=True)
    field = (LennardJones(0.5, cutoff=2.5) + Coulomb(charges, cutoff=3.0, dielectric=5.0) + Morse(0.5, 2.0, 1.2)
             + SoftSphere(2.0, 1.6, 2.5) + DoubleWell(0.1, -0.2, 0.1, 1.5) + HarmonicBonds([[0, 1]], 20.0))
    y = x.clone().requires_grad_()
    energy, forces = energy_and_forces(field, y, types=torch.arange(21) % 2, backend=backend)
    (energy.sum() + (forces * forces).sum()).backward()
    out = energy.detach(), forces.detach(), y.grad, charges.grad
    """
    got = run_isa(isa, code.replace("backend=backend", "backend='cpu'"), x=x)
    space = {"x": x.double(), "torch": torch, "backend": "reference"}
    exec("\n".join(line[4:] for line in code.splitlines()), space)
    for a, b in zip(got, space["out"], strict=True):
        # 30 roundings a term and 21 terms of a size up to the forces squared's derivatives
        assert relative_error(a, b, b.abs().max()) < 40 * tolerance(torch.float32, 21)


@pytest.mark.parametrize("integrator", [VelocityVerlet(0.01), BAOAB(0.01, 0.5, 1.0), EulerMaruyama(1e-3, 1.0)],
                         ids=lambda i: type(i).__name__)  # fmt: skip
def test_gradients_through_a_trajectory(integrator):
    """The compiled forces' loop against the reference's, which gradcheck holds to differences."""
    epsilon = torch.tensor([0.9, 1.1], dtype=torch.float64, requires_grad=True)
    stiff = torch.tensor(20.0, dtype=torch.float64, requires_grad=True)
    x = torch.cat([cloud(1, 4)[0], cloud(1, 3)[0]]).requires_grad_()
    kw = {"integrator": integrator, "steps": 5, "seed": 0, "types": [0, 1, 0, 1, 1, 0, 1], "record_every": 2,
          "system_ptr": [0, 4, 7], "log_prob": integrator.is_random}  # fmt: skip

    def end(x, epsilon, stiff, **more):
        field = LennardJones(epsilon, cutoff=2.5) + HarmonicBonds([[0, 1], [1, 2]], stiff)
        path = simulate(field, x, **kw, **more)
        return tuple(t for t in path if t is not None)

    assert torch.autograd.gradcheck(end, (x, epsilon, stiff), atol=1e-4)
    grads = []
    for more in ({}, {"checkpoint_every": 2}, {"backend": "reference"}):
        out = end(x, epsilon, stiff, **more)
        grads.append(torch.autograd.grad(sum(o.square().sum() for o in out), (x, epsilon, stiff)))
    for a, b, c in zip(*grads, strict=True):
        assert torch.equal(a, b)
        assert relative_error(a, c, c.abs().max()) < 1e-9
    with torch.no_grad():
        plain = end(x, epsilon, stiff)
    for a, b in zip(plain, out, strict=True):  # the compiled path, to rounding
        assert torch.allclose(a, b, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("backward", ["same_drift", "reversed", "brownian", "bridge"])
def test_gradients_of_a_stored_path(backward):
    """The compiled score's own gradient against autograd of the reference, and a path held fixed in simulate."""
    epsilon = torch.tensor([0.9, 1.1], dtype=torch.float64, requires_grad=True)
    cell = 9.0 * torch.eye(3) + 0.1 * torch.rand(2, 3, 3)
    law = {"integrator": EulerMaruyama(1e-3 * (1 + torch.rand(6, 2)), [0.8, 1.2]), "backward": backward,
           "types": [0, 1, 1, 0, 1], "cell": cell, "pbc": True}  # fmt: skip
    field = LennardJones(epsilon, cutoff=2.5) + Harmonic(0.4)
    path = simulate(field, cloud(2, 5), steps=6, seed=1, record_every=1, log_prob=True, detach_path=True, **law)
    frames = path.frames.clone().requires_grad_()
    weights = torch.randn(2, 2, dtype=torch.float64)
    grads = []
    for backend in BACKENDS:
        out = path_log_prob(field, frames, backend=backend, **law)
        loss = (weights[0] * out.forward + weights[1] * out.backward).sum()
        grads.append(torch.autograd.grad(loss, (frames, epsilon)))
    for a, b in zip(*grads, strict=True):
        assert relative_error(a, b, b.abs().max()) < 1e-11
    again = path_log_prob(field, path.frames, **law)
    assert torch.equal(again.forward, path.log_prob_forward)
    assert torch.equal(again.backward, path.log_prob_backward)
    loss = (weights[0] * path.log_prob_forward + weights[1] * path.log_prob_backward).sum()
    assert torch.equal(torch.autograd.grad(loss, epsilon, retain_graph=True)[0], grads[0][1])
    assert not path.frames.requires_grad
    if backward == "same_drift":
        energies = torch.autograd.grad(path.energies.sum(), epsilon)[0]
        assert torch.isfinite(energies).all()
        assert float(energies.abs().max()) > 0


def test_atoms_far_apart_do_not_interact():
    """Distances whose squares overflow: 1e30 in float32."""
    x = torch.tensor([[[0.0, 0.0, 0.0], [1.2, 0.0, 0.0], [1e30, 0.0, 0.0], [0.0, -3e37, 0.0]]])
    for field in (LennardJones(), LennardJones(cutoff=2.5), Morse(), Coulomb(), LennardJones() + Morse()):
        for backend in BACKENDS:
            energy, forces = energy_and_forces(field, x, backend=backend)
            near = energy_and_forces(field, x[:, :2], backend=backend)
            assert torch.equal(forces[:, 2:], torch.zeros(1, 2, 3))
            assert relative_error(forces[:, :2], near.forces, near.forces.abs().max()) < 4 * tolerance(torch.float32)
            assert relative_error(energy, near.energy) < 4 * tolerance(torch.float32)
    path = simulate(LennardJones(), x, integrator=VelocityVerlet(0.01), steps=2)
    assert torch.isfinite(path.positions).all()


def test_a_spring_of_no_length_is_smooth_at_0():
    x = torch.zeros(1, 3, 3, dtype=torch.float64, requires_grad=True)
    field = HarmonicBonds([[0, 1], [1, 2]], 2.0, 0.0)
    for backend in BACKENDS:
        energy, forces = energy_and_forces(field, x, backend=backend)
        assert torch.equal(forces, torch.zeros_like(x))
        (energy.sum() + forces.sum()).backward()
    assert torch.autograd.gradcheck(lambda x: tuple(energy_and_forces(field, x)), (x.detach().requires_grad_(),))


def test_bad_arguments_are_named():
    x, two = cloud(2, 4), LennardJones([1.0, 2.0])
    kw = {"integrator": VelocityVerlet(0.01), "steps": 1}
    box = (9.0 * torch.eye(3, dtype=x.dtype)).requires_grad_()
    masses = torch.ones(4, dtype=x.dtype, requires_grad=True)
    for name, error, call in [
        ("cell: .* requires grad", ValueError, lambda: energy_and_forces(WCA(), x, cell=box, pbc=True)),
        ("cell: .* requires grad", ValueError, lambda: simulate(WCA(), x, cell=box, pbc=True, **kw)),
        ("masses: .* requires grad", ValueError, lambda: simulate(WCA(), x, masses=masses, **kw)),
        ("center", ValueError, lambda: Harmonic(center=torch.zeros(3, device="meta"))),
        ("center", TypeError, lambda: Harmonic(center=torch.zeros(3).to_sparse())),
        ("center", TypeError, lambda: Harmonic(center="here")),
        ("types", ValueError, lambda: energy_and_forces(two, x)),
        ("types", ValueError, lambda: energy_and_forces(two, x, types=[0, 1, 2, 0])),
        ("types", ValueError, lambda: energy_and_forces(two, x, types=[0, -1, 0, 0])),
        ("types", ValueError, lambda: energy_and_forces(two, x, types=[0, 1])),
        ("types", TypeError, lambda: energy_and_forces(two, x, types=torch.rand(4))),
        ("types", ValueError, lambda: simulate(two, x, **kw)),
        ("field", ValueError, lambda: energy_and_forces(two + Coulomb([1.0, 2.0, 3.0]), x, types=[0, 1, 0, 1])),
        ("field", ValueError, lambda: energy_and_forces(LennardJones([1.0] * 65), x, types=[0, 1, 0, 1])),
        ("epsilon", ValueError, lambda: LennardJones([[1.0, 2.0], [3.0, 1.0]])),
        ("epsilon", ValueError, lambda: WCA([1.0, -1.0])),
        ("sigma", ValueError, lambda: WCA(1.0, [0.0, 1.0])),
        ("depth", ValueError, lambda: Morse([1.0, 2.0])),
        ("rate", ValueError, lambda: Morse(1.0, 0.0)),
        ("charges", ValueError, lambda: Coulomb([[1.0, 0.0], [0.0, 1.0]])),
        ("charges", TypeError, lambda: Coulomb("+")),
        ("dielectric", ValueError, lambda: Coulomb(dielectric=2.0)),
        ("dielectric", ValueError, lambda: Coulomb(cutoff=2.0, dielectric=0.0)),
        ("exponent", ValueError, lambda: SoftSphere(exponent=1.5)),
        ("exponent", ValueError, lambda: SoftSphere(exponent=2.3)),
        ("distance", ValueError, lambda: DoubleWell(distance=math.nan)),
        ("bonds", ValueError, lambda: HarmonicBonds([[0, 0]])),
        ("bonds", ValueError, lambda: HarmonicBonds([[0, -1]])),
        ("bonds", ValueError, lambda: HarmonicBonds(np.zeros((0, 2), dtype=np.int64))),
        ("bonds", ValueError, lambda: HarmonicBonds([[0.0, 1.0]])),
        ("bonds", ValueError, lambda: energy_and_forces(HarmonicBonds([[0, 4]]), x)),
        ("length", ValueError, lambda: HarmonicBonds([[0, 1]], 1.0, -1.0)),
        ("k", ValueError, lambda: HarmonicBonds([[0, 1]], [1.0, 2.0])),
        ("center", ValueError, lambda: energy_and_forces(Harmonic([1.0, 2.0], torch.zeros(3, 3)), x, types=[0] * 4)),
        ("cutoff", ValueError, lambda: energy_and_forces(WCA(1.0, [1.0, 2.0]), x, cell=torch.eye(3) * 4, pbc=True,
                                                         types=[0] * 4)),
    ]:  # fmt: skip
        with pytest.raises(error, match=name):
            call()
