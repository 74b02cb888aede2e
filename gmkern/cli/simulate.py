"""``gmkern simulate``."""

from __future__ import annotations

import csv
import math
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import click

from gmkern.cli import console

if TYPE_CHECKING:
    from ase import Atoms
    from torch import Tensor

    from gmkern.dynamics import Potential
    from gmkern.dynamics.integrators import Integrator
    from gmkern.integrations.ase import Structures

EXAMPLES = """\b
Examples:
  gmkern simulate cluster.xyz --potential lennard-jones --dt 0.005 --steps 20000 --temperature 0.2
  gmkern simulate argon.extxyz --units ase --potential lennard-jones:epsilon=0.0104,sigma=3.4,cutoff=8.5 \\
      --integrator velocity-verlet --dt 2 --steps 5000 -o run/
  gmkern simulate start.xyz --potential wca --potential harmonic:k=0.1 --integrator euler-maruyama \\
      --dt 1e-4 --steps 100000 --temperature 1 --copies 64 --json
"""

COLUMNS = ("system", "step", "time", "potential", "kinetic", "temperature")


@dataclass(frozen=True)
class Units:
    """How the numbers typed relate to those of the structures."""

    time: float  # of one unit of --dt
    temperature: float  # energy of one unit of --temperature


@dataclass(frozen=True)
class Frame:
    """All systems at one step; kinetic energies [S] for integrators with velocities."""

    step: int
    positions: Tensor
    velocities: Tensor | None
    potential: Tensor
    kinetic: Tensor | None


@click.command(epilog=EXAMPLES)
@click.argument("structures", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "-p",
    "--potential",
    "potentials",
    metavar="NAME[:KEY=VALUE,...]",
    multiple=True,
    required=True,
    help="coulomb, double-well, harmonic, lennard-jones, morse, soft-sphere or wca; several add.",
)
@click.option("--types", metavar="SYMBOLS", help="Elements in the order of values such as sigma=3.4/2.7: Ar,Ne.")
@click.option(
    "--integrator",
    "method",
    type=click.Choice(["baoab", "velocity-verlet", "euler-maruyama"]),
    default="baoab",
    show_default=True,
    help="Langevin dynamics; constant energy; overdamped.",
)
@click.option("--dt", type=click.FloatRange(0, min_open=True), required=True, help="Time step.")
@click.option("--steps", type=click.IntRange(0), required=True, help="How many.")
@click.option("--temperature", type=click.FloatRange(0), default=1.0, show_default=True, help="Of the two with noise.")
@click.option("--friction", type=click.FloatRange(0), default=1.0, show_default=True, help="Of baoab; one over time.")
@click.option(
    "--units",
    "system",
    type=click.Choice(["reduced", "ase"]),
    default="reduced",
    show_default=True,
    help="reduced: k = 1, masses 1 unless the file has some. ase: Angstrom, eV, amu, fs and kelvin.",
)
@click.option("--copies", type=click.IntRange(1, 1 << 20), default=1, show_default=True, help="Of each.")
@click.option("--record-every", type=click.IntRange(1), help="Steps between frames; 100 frames without it.")
@click.option("--seed", type=int, default=0, show_default=True, help="Another seed, another path; the same, the same.")
@click.option("--double", is_flag=True, help="Double precision.")
@click.option(
    "-o",
    "--out",
    type=click.Path(file_okay=False, writable=True, path_type=Path),
    default=Path("simulation"),
    show_default=True,
    help="Folder for trajectory.extxyz, energies.csv and energies.png; made if absent.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the numbers as JSON, not as a table.")
