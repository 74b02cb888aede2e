"""simulate() beside what else does it, in one process, in turns: medians, and no ratio before results agree.

    python benchmarks/bench_dynamics.py                # and jax-md and OpenMM, where they are installed
    pytest benchmarks/bench_dynamics.py --benchmark-enable

Lennard-Jones with Langevin dynamics (BAOAB, or the rival's own like it) in float32, on the same systems with the same
dt: clusters in free space, and periodic liquids with a cutoff. Energies, forces and the temperature of a run are
compared first. Each tool has the number of threads at which it is fastest. Atom-steps are atoms times steps. Beside the
clock's ratio stands that of processor time (of all threads), which other work on the machine disturbs less.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import os
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # threads that spin on busy cores slow eager PyTorch tenfold
os.environ.setdefault("XLA_FLAGS", f"--xla_force_host_platform_device_count={os.cpu_count()}")  # jax's way to threads

import numpy as np
import pytest
import torch
from _compare import circumstances, fitted_exponent, interleaved
from timing import matrix_rate
from torch import Tensor

from gmkern.dynamics import BAOAB, EulerMaruyama, LennardJones, VectorField, energy_and_forces, simulate

DT, TEMPERATURE, FRICTION = 0.004, 0.3, 1.0
HOT, DENSITY, CUTOFF = 1.0, 0.8, 2.5  # of the liquids
PAIR_FLOP = 23  # difference 3, square 5, reciprocal 4, powers and slope 5, sums of three forces 6: of each ordered pair
THREADS = sorted({1, os.cpu_count() or 1})


class Systems(NamedTuple):
    """Systems that have been run to equilibrium."""

    x: Tensor  # [S, N, 3] float32
    field: LennardJones
    temperature: float
    side: float | None  # of a periodic cube

    @property
    def box(self) -> dict[str, Any]:
        return {} if self.side is None else {"cell": self.side * torch.eye(3), "pbc": True}

    @property
    def atom_flop(self) -> float:
        """Of one atom's force: pairs alone, and of a liquid only those within the cutoff."""
        near = self.x.shape[1] - 1 if self.side is None else DENSITY * 4 / 3 * math.pi * CUTOFF**3
        return PAIR_FLOP * near

    def integrator(self) -> BAOAB:
        return BAOAB(DT, self.temperature, FRICTION)


def clusters(systems: int, atoms: int) -> Systems:
    """The first points of a cubic lattice, spacing 1.12, after a short run."""
    axis = 1.12 * torch.arange(math.ceil(atoms ** (1 / 3)), dtype=torch.float32)
    start = torch.cartesian_prod(axis, axis, axis)[:atoms].repeat(systems, 1, 1)
    return settled(Systems(start, LennardJones(), TEMPERATURE, None))


def liquid(atoms: int) -> Systems:
    """A cubic lattice that has melted in a periodic cube."""
    side, cuts = (atoms / DENSITY) ** (1 / 3), math.ceil(atoms ** (1 / 3))
    axis = side / cuts * torch.arange(cuts, dtype=torch.float32)
    places = torch.cartesian_prod(axis, axis, axis)
    keep = torch.randperm(len(places), generator=torch.Generator().manual_seed(0))[:atoms].sort().values
    return settled(Systems(places[keep][None], LennardJones(cutoff=CUTOFF, shift=False), HOT, side))


def settled(case: Systems) -> Systems:
    bath = BAOAB(DT, case.temperature, 10 * FRICTION)
    return case._replace(x=simulate(case.field, case.x, integrator=bath, steps=400, seed=1, **case.box).positions)


# --- the contenders: each gives its energies and forces at x, and runs from there -------------------------------------


class Contender(NamedTuple):
    look: Callable[[], tuple[np.ndarray, np.ndarray]]  # energies [S], forces [S, N, 3]
    run: Callable[[int], Any]  # steps -> velocities [S, N, 3]


def ours(case: Systems, threads: int) -> Contender:
    def run(steps: int) -> Tensor:
        torch.set_num_threads(threads)
        return simulate(case.field, case.x, integrator=case.integrator(), steps=steps, seed=0, **case.box).velocities

    def look() -> tuple[np.ndarray, np.ndarray]:
        energy, forces = energy_and_forces(case.field, case.x, **case.box)
        return energy.numpy(), forces.numpy()

    return Contender(look, run)


