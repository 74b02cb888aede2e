"""energy_and_forces() against plain loops in NumPy, autograd, symmetries and published clusters."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import gmkern
from gmkern.dynamics import Harmonic, LennardJones, VectorField, energy_and_forces
from gmkern.dynamics.fields import packed
from gmkern.dynamics.systems import box_of, systems_of
from gmkern.testing import relative_error, run_isa, tolerance
from tests.dynamics.truth import cloud, icosahedron, lennard_jones, truncated_octahedron

pytestmark = pytest.mark.sanitize

TRICLINIC = torch.tensor([[6.0, 0.0, 0.0], [1.5, 5.5, 0.0], [-1.0, 0.8, 5.8]], dtype=torch.float64)
BACKENDS = ("cpu", "reference")


def pair_tolerance(dtype: torch.dtype, n: int) -> float:
    """Relative to the sum of |terms|: each term is r^-14 of a difference, so 14 roundings of it, then n additions."""
    return 14 * tolerance(dtype, 1) + tolerance(dtype, n)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("n", "dim"), [(1, 3), (2, 2), (13, 3), (16, 3), (17, 2), (33, 3), (61, 3)])
def test_against_a_plain_loop(backend, dtype, n, dim):
    x = cloud(3, n, dim).to(dtype)
    for field, cut in [(LennardJones(0.7, 1.1), math.inf), (LennardJones(0.7, 1.1, cutoff=2.4), 2.4)]:
        energy, forces = energy_and_forces(field, x, backend=backend)
        for s in range(3):
            want_energy, want_forces = lennard_jones(x[s].double().numpy(), 0.7, 1.1, cut)
            # each pair's force is at most its two parts apart, sum |terms| <= n times the largest there is
            scale = 1 + max(abs(want_energy), float(np.abs(want_forces).max())) * n
            bound = pair_tolerance(dtype, n) * scale
            assert abs(float(energy[s]) - want_energy) <= bound
            assert float((forces[s].double() - torch.from_numpy(want_forces)).abs().max()) <= bound


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("pbc", [(True, True, True), (True, False, True), (False, True, False)])
@pytest.mark.parametrize("kind", ["orthorhombic", "triclinic"])
def test_periodic_boxes_against_all_images(backend, pbc, kind):
    cell = torch.diag(torch.tensor([4.1, 4.6, 5.2], dtype=torch.float64)) if kind == "orthorhombic" else TRICLINIC
    cutoff = 2.0
    x = cloud(2, 20) + 7.0 * torch.randn(2, 1, 3, dtype=torch.float64)  # far outside the box: nothing is wrapped
    energy, forces = energy_and_forces(LennardJones(cutoff=cutoff), x, cell=cell, pbc=pbc, backend=backend)
    for s in range(2):
        want_energy, want_forces = lennard_jones(x[s].numpy(), cutoff=cutoff, cell=cell.numpy(), pbc=pbc)
        scale = abs(want_energy) + float(np.abs(want_forces).max()) * 20
        assert abs(float(energy[s]) - want_energy) <= 1e-13 * scale
        assert float((forces[s] - torch.from_numpy(want_forces)).abs().max()) <= 1e-13 * scale


def test_boxes_one_a_system():
    x = cloud(2, 9)
    cells = torch.stack([torch.eye(3, dtype=torch.float64) * 5.0, TRICLINIC])
    field = LennardJones(cutoff=2.2)
    both = energy_and_forces(field, x, cell=cells, pbc=True)
    for s in range(2):
        one = energy_and_forces(field, x[s], cell=cells[s], pbc=True)
        assert torch.equal(one.forces, both.forces[s])
        assert torch.equal(one.energy[0], both.energy[s])


@pytest.mark.parametrize("backend", BACKENDS)
def test_forces_are_minus_the_gradient(backend):
    field = LennardJones(cutoff=2.5) + Harmonic(0.4, [0.1, -0.2, 0.3]) + LennardJones(0.2, 0.9)
    x = cloud(3, 11).requires_grad_()
    truth = torch.autograd.grad(energy_and_forces(field, x, backend="reference").energy.sum(), x)[0]
    forces = energy_and_forces(field, x, backend=backend).forces
    assert relative_error(-forces, truth, truth.abs().max()) < 100 * tolerance(torch.float64, 30)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dim", [2, 3])
def test_derivatives(backend, dim):
    field = LennardJones(cutoff=3.0) + Harmonic(0.4)
    kw = {"cell": torch.eye(dim) * 6.5, "pbc": True, "backend": backend}
    x = cloud(2, 5, dim).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: tuple(energy_and_forces(field, x, **kw)), (x,))
    assert torch.autograd.gradgradcheck(lambda x: energy_and_forces(field, x, **kw).energy, (x,))
    ptr = [0, 4, 4, 10]
    flat = cloud(1, 10, dim)[0].requires_grad_()
    ragged = {"system_ptr": ptr, "backend": backend}
    assert torch.autograd.gradcheck(lambda x: tuple(energy_and_forces(field, x, **ragged)), (flat,))


@pytest.mark.parametrize(("start", "published"), [(icosahedron, -44.326801), (truncated_octahedron, -173.928427)])
def test_published_clusters(start, published):
    """Relaxed by Newton's method from a built start: the global minima of 13 and 38 atoms (Wales and Doye, 1997)."""
    x = start()
    for _ in range(8):
        hessian = torch.autograd.functional.jacobian(lambda x: -energy_and_forces(LennardJones(), x).forces, x)
        n = x.numel()
        # the six rigid motions have eigenvalue 0: the pseudo-inverse leaves them out
        step = torch.linalg.pinv(hessian.reshape(n, n), rtol=1e-8, hermitian=True)
        x = x + (step @ energy_and_forces(LennardJones(), x).forces.reshape(-1)).reshape(x.shape)
    energy, forces = energy_and_forces(LennardJones(), x)
    assert float(forces.abs().max()) < 1e-10
    assert float(energy) == pytest.approx(published, abs=5e-7)  # its last printed digit