def simulate(
    structures: Path,
    potentials: tuple[str, ...],
    types: str | None,
    method: str,
    dt: float,
    steps: int,
    temperature: float,
    friction: float,
    system: str,
    copies: int,
    record_every: int | None,
    seed: int,
    double: bool,
    out: Path,
    as_json: bool,
) -> None:
    """Move the structures of an .xyz or .extxyz file along a force field, each structure a system of its own.

    Cells, periodic directions, velocities (momenta) and masses are those of the file. The frames are written as they
    are reached: a run that is interrupted leaves what it had.
    """
    try:
        from gmkern.integrations import ase as bridge
    except ModuleNotFoundError as error:
        raise click.ClickException("this command needs the package ase: pip install 'gmkern[ase]'") from error
    import torch

    images = [one.copy() for one in _read(structures) for _ in range(copies)]
    units = _units(system)
    if system == "reduced":
        for one in images:
            if not one.has("masses"):
                one.set_masses([1.0] * len(one))
    field = _potential(potentials)
    try:
        start = bridge.structures_of(images, dtype=torch.float64 if double else torch.float32)
        by_element = None if types is None else _types(types)
        kinds = None if by_element is None else bridge.types_of(images, by_element)
    except ValueError as error:
        name, colon, rest = str(error).partition(":")
        raise click.ClickException(f"{structures if name == 'images' else '--' + name}{colon}{rest}") from error
    integrator = _integrator(method, dt, temperature, friction, units)
    frames = _frames(field, start, kinds, integrator, steps, record_every or max(1, steps // 100), seed)
    rows = _written(frames, images, start, dt, units, out, steps)
    last = rows[-len(images) :]
    if as_json:
        console.print_json({"out": str(out), "systems": last})
    else:
        _show(last, out)


def _read(path: Path) -> list[Atoms]:
    from ase.io import read

    if path.suffix not in (".xyz", ".extxyz"):
        raise click.ClickException(f"{path}: takes .xyz or .extxyz, not {path.suffix or 'this'}")
    try:
        found = read(path, index=":", format="extxyz")
    except Exception as error:  # ASE's readers raise what the text made them
        raise click.ClickException(f"{path}: not a readable .xyz file ({error})") from error
    found = found if isinstance(found, list) else [found]
    if not any(map(len, found)):
        raise click.ClickException(f"{path}: holds no structure of one or more atoms")
    return found


def _units(system: str) -> Units:
    if system == "reduced":
        return Units(1.0, 1.0)
    from ase import units

    return Units(units.fs, units.kB)


def _potential(texts: tuple[str, ...]) -> Potential:
    from gmkern.cli.potentials import parsed

    try:
        return parsed(texts)
    except ValueError as error:
        raise click.ClickException(f"--potential {error}") from error


def _integrator(method: str, dt: float, temperature: float, friction: float, units: Units) -> Integrator:
    from gmkern.dynamics import BAOAB, EulerMaruyama, VelocityVerlet

    step, energy = dt * units.time, temperature * units.temperature
    try:
        if method == "velocity-verlet":
            return VelocityVerlet(step)
        if method == "baoab":
            return BAOAB(step, energy, friction / units.time)
        noise = math.sqrt(2.0 * energy)
        if not math.isfinite(noise):
            raise ValueError(f"temperature: got {temperature}; takes a finite number >= 0")
        return EulerMaruyama(step, noise)
    except ValueError as error:  # nan, and what overflows
        raise click.ClickException(f"--{error}") from error


def _types(listed: str) -> dict[str, int]:
    """The number of each element that is listed."""
    names = [name.strip() for name in listed.split(",")]
    if "" in names or len(set(names)) < len(names):
        raise click.ClickException(f"--types: got {listed!r}; takes different elements, such as Ar,Ne")
    return {name: at for at, name in enumerate(names)}


def _frames(
    field: Potential,
    start: Structures,
    types: Tensor | None,
    integrator: Integrator,
    steps: int,
    every: int,
    seed: int,
) -> Iterator[Frame]:
    """The start, and the systems after each ``every`` steps and after the last."""
    import torch

    from gmkern import dynamics

    blamed = {"types": "--types", "steps": "--steps"}
    arguments: dict[str, Any] = {"types": types, "system_ptr": start.system_ptr, "cell": start.cell, "pbc": start.pbc}
    owner = torch.repeat_interleave(start.system_ptr.diff())  # [M]
    x, v, done = start.positions, start.velocities if integrator.has_velocities else None, 0
    for at in [*range(0, steps, every), steps]:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error", RuntimeWarning)  # a system is lost
                path = dynamics.simulate(
                    field, x, integrator=integrator, steps=at - done, velocities=v, masses=start.masses, seed=seed,
                    start_step=done, **arguments,
                )  # fmt: skip
        except (TypeError, ValueError) as error:
            name, colon, rest = str(error).partition(":")
            whose = "STRUCTURES" if name in ("positions", "masses", "velocities") else "--potential"
            raise click.ClickException(f"{blamed.get(name, f'{whose}: {name}')}{colon}{rest}") from error
        except RuntimeWarning as warning:
            raise click.ClickException(f"between steps {done} and {at}: {warning}") from warning
        x, v, done = path.positions, path.velocities, at
        kinetic = None
        if v is not None:
            each = 0.5 * start.masses.double() * (v.double() ** 2).sum(1)
            kinetic = torch.zeros(len(start.system_ptr) - 1, dtype=torch.float64).index_add_(0, owner, each)
        yield Frame(at, x, v, dynamics.energy_and_forces(field, x, **arguments).energy, kinetic)


def _written(
    frames: Iterator[Frame],
    images: list[Atoms],
    start: Structures,
    dt: float,
    units: Units,
    out: Path,
    steps: int,
) -> list[dict[str, float]]:
    """The rows of energies.csv; each frame goes to the two files as it comes, and a picture follows the last."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        with (
            (out / "trajectory.extxyz").open("w") as film,
            (out / "energies.csv").open("w", newline="") as table,
            console.stage("simulate", steps) as advance,
        ):
            sheet = csv.DictWriter(table, COLUMNS)
            sheet.writeheader()
            rows: list[dict[str, float]] = []
            for frame in frames:
                new = _rows(frame, start, dt, units)
                _film(film, frame, images, start, new)
                sheet.writerows(new)
                film.flush()
                table.flush()
                advance(frame.step - int(rows[-1]["step"]) if rows else 0)
                rows += new
        (out / "energies.png").write_bytes(_drawn(rows, len(images)))
    except OSError as error:
        raise click.ClickException(f"--out {out}: {error.strerror}") from error
    return rows


def _rows(frame: Frame, start: Structures, dt: float, units: Units) -> list[dict[str, float]]:
    rows: list[dict[str, float]] = []
    for at, atoms in enumerate(start.system_ptr.diff().tolist()):
        row = {"system": at, "step": frame.step, "time": frame.step * dt, "potential": float(frame.potential[at])}
        if frame.kinetic is not None:
            kinetic = float(frame.kinetic[at])
            row |= {"kinetic": kinetic, "temperature": 2.0 * kinetic / (3.0 * max(1, atoms)) / units.temperature}
        rows.append(row)
    return rows


def _film(film: IO[str], frame: Frame, images: list[Atoms], start: Structures, rows: list[dict[str, float]]) -> None:
    from ase.calculators.singlepoint import SinglePointCalculator
    from ase.io import write

    ends = start.system_ptr.tolist()
    for at, (one, row) in enumerate(zip(images, rows, strict=True)):
        mine = slice(ends[at], ends[at + 1])
        moved = one.copy()
        moved.positions = frame.positions[mine].double().numpy()
        if frame.velocities is not None:
            moved.set_velocities(frame.velocities[mine].double().numpy())
        moved.info |= {key: row[key] for key in ("system", "step", "time")}
        moved.calc = SinglePointCalculator(moved, energy=row["potential"])
        write(film, moved, format="extxyz")


def _drawn(rows: list[dict[str, float]], systems: int) -> bytes:
    """Energies over time as a PNG."""
    import numpy as np

    from gmkern.report import over_time

    names = [name for name in ("potential", "kinetic") if name in rows[0]]
    values = {f"{name} energy": np.array([row[name] for row in rows]).reshape(-1, systems) for name in names}
    if len(values) == 2:
        values["total energy"] = values["potential energy"] + values["kinetic energy"]
    return over_time([row["time"] for row in rows[::systems]], values, across="time").light


def _show(last: list[dict[str, float]], out: Path) -> None:
    from rich import box
    from rich.table import Table

    table = Table(
        title=f"After step {last[0]['step']:,}", title_justify="left", title_style="bold", box=box.SIMPLE_HEAD,
        pad_edge=False,
    )  # fmt: skip
    names = [name for name in COLUMNS if name in last[0] and name not in ("step", "time")]
    for name in names:
        table.add_column(name, justify="right")
    for row in last[:20]:
        table.add_row(*(f"{row[name]:.6g}" for name in names))
    view = console.out()
    view.print(table)
    if len(last) > 20:
        view.print(f"and {len(last) - 20} more systems, in energies.csv")
    view.print(f"{out / 'trajectory.extxyz'}, energies.csv and energies.png")