def eager(case: Systems, threads: int) -> Contender | None:
    """BAOAB in eager batched PyTorch as its users write it: all pairs [S, N, N, 3], torch.randn."""
    if case.side is not None:
        return None
    eye = torch.eye(case.x.shape[1], dtype=torch.bool)
    keep = math.exp(-FRICTION * DT)
    kick = math.sqrt((1 - keep**2) * TEMPERATURE)

    def forces(x: Tensor) -> Tensor:
        d = x[:, :, None] - x[:, None]
        r2 = (d * d).sum(-1).masked_fill_(eye, 1.0)
        s6 = r2.reciprocal() ** 3
        pull = (24.0 * s6 * (2.0 * s6 - 1.0) / r2).masked_fill_(eye, 0.0)
        return (pull[..., None] * d).sum(2)

    def run(steps: int) -> Tensor:
        torch.set_num_threads(threads)
        p, v = case.x.clone(), torch.randn_like(case.x) * TEMPERATURE**0.5
        f = forces(p)
        for _ in range(steps):
            v += 0.5 * DT * f
            p += 0.5 * DT * v
            v = keep * v + kick * torch.randn_like(v)
            p += 0.5 * DT * v
            f = forces(p)
            v += 0.5 * DT * f
        return v

    def look() -> tuple[np.ndarray, np.ndarray]:
        r = torch.cdist(case.x, case.x, compute_mode="donot_use_mm_for_euclid_dist").masked_fill(eye, torch.inf)
        return (2.0 * (r**-12 - r**-6)).sum((1, 2)).numpy(), forces(case.x).numpy()

    return Contender(look, run)


def jax_md(case: Systems, threads: int) -> Contender | None:
    """One compiled loop of all steps, over a batch on each of `threads` of jax's devices."""
    if case.side is not None or len(case.x) % threads or importlib.util.find_spec("jax_md") is None:
        return None
    import jax
    from jax_md import energy, space
    from jax_md import simulate as jax_simulate

    if jax.local_device_count() < threads:
        return None
    displacement, shift = space.free()
    potential = energy.lennard_jones_pair(displacement, r_onset=1e3, r_cutoff=2e3)
    init, step = jax_simulate.nvt_langevin(potential, shift, dt=DT, kT=TEMPERATURE, gamma=FRICTION)
    x = case.x.numpy().reshape(threads, -1, *case.x.shape[1:])
    keys = jax.random.split(jax.random.PRNGKey(0), len(case.x)).reshape(threads, -1, 2)

    def one(steps: Any, key: Any, p: Any) -> Any:
        return jax.lax.fori_loop(0, steps, lambda _, state: step(state), init(key, p)).momentum

    devices = jax.local_devices()[:threads]
    all_steps = jax.pmap(jax.vmap(one, (None, 0, 0)), in_axes=(None, 0, 0), devices=devices)

    def run(steps: int) -> np.ndarray:
        return np.asarray(all_steps(steps, keys, x)).reshape(case.x.shape)

    def look() -> tuple[np.ndarray, np.ndarray]:
        value, slope = jax.vmap(jax.value_and_grad(potential))(case.x.numpy())
        return np.asarray(value), -np.asarray(slope)

    return Contender(look, run)


def openmm(case: Systems, threads: int) -> Contender | None:
    """One system at a time, for OpenMM has no batches. Its units are nm, ps, amu and kJ/mol."""
    if len(case.x) > 1 or importlib.util.find_spec("openmm") is None:
        return None
    import openmm as mm

    boltzmann = 0.00831446261815324
    system, force = mm.System(), mm.NonbondedForce()
    for _ in range(case.x.shape[1]):
        system.addParticle(1.0)
        force.addParticle(0.0, 1.0, 1.0)
    force.setUseDispersionCorrection(False)
    force.setNonbondedMethod(mm.NonbondedForce.NoCutoff)
    if case.side is not None:
        force.setNonbondedMethod(mm.NonbondedForce.CutoffPeriodic)
        force.setCutoffDistance(CUTOFF)
        system.setDefaultPeriodicBoxVectors(*(case.side * np.eye(3)))
    system.addForce(force)
    integrator = mm.LangevinMiddleIntegrator(case.temperature / boltzmann, FRICTION, DT)
    platform = mm.Platform.getPlatformByName("CPU")
    context = mm.Context(system, integrator, platform, {"Threads": str(threads)})
    x = case.x[0].double().numpy()

    def run(steps: int) -> np.ndarray:
        context.setPositions(x)
        context.setVelocitiesToTemperature(case.temperature / boltzmann, 0)
        integrator.step(steps)
        return context.getState(getVelocities=True).getVelocities(asNumpy=True)._value[None]

    def look() -> tuple[np.ndarray, np.ndarray]:
        context.setPositions(x)
        state = context.getState(getEnergy=True, getForces=True)
        return np.array([state.getPotentialEnergy()._value]), state.getForces(asNumpy=True)._value[None]

    return Contender(look, run)