def test_symmetries():
    x = cloud(2, 19)
    rotation = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64))[0]
    moved = x @ rotation.T + torch.randn(3, dtype=torch.float64)
    order = torch.randperm(19)
    energy, forces = energy_and_forces(LennardJones(), x)
    turned = energy_and_forces(LennardJones(), moved)
    mixed = energy_and_forces(LennardJones(), x[:, order])
    bound = 1e-12 * float(forces.abs().max()) * 19
    assert float((turned.energy - energy).abs().max()) < bound
    assert float((turned.forces - forces @ rotation.T).abs().max()) < bound
    assert float((mixed.forces - forces[:, order]).abs().max()) < bound
    assert float(forces.sum(1).abs().max()) < bound  # action and reaction


def test_harmonic_traps_in_any_dimension():
    for dim in (1, 2, 5):
        x = torch.randn(3, 4, dim, dtype=torch.float64)
        centre = torch.randn(dim, dtype=torch.float64)
        for backend in BACKENDS:
            energy, forces = energy_and_forces(Harmonic(0.7, centre), x, backend=backend)
            assert relative_error(energy, 0.35 * ((x - centre) ** 2).sum((1, 2))) < tolerance(torch.float64, 4 * dim)
            assert relative_error(forces, -0.7 * (x - centre)) < tolerance(torch.float64)
    with pytest.raises(ValueError, match="dimension 2 or 3"):
        energy_and_forces(LennardJones(), torch.randn(2, 3, 4), backend="cpu")
    assert energy_and_forces(LennardJones(), torch.randn(2, 3, 4)).energy.shape == (2,)  # the reference serves it


def test_a_system_has_the_same_bits_alone_and_in_any_batch(threads):
    sizes = [40, 0, 1, 17, 16, 33]
    ptr = [0, *np.cumsum(sizes).tolist()]
    x = torch.cat([cloud(1, n)[0] for n in sizes]).float()
    field = LennardJones(cutoff=2.5) + Harmonic(0.1)
    threads(2)
    energy, forces = energy_and_forces(field, x, system_ptr=ptr)
    threads(1)
    for s in range(len(sizes)):
        alone = energy_and_forces(field, x[ptr[s] : ptr[s + 1]])
        assert torch.equal(alone.forces, forces[ptr[s] : ptr[s + 1]])
        assert torch.equal(alone.energy[0], energy[s])
    # negative control: the order of the atoms is the order of the sums
    turned = energy_and_forces(field, x[:40].flip(0)).forces.flip(0)
    assert not torch.equal(turned, forces[:40])


