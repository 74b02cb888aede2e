"""The bridge to ASE, against ASE's own potentials and integrators."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gmkern.dynamics import (
    Coulomb,
    Harmonic,
    LennardJones,
    Morse,
    VectorField,
    VelocityVerlet,
    energy_and_forces,
    simulate,
)

ase = pytest.importorskip("ase")
from ase import Atoms  # noqa: E402
from ase.calculators.lj import LennardJones as TheirLennardJones  # noqa: E402
from ase.optimize import BFGS  # noqa: E402

from gmkern.integrations.ase import Calculator, structures_of, types_of  # noqa: E402


def cluster(seed: int, atoms: int, size: float = 2.2) -> np.ndarray:
    """Points at least 0.9 apart."""
    generator, points = np.random.default_rng(seed), np.empty((0, 3))
    while len(points) < atoms:
        new = generator.uniform(-size, size, 3)
        if len(points) == 0 or np.linalg.norm(points - new, axis=1).min() > 0.9:
            points = np.vstack([points, new])
    return points


@pytest.mark.parametrize("periodic", [False, True])
def test_lennard_jones_is_that_of_ase(periodic):
    """Energies of ASE's own sum, shifted at its cutoff as ours; rounding of about 40 pairs' terms in float64."""
    cell = np.array([[6.0, 0.3, 0.0], [0.0, 5.8, 0.4], [0.2, 0.0, 6.1]]) if periodic else None
    atoms = Atoms("Ar11", cluster(0, 11), cell=cell, pbc=periodic)
    atoms.calc = TheirLennardJones(epsilon=0.7, sigma=1.1, rc=2.7)
    energy, forces = atoms.get_potential_energy(), atoms.get_forces()
    atoms.calc = Calculator(LennardJones(0.7, 1.1, cutoff=2.7))
    assert abs(atoms.get_potential_energy() - energy) < 1e-12 * 40 * abs(energy)
    assert np.abs(atoms.get_forces() - forces).max() < 1e-12 * 40 * np.abs(forces).max()
    assert atoms.get_potential_energy(force_consistent=True) == atoms.get_potential_energy()


def test_an_optimiser_of_ase_finds_the_published_minimum():
    """13 atoms near the icosahedron: Hoare and Pal (1971)."""
    golden = (1 + 5**0.5) / 2
    corners = [(0, a, b * golden) for a in (-1, 1) for b in (-1, 1)]
    points = np.array([(0, 0, 0)] + [np.roll(c, turn) for c in corners for turn in range(3)]) * 0.56
    points += np.random.default_rng(1).normal(0, 0.03, points.shape)
    atoms = Atoms("Ar13", points, calculator=Calculator(LennardJones()))
    assert BFGS(atoms, logfile=None).run(fmax=1e-4, steps=200)
    assert atoms.get_potential_energy() == pytest.approx(-44.326801, abs=1e-5)


def test_an_integrator_of_ase_walks_our_path():
    """Velocity Verlet in both; 50 steps of a smooth pair field part by rounding alone."""
    from ase.md.verlet import VelocityVerlet as TheirVerlet

    field, steps, dt = Morse(2.0, 1.5, 1.2) + Harmonic(0.1), 50, 0.02
    atoms = Atoms("Ar5", cluster(2, 5), calculator=Calculator(field))
    atoms.set_masses([1.0, 2.0, 3.0, 4.0, 5.0])
    atoms.set_velocities(np.random.default_rng(3).normal(0, 0.3, (5, 3)))
    start = structures_of([atoms])
    TheirVerlet(atoms, timestep=dt).run(steps)
    path = simulate(
        field, start.positions, velocities=start.velocities, masses=start.masses, integrator=VelocityVerlet(dt),
        steps=steps, system_ptr=start.system_ptr,
    )  # fmt: skip
    assert np.abs(atoms.positions - path.positions.numpy()).max() < 1e-11
    assert np.abs(atoms.get_velocities() - path.velocities.numpy()).max() < 1e-11


def test_types_are_elements():
    atoms = Atoms("NaClNa", cluster(4, 3))
    atoms.calc = Calculator(Coulomb([1.0, -1.0], constant=14.4), types={"Na": 0, "Cl": 1})
    d = atoms.get_all_distances()
    want = 14.4 * (1 / d[0, 2] - 1 / d[0, 1] - 1 / d[1, 2])
    assert atoms.get_potential_energy() == pytest.approx(want, rel=1e-13)
    atoms.symbols[0] = "Cl"
    assert atoms.get_potential_energy() == pytest.approx(14.4 * (1 / d[0, 1] - 1 / d[0, 2] - 1 / d[1, 2]), rel=1e-13)


def test_a_vector_field_has_forces_alone():
    atoms = Atoms("H3", cluster(5, 3), calculator=Calculator(VectorField(lambda x, t: -x * t[:, None, None], 2.0)))
    assert np.array_equal(atoms.get_forces(), -2.0 * atoms.positions)
    with pytest.raises(ase.calculators.calculator.PropertyNotImplementedError):
        atoms.get_potential_energy()


def test_images_become_ragged_systems():
    """Each system of the batch has the energy that it has alone."""
    images = [Atoms(f"Ar{n}", cluster(n, n), cell=np.eye(3) * (7 + n), pbc=[True, False, True]) for n in (2, 5, 3)]
    images[1].set_velocities(np.ones((5, 3)))
    batch, field = structures_of(images, dtype=torch.float32), LennardJones(cutoff=2.5)
    assert batch.velocities[:2].eq(0).all()
    assert torch.allclose(batch.velocities[2:7], torch.ones(()))
    assert batch.masses[0] == torch.tensor(images[0].get_masses()[0], dtype=torch.float32)
    energy = energy_and_forces(
        field, batch.positions, system_ptr=batch.system_ptr, cell=batch.cell, pbc=batch.pbc
    ).energy  # fmt: skip
    for one, value in zip(images, energy, strict=True):
        alone = structures_of([one], dtype=torch.float32)
        assert energy_and_forces(field, alone.positions, cell=alone.cell, pbc=alone.pbc).energy == value


@pytest.mark.parametrize(
    ("call", "word"),
    [
        (lambda: structures_of([]), "images"),
        (lambda: structures_of(Atoms("H")), "images"),
        (lambda: structures_of([Atoms("H", pbc=True), Atoms("H")]), "pbc"),
        (lambda: structures_of([Atoms("H")], dtype=torch.float16), "dtype"),
        (lambda: types_of([Atoms("HF")], {"H": 0}), "F"),
        (lambda: Calculator("lj"), "field"),
        (lambda: Calculator(VectorField(lambda x, t: x), types={"H": 0}), "types"),
    ],
)
def test_what_does_not_fit_is_named(call, word):
    with pytest.raises((TypeError, ValueError), match=word):
        call()