TOOLS = {"gmkern": ours, "eager PyTorch": eager, "jax-md": jax_md, "OpenMM CPU": openmm}


# --- checks and timing ------------------------------------------------------------------------------------------------


def check_look(name: str, case: Systems, one: Contender) -> None:
    """Energies and forces are those of the reference in double.

    Half an ulp of a coordinate of size c moves a pair's vector by c eps, and its force, whose slope is at most some
    1000 here, by 1000 c eps; errors of the pairs add as their root. A rival's fp32 arithmetic has as much again.
    """
    wanted = energy_and_forces(case.field, case.x.double(), backend="reference", **case.box)
    energy, forces = one.look()
    size = float(case.x.abs().max()) * np.finfo(np.float32).eps
    near = case.atom_flop / PAIR_FLOP
    assert np.abs(forces - wanted.forces.numpy()).max() < 4 * 1000 * size * math.sqrt(near), name
    bound = 4 * size * float(wanted.forces.abs().max()) * case.x.shape[1] + 1e-4 * float(wanted.energy.abs().max())
    assert np.abs(energy - wanted.energy.numpy()).max() < bound, name


def check_temperature(name: str, case: Systems, one: Contender) -> None:
    """The temperature after 100 steps is that of gmkern: two means of n squares of normals, and 1% for O(dt^2)."""
    hot = []
    for run in (one.run, ours(case, THREADS[0]).run):
        v = torch.from_numpy(np.asarray(run(100)).astype(np.float64))
        assert v.shape == case.x.shape, name
        hot.append(float(v.square().mean()))
    assert abs(hot[0] / hot[1] - 1) < 5 * math.sqrt(2 * 2 / v.numel()) + 0.01, (name, hot)


def seconds(run: Callable[[], object]) -> float:
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def used_per_step(one: Contender, steps: int, rounds: int) -> float:
    """Seconds of processor time, of all threads together: the median."""
    times = []
    for _ in range(rounds):
        began = time.process_time()
        one.run(steps)
        times.append((time.process_time() - began) / steps)
    return statistics.median(times)


def prepared(name: str, case: Systems, budget: float) -> tuple[Contender, int, int] | None:
    """A tool that has passed its checks, with its best number of threads, and steps that fill `budget` seconds."""
    best: tuple[float, int, Contender] | None = None
    for threads in THREADS:
        one = TOOLS[name](case, threads)
        if one is None:
            continue
        if best is None:
            check_look(name, case, one)
            check_temperature(name, case, one)
        one.run(4)
        steps = max(4, int(0.1 * 4 / max(seconds(partial(one.run, 4)), 1e-3)))
        took = min(seconds(partial(one.run, steps)) for _ in range(3)) / steps
        if best is None or took < best[0]:
            best = (took, threads, one)
    if best is None:
        return None
    took, threads, one = best
    return one, threads, max(4, min(4000, int(budget / took)))


def compare(name: str, case: Systems, rounds: int, ceiling: float, budget: float = 0.5) -> list[dict[str, Any]]:
    ready = {tool: made for tool in TOOLS if (made := prepared(tool, case, budget)) is not None}
    runs: dict[str, Callable[[], Any]] = {tool: partial(one.run, steps) for tool, (one, _, steps) in ready.items()}
    row = interleaved(name, runs.pop("gmkern"), runs, lambda *_: None, rounds=rounds)  # each was checked above
    taken = {"gmkern": row.ours, **row.rivals}
    atoms = case.x.shape[0] * case.x.shape[1]
    rate = {tool: atoms * steps / taken[tool] for tool, (_, _, steps) in ready.items()}
    used = {tool: used_per_step(one, steps, 3) for tool, (one, _, steps) in ready.items()}
    return [
        {
            "case": name,
            "tool": tool,
            "threads": ready[tool][1],
            "atom-steps/s": rate[tool],
            "of the ceiling": rate[tool] * case.atom_flop / ceiling,
            "processor us an atom-step": 1e6 * used[tool] / atoms,
            "gmkern is": rate["gmkern"] / rate[tool],
            "by processor time": used[tool] / used["gmkern"],
        }
        for tool in ready
    ]