def test_every_instruction_set(isa):
    x = cloud(3, 21).float()
    want = energy_and_forces(LennardJones(cutoff=2.5), x.double(), backend="reference")
    got = run_isa(
        isa,
        """
        from gmkern.dynamics import LennardJones, energy_and_forces
        out = tuple(energy_and_forces(LennardJones(cutoff=2.5), x, backend="cpu"))
        """,
        x=x,
    )
    bound = pair_tolerance(torch.float32, 21) * 21
    assert relative_error(got[0], want.energy, want.forces.abs().max()) < bound
    assert relative_error(got[1], want.forces, want.forces.abs().max()) < bound


def test_ops_are_well_behaved():
    field = LennardJones(cutoff=2.0) + Harmonic(0.3)
    for dtype in (torch.float32, torch.float64):
        x = cloud(2, 5).to(dtype)
        systems = systems_of(x, None)
        box = box_of(TRICLINIC, True, systems, field, x.device)
        terms = packed(field, 3, x.device)
        parameters = terms.parameters.requires_grad_()
        flat = systems.flat(x).requires_grad_()
        rest = (
            systems.ptr,
            torch.empty(0, dtype=torch.int64),
            terms.kinds,
            terms.sizes,
            parameters,
            box.cell,
            box.inverse,
        )
        torch.library.opcheck(torch.ops.gmkern.energy_and_forces.default, (flat, *rest))
        grads = (torch.randn(2, dtype=dtype), torch.randn_like(flat))
        fixed = [t.detach() if isinstance(t, torch.Tensor) else t for t in (flat, *grads, *rest, True)]
        torch.library.opcheck(torch.ops.gmkern.energy_and_forces_backward.default, tuple(fixed))


def test_atoms_at_one_point_are_never_silent():
    x = torch.zeros(2, 3, 3)
    x[:, 1], x[:, 2] = 1.0, 2.5
    x[1, 2] = x[1, 1]
    for backend in BACKENDS:
        for field in (LennardJones(), LennardJones(cutoff=2.5)):
            energy, forces = energy_and_forces(field, x, backend=backend)
            assert torch.isfinite(energy[0])
            assert torch.isfinite(forces[0]).all()
            assert not torch.isfinite(energy[1])
            assert not torch.isfinite(forces[1, 1:]).all(-1).any()


def test_awkward_input():
    x = cloud(4, 6)
    want = energy_and_forces(LennardJones(), x)
    assert torch.equal(
        energy_and_forces(LennardJones(), x.transpose(0, 1).contiguous().transpose(0, 1)).forces, want[1]
    )
    assert torch.equal(energy_and_forces(LennardJones(), x.numpy()).forces, want.forces)
    assert torch.equal(energy_and_forces(LennardJones(), x[:1].expand(3, 6, 3)).energy, want.energy[:1].expand(3))
    for backend in BACKENDS:
        empty = energy_and_forces(LennardJones(), x[:0], backend=backend)
        assert empty.energy.shape == (0,)
        none = energy_and_forces(LennardJones(), x[:, :0], backend=backend)
        assert torch.equal(none.energy, torch.zeros(4, dtype=x.dtype))


