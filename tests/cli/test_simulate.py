"""`gmkern simulate`: a file's structures along a named field, frames, energies, and one line on what is wrong."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from gmkern.cli.app import app
from gmkern.dynamics import BAOAB, Harmonic, LennardJones, energy_and_forces
from gmkern.dynamics import simulate as move

ase = pytest.importorskip("ase")
from ase import Atoms, units  # noqa: E402
from ase.io import read, write  # noqa: E402

POINTS = np.array([[0, 0, 0], [1.1, 0, 0], [0, 1.2, 0], [0.1, 0.2, 1.3]])


def run(*words):
    return CliRunner().invoke(app, ["simulate", *map(str, words)])


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "two.extxyz"
    write(path, [Atoms("Ar4", POINTS), Atoms("Ar3", 1.1 * POINTS[:3])])
    return path


def test_frames_and_energies_are_those_of_simulate(file, tmp_path):
    done = run(
        file, "-p", "lennard-jones:epsilon=0.8,cutoff=3", "-p", "harmonic:k=0.2", "--dt", 0.004, "--steps", 25,
        "--temperature", 0.3, "--friction", 2, "--seed", 7, "--record-every", 10, "--double", "--json",
        "-o", tmp_path / "out",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    field = LennardJones(0.8, cutoff=3.0) + Harmonic(0.2)
    x = torch.from_numpy(np.concatenate([one.positions for one in read(file, index=":")]))
    ptr = torch.tensor([0, 4, 7])
    frames = read(tmp_path / "out" / "trajectory.extxyz", index=":")
    with (tmp_path / "out" / "energies.csv").open() as table:
        rows = list(csv.DictReader(table))
    assert [(int(r["step"]), int(r["system"])) for r in rows] == [(n, s) for n in (0, 10, 20, 25) for s in (0, 1)]
    for at, steps in enumerate((0, 10, 20, 25)):  # one run each, from the start: the same path
        path = move(field, x, integrator=BAOAB(0.004, 0.3, 2.0), steps=steps, system_ptr=ptr, seed=7)
        energy = energy_and_forces(field, path.positions, system_ptr=ptr).energy
        for system in (0, 1):
            one, row, mine = frames[2 * at + system], rows[2 * at + system], slice(*ptr[system : system + 2].tolist())
            assert np.abs(one.positions - path.positions[mine].numpy()).max() < 1e-8  # as many digits as the file has
            assert np.abs(one.get_velocities() - path.velocities[mine].numpy()).max() < 1e-8
            assert float(row["potential"]) == float(energy[system])
            assert one.get_potential_energy() == pytest.approx(float(energy[system]), abs=1e-8)
            kinetic = 0.5 * float((path.velocities[mine] ** 2).sum())
            assert float(row["kinetic"]) == pytest.approx(kinetic, rel=1e-12)
            assert float(row["temperature"]) == pytest.approx(2 * kinetic / (3 * len(one)), rel=1e-12)
            assert float(row["time"]) == pytest.approx(0.004 * steps)
            assert (one.info["step"], one.info["system"]) == (steps, system)
    printed = json.loads(done.stdout)
    assert [s["potential"] for s in printed["systems"]] == [float(row["potential"]) for row in rows[-2:]]
    assert (tmp_path / "out" / "energies.png").read_bytes().startswith(b"\x89PNG")


def test_units_of_ase(tmp_path):
    """Argon at constant energy, in fs and eV: the total energy stays, and a second run goes on where one stopped."""
    atoms = Atoms("Ar4", 3.8 * POINTS, cell=np.eye(3) * 20, pbc=True)
    atoms.set_velocities(np.random.default_rng(0).normal(0, np.sqrt(units.kB * 30 / atoms.get_masses()[0]), (4, 3)))
    write(tmp_path / "argon.extxyz", atoms)
    words = ("--units", "ase", "-p", "lennard-jones:epsilon=0.0104,sigma=3.4,cutoff=8.5", "--integrator",
             "velocity-verlet", "--dt", 2, "--double")  # fmt: skip
    assert run(tmp_path / "argon.extxyz", *words, "--steps", 400, "-o", tmp_path / "all").exit_code == 0
    with (tmp_path / "all" / "energies.csv").open() as table:
        rows = [{key: float(value) for key, value in row.items()} for row in csv.DictReader(table)]
    total = np.array([row["potential"] + row["kinetic"] for row in rows])
    kinetic = np.array([row["kinetic"] for row in rows])
    assert np.ptp(kinetic) > 1e-3  # it moves
    assert np.abs(total - total[0]).max() < 0.01 * np.ptp(kinetic)
    assert rows[0]["temperature"] == pytest.approx(atoms.get_temperature(), rel=1e-6)
    assert run(tmp_path / "argon.extxyz", *words, "--steps", 100, "-o", tmp_path / "first").exit_code == 0
    last = read(tmp_path / "first" / "trajectory.extxyz", index=-1)
    write(tmp_path / "last.extxyz", last)
    assert run(tmp_path / "last.extxyz", *words, "--steps", 300, "-o", tmp_path / "rest").exit_code == 0
    ends = [read(tmp_path / name / "trajectory.extxyz", index=-1).positions for name in ("all", "rest")]
    assert np.abs(ends[0] - ends[1]).max() < 1e-5  # the file has eight digits


def test_a_table_is_printed_and_copies_differ(file, tmp_path):
    words = ("-p", "wca", "--dt", 1e-3, "--steps", 20, "--integrator", "euler-maruyama", "-o", tmp_path / "out")
    done = run(file, *words, "--copies", 2)
    assert done.exit_code == 0, done.output
    assert "After step 20" in done.stdout
    assert "kinetic" not in done.stdout  # overdamped: there is none
    last = read(tmp_path / "out" / "trajectory.extxyz", index="-4:")
    assert not np.array_equal(last[0].positions, last[1].positions)


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (("-p", "lenard-jones"), "lennard-jones"),
        (("-p", "morse:depht=1"), "depht=1"),
        (("-p", "morse:depth=deep"), "'deep'"),
        (("-p", "morse:depth=-1"), "depth"),
        (("-p", "lennard-jones:sigma=1/2"), "--types"),
        (("-p", "lennard-jones:sigma=1/2", "--types", "Ne,H"), "Ar"),
        (("-p", "lennard-jones:sigma=1/2", "--types", "Ar,Ar"), "--types"),
        (("-p", "lennard-jones:sigma=1/2", "--types", "Ar,"), "--types"),
        (("-p", "wca", "--dt", "1e30"), "not finite"),
        (("-p", "wca", "--dt", "nan"), "--dt: got nan"),
        (("-p", "wca", "--friction", "inf"), "--friction: got inf"),
        (("-p", "wca", "--integrator", "euler-maruyama", "--temperature", "1e308"), "--temperature: got 1e+308"),
        (("-p", "wca", "--steps", 10**30), "--steps"),
    ],
)
def test_what_is_wrong_is_said_in_a_line(file, tmp_path, words, named):
    done = run(file, "--dt", "0.01", "--steps", "3", "-o", tmp_path / "out", *words)
    assert done.exit_code == 1
    assert named in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize(
    ("text", "named"), [("", "broken"), ("0\n\n", "one or more atoms"), ("3\n\nAr 0 0\n", "broken")]
)
def test_a_broken_file_is_named(tmp_path, text, named):
    path = tmp_path / "broken.xyz"
    path.write_text(text)
    done = run(path, "-p", "wca", "--dt", 0.01, "--steps", 1)
    assert done.exit_code == 1
    assert named in done.stderr
    assert run(tmp_path / "none.xyz", "-p", "wca", "--dt", 0.01, "--steps", 1).exit_code == 2
    (tmp_path / "one.pdb").write_text("x")
    assert ".pdb" in run(tmp_path / "one.pdb", "-p", "wca", "--dt", 0.01, "--steps", 1).stderr