def growth(cases: dict[int, Systems], rounds: int) -> tuple[dict[int, float], float]:
    """Seconds of one thread of gmkern a step at each size, and the exponent that fits them."""
    steps = {size: max(20, 4_000_000 // (case.x.shape[0] * case.x.shape[1] * 10)) for size, case in cases.items()}
    taken = {size: used_per_step(ours(case, 1), steps[size], rounds) for size, case in cases.items()}
    return taken, fitted_exponent(list(taken), list(taken.values()))


def module_loop(rounds: int) -> float:
    """Around a learnt drift: the bare loop's time with torch.randn over that of the loop with contract noise."""
    network = torch.nn.Sequential(torch.nn.Linear(64, 256), torch.nn.SiLU(), torch.nn.Linear(256, 64))
    x, steps, dt, noise = torch.randn(1024, 64), 20, 0.05, 0.3
    field, integrator = VectorField(lambda x, t: network(x)), EulerMaruyama(dt, noise)

    def bare() -> Tensor:
        p = x
        for _ in range(steps):
            p = p + dt * network(p) + noise * dt**0.5 * torch.randn_like(p)
        return p

    def check(_: str, ours: Tensor, theirs: Tensor) -> None:  # one law: means and spreads of 65,536 numbers
        assert abs(float(ours.mean() - theirs.mean())) < 5 * math.sqrt(2 / ours.numel()) * float(ours.std())
        assert abs(float(ours.std() / theirs.std()) - 1) < 0.05

    with torch.no_grad():
        run = lambda: simulate(field, x, integrator=integrator, steps=steps, seed=0).positions  # noqa: E731
        return interleaved("", run, {"bare": bare}, check, rounds=rounds).ratios()["bare"]


CASES: dict[str, Callable[[], Systems]] = {
    "1,024 clusters of 32": partial(clusters, 1024, 32),
    "256 clusters of 13": partial(clusters, 256, 13),
    "a liquid of 864": partial(liquid, 864),
    "a liquid of 4,000": partial(liquid, 4000),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", help="write the rows here")
    given = parser.parse_args()
    head = circumstances("jax", "jax-md", "openmm")
    head["isa"] = ("baseline", "avx2", "avx512")[torch.ops.gmkern.isa()]
    ceiling = matrix_rate(torch.device("cpu"), n=1536, dtype=torch.float32, budget=2.0)
    head["ceiling"] = f"{ceiling / 1e9:.0f} Gflop/s, a matrix product's; {PAIR_FLOP} flop an ordered pair"
    for key, value in head.items():
        print(f"{key}: {value}")
    rows = []
    for name, make in CASES.items():
        for row in compare(name, make(), given.rounds, ceiling):
            rows.append(row)
            print(
                f"{name:<22} {row['tool']:<14} {row['threads']} threads  {row['atom-steps/s']:.2e} atom-steps/s, "
                f"{row['of the ceiling']:6.1%} of the ceiling; gmkern is {row['gmkern is']:.2f}x, "
                f"by processor time {row['by processor time']:.2f}x",
                flush=True,
            )
    laws = {
        "systems of 32 atoms": {s: clusters(s, 32) for s in (64, 256, 1024)},
        "atoms of a liquid": {n: liquid(n) for n in (1000, 2000, 4000, 8000)},
    }
    fits = {}
    for name, cases in laws.items():
        per_step, fits[name] = growth(cases, given.rounds)
        told = ", ".join(f"{size:,}: {t * 1e3:.3f} ms" for size, t in per_step.items())
        print(f"processor time a step by {name}: {told}; exponent {fits[name]:.2f}")
    loop = module_loop(given.rounds)
    print(f"around an MLP [1024, 64]: {loop:.2f} of the speed of a bare loop with torch.randn")
    print(f"load after: {os.getloadavg()[0]:.1f}")
    if given.json:
        with open(given.json, "w") as file:
            json.dump({"about": head, "rows": rows, "exponents": fits, "loop": loop}, file, indent=1)


@pytest.mark.parametrize("tool", TOOLS)
@pytest.mark.parametrize("case", CASES)
def test_speed(benchmark, case, tool):
    made = prepared(tool, CASES[case](), 0.1)
    if made is None:
        pytest.skip(f"{tool} is not installed, or does not take these systems")
    one, threads, _ = made
    steps = 10  # the same of every tool, for their times are compared
    benchmark.extra_info.update(circumstances(), case=case, steps=steps, threads=threads)
    benchmark.pedantic(one.run, args=(steps,), rounds=5, warmup_rounds=1)


if __name__ == "__main__":
    main()