def test_bad_arguments_are_named():
    x = torch.randn(2, 4, 3)
    lj, box = LennardJones(cutoff=1.0), torch.eye(3) * 4
    for name, error, call in [
        ("field", TypeError, lambda: energy_and_forces(VectorField(lambda x, t: x), x)),
        ("positions", TypeError, lambda: energy_and_forces(lj, [[0.0, 1.0]])),
        ("positions", TypeError, lambda: energy_and_forces(lj, x.half())),
        ("positions", ValueError, lambda: energy_and_forces(lj, x[0, 0])),
        ("positions", ValueError, lambda: energy_and_forces(lj, x * math.inf)),
        ("positions", ValueError, lambda: energy_and_forces(lj, x[..., :0])),
        ("system_ptr", ValueError, lambda: energy_and_forces(lj, x, system_ptr=[0, 2])),
        ("system_ptr", ValueError, lambda: energy_and_forces(lj, x[0], system_ptr=[0, 3])),
        ("system_ptr", ValueError, lambda: energy_and_forces(lj, x[0], system_ptr=[0, 3, 2, 4])),
        ("system_ptr", TypeError, lambda: energy_and_forces(lj, x[0], system_ptr=torch.tensor([0.0, 4.0]))),
        ("cell", ValueError, lambda: energy_and_forces(lj, x, pbc=True)),
        ("cell", ValueError, lambda: energy_and_forces(lj, x, cell=box)),
        ("cell", ValueError, lambda: energy_and_forces(lj, x, cell=box[:2], pbc=True)),
        ("cell", ValueError, lambda: energy_and_forces(lj, x, cell=box * 0, pbc=True)),
        ("cell", ValueError, lambda: energy_and_forces(lj, x, cell=box * math.nan, pbc=True)),
        ("pbc", ValueError, lambda: energy_and_forces(lj, x, cell=box, pbc=[True, False])),
        ("cutoff", ValueError, lambda: energy_and_forces(LennardJones(), x, cell=box, pbc=True)),
        ("cutoff", ValueError, lambda: energy_and_forces(LennardJones(cutoff=2.01), x, cell=box, pbc=True)),
        ("cutoff", ValueError, lambda: energy_and_forces(LennardJones(cutoff=1.9), x, cell=box - 0.7, pbc=True)),
        ("center", ValueError, lambda: energy_and_forces(Harmonic(center=[0.0, 1.0]), x)),
        ("backend", ValueError, lambda: energy_and_forces(lj, x, backend="gpu")),
        ("triton", ValueError, lambda: energy_and_forces(lj, x, backend="triton")),
        ("cutoff", ValueError, lambda: LennardJones(cutoff=0.0)),
        ("sigma", ValueError, lambda: LennardJones(sigma=0.0)),
        ("epsilon", ValueError, lambda: LennardJones(epsilon=math.nan)),
        ("epsilon", ValueError, lambda: LennardJones(epsilon=torch.ones(2, 3))),
        ("shift", TypeError, lambda: LennardJones(shift=1)),
        ("k", TypeError, lambda: Harmonic("1")),
        ("center", ValueError, lambda: Harmonic(center=[math.nan, 0.0])),
    ]:  # fmt: skip
        with pytest.raises(error, match=name):
            call()


def test_a_direct_call_cannot_read_outside():
    x, ptr, none = torch.randn(6, 3), torch.tensor([0, 6]), torch.empty(0, 3, 3, dtype=torch.float64)
    same, six = torch.empty(0, dtype=torch.int64), torch.ones(6, dtype=torch.float64)
    bond = torch.tensor([0.0, 6.0, 1.0, 1.0], dtype=torch.float64)
    two, box = torch.ones(24, dtype=torch.float64), torch.ones(1, 3, 3, dtype=torch.float64)
    call = torch.ops.gmkern.energy_and_forces
    assert call(x, ptr, same, [0], [6], six, none, none)[0].shape == (1,)
    flat = none[:, :1, :1].contiguous()
    for name, arguments in [
        ("system_ptr", (x, torch.tensor([0, 9]), same, [0], [6], six, none, none)),
        ("system_ptr", (x, torch.tensor([0, 8, 6]), same, [0], [6], six, none, none)),
        ("types", (x, ptr, same[:0].int(), [0], [6], six, none, none)),
        ("types", (x, ptr, same, [0], [24], two, none, none)),
        ("types", (x, ptr, torch.full((6,), 2), [0], [24], two, none, none)),
        ("types", (x, ptr, torch.zeros(5, dtype=torch.int64), [0], [24], two, none, none)),
        ("parameters", (x, ptr, same, [0, 1], [6, 4], six, none, none)),
        ("parameters", (x, ptr, same, [6], [4], bond, none, none)),
        ("parameters", (x, ptr, same, [6], [4], bond * math.nan, none, none)),
        ("sizes", (x, ptr, same, [0], [5], six, none, none)),
        ("sizes", (x, ptr, same, [0], [-6], six, none, none)),
        ("sizes", (x, ptr, same, [0], [], six, none, none)),
        ("kinds", (x, ptr, same, [7], [6], six, none, none)),
        ("positions", (x.half(), ptr, same, [0], [6], six, none, none)),
        ("positions", (x[:, :1].contiguous(), ptr, same, [0], [6], six, flat, flat)),
        ("inverse", (x, ptr, same, [0], [6], six, box, none)),
        ("cell", (x, ptr, same, [0], [6], six, box.expand(2, 3, 3).contiguous(), none)),
    ]:
        with pytest.raises(RuntimeError, match=f"gmkern: {name}"):
            call(*arguments)
    assert gmkern.dynamics.energy_and_forces is energy_and_forces
