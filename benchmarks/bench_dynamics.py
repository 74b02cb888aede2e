"""simulate() beside what else does it, in one process, interleaved: medians, ratios, each result checked first.

    python benchmarks/bench_dynamics.py                # and jax-md and OpenMM, where they are installed
    pytest benchmarks/bench_dynamics.py --benchmark-enable

Every rival runs Lennard-Jones with a Langevin integrator in float32 on the same systems and steps. A ratio is the
rival's median over gmkern's: above 1, gmkern is ahead.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # threads that spin on busy cores slow eager PyTorch tenfold

import pytest
import torch
from torch import Tensor

import gmkern
from gmkern.dynamics import BAOAB, EulerMaruyama, LennardJones, VectorField, energy_and_forces, simulate

DT, TEMPERATURE, FRICTION = 0.004, 0.3, 1.0
INTEGRATOR = BAOAB(DT, TEMPERATURE, FRICTION)
CASES = {"1024 x 32": (1024, 32), "256 x 13": (256, 13), "1 x 864": (1, 864)}


def lattice(systems: int, atoms: int) -> Tensor:
    """[S, N, 3] float32: the first points of a cubic lattice, spacing 1.12."""
    side = round(atoms ** (1 / 3) + 0.5)
    axis = 1.12 * torch.arange(float(side))
    grid = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), -1).reshape(-1, 3)
    return grid[:atoms].repeat(systems, 1, 1).contiguous()


# --- the contenders: each gives run(steps) -> positions --------------------------------------------------------------


def ours(x: Tensor) -> Callable[[int], Tensor]:
    return lambda steps: simulate(LennardJones(), x, integrator=INTEGRATOR, steps=steps, seed=0).positions


def eager(x: Tensor) -> Callable[[int], Tensor]:
    """BAOAB in eager batched PyTorch as its users write it: all pairs [S, N, N, 3], torch.randn."""
    n = x.shape[1]
    eye = torch.eye(n, dtype=torch.bool)
    keep = torch.exp(torch.tensor(-FRICTION * DT))
    kick = torch.sqrt((1 - keep**2) * TEMPERATURE)

    def forces(x: Tensor) -> Tensor:
        d = x[:, :, None] - x[:, None]
        r2 = (d * d).sum(-1).masked_fill_(eye, 1.0)
        s6 = r2.reciprocal() ** 3
        pull = (24.0 * s6 * (2.0 * s6 - 1.0) / r2).masked_fill_(eye, 0.0)
        return (pull[..., None] * d).sum(2)

    def run(steps: int) -> Tensor:
        p, v = x.clone(), torch.randn_like(x) * TEMPERATURE**0.5
        f = forces(p)
        for _ in range(steps):
            v += 0.5 * DT * f
            p += 0.5 * DT * v
            v = keep * v + kick * torch.randn_like(v)
            p += 0.5 * DT * v
            f = forces(p)
            v += 0.5 * DT * f
        return p

    return run


def jax_md(x: Tensor) -> Callable[[int], Tensor] | None:
    try:
        import jax
        from jax_md import energy, space
        from jax_md import simulate as jax_simulate
    except ImportError:
        return None
    displacement, shift = space.free()
    potential = energy.lennard_jones_pair(displacement, r_onset=1e3, r_cutoff=2e3)
    init, step = jax_simulate.nvt_langevin(potential, shift, dt=DT, kT=TEMPERATURE, gamma=FRICTION)
    compiled: dict[int, Callable] = {}

    def run(steps: int) -> Tensor:
        if steps not in compiled:
            one = lambda key, p: jax.lax.fori_loop(0, steps, lambda _, s: step(s), init(key, p)).position  # noqa: E731
            compiled[steps] = jax.jit(jax.vmap(one))
        keys = jax.random.split(jax.random.PRNGKey(0), len(x))
        return torch.from_numpy(jax.device_get(compiled[steps](keys, x.numpy())).copy())

    return run


def openmm(x: Tensor) -> Callable[[int], Tensor] | None:
    """One system at a time: OpenMM has no batches, so only the single system is compared."""
    if len(x) > 1:
        return None
    try:
        import openmm as mm
    except ImportError:
        return None
    system, force = mm.System(), mm.NonbondedForce()
    force.setNonbondedMethod(mm.NonbondedForce.NoCutoff)
    for _ in range(x.shape[1]):
        system.addParticle(1.0)
        force.addParticle(0.0, 1.0, 1.0)
    system.addForce(force)
    integrator = mm.LangevinMiddleIntegrator(TEMPERATURE / 0.00831446261815324, FRICTION, DT)
    context = mm.Context(system, integrator, mm.Platform.getPlatformByName("CPU"))

    def run(steps: int) -> Tensor:
        context.setPositions(x[0].double().numpy())
        integrator.step(steps)
        found = context.getState(getPositions=True).getPositions(asNumpy=True)
        return torch.as_tensor(found._value)[None]

    return run


RIVALS = {"eager PyTorch": eager, "jax-md": jax_md, "OpenMM CPU": openmm}


# --- checks and timing ------------------------------------------------------------------------------------------------


def check(x: Tensor, steps: int) -> None:
    """The kernel's answer is the reference's, in this run, before anything is timed."""
    few = x[:8]
    want = simulate(LennardJones(), few, integrator=INTEGRATOR, steps=20, seed=0, backend="reference").positions
    got = simulate(LennardJones(), few, integrator=INTEGRATOR, steps=20, seed=0).positions
    assert float((got - want).abs().max()) < 1e-4, "the kernel does not agree with the reference"
    end = ours(x)(steps)
    assert torch.isfinite(end).all()
    assert float(energy_and_forces(LennardJones(), end).energy.mean()) < 0.0  # still clusters


def seconds(run: Callable[[], object]) -> float:
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def interleaved(runs: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """The median of each, all of them in turn in each round after a first one that is not counted."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(rounds + 1):
        for name, run in runs.items():
            took = seconds(run)
            if turn:
                times[name].append(took)
    return {name: statistics.median(t) for name, t in times.items()}


def compare(case: str, rounds: int) -> list[dict]:
    systems, atoms = CASES[case]
    x = lattice(systems, atoms)
    check(x, 50)
    contenders = {name: made for name, make in {"gmkern": ours, **RIVALS}.items() if (made := make(x)) is not None}
    # as many steps as each does in about half a second, so that a slow rival does not hide behind one step
    steps = {}
    for name, run in contenders.items():
        run(4)
        took = seconds(lambda run=run: run(4)) / 4
        steps[name] = max(4, min(2000, int(0.5 / took)))
    medians = interleaved({name: lambda n=name: contenders[n](steps[n]) for name in contenders}, rounds)
    speed = {name: systems * atoms * steps[name] / medians[name] for name in contenders}
    return [
        {"case": case, "who": name, "atom-steps/s": speed[name], "gmkern / it": speed["gmkern"] / speed[name]}
        for name in contenders
    ]


def compare_module(rounds: int) -> list[dict]:
    """A learnt drift: what the noise contract and the loop cost beside the bare loop with torch.randn."""
    network = torch.nn.Sequential(torch.nn.Linear(64, 256), torch.nn.SiLU(), torch.nn.Linear(256, 64))
    x, steps, dt, noise = torch.randn(1024, 64), 20, 0.05, 0.3
    field, integrator = VectorField(lambda x, t: network(x)), EulerMaruyama(dt, noise)

    def bare() -> Tensor:
        p = x
        for _ in range(steps):
            p = p + dt * network(p) + noise * dt**0.5 * torch.randn_like(p)
        return p

    with torch.no_grad():
        medians = interleaved(
            {
                "gmkern": lambda: simulate(field, x, integrator=integrator, steps=steps, seed=0),
                "bare loop": bare,
            },
            rounds,
        )
    work = x.shape[0] * steps
    return [
        {"case": "MLP 1024 x 64", "who": n, "atom-steps/s": work / t, "gmkern / it": t / medians["gmkern"]}
        for n, t in medians.items()
    ]


def about() -> dict:
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    return {
        "machine": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0],
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "gmkern": gmkern.__version__,
        "isa": ("baseline", "avx2", "avx512")[torch.ops.gmkern.isa()],
        "commit": commit.stdout.strip(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", help="write the rows here")
    given = parser.parse_args()
    rows = [row for case in CASES for row in compare(case, given.rounds)] + compare_module(given.rounds)
    print(about())
    for row in rows:
        print(f"{row['case']:>14}  {row['who']:<14} {row['atom-steps/s']:.3g}/s   gmkern is {row['gmkern / it']:.2f}x")
    if given.json:
        with open(given.json, "w") as file:
            json.dump({"about": about(), "rows": rows}, file, indent=1)


@pytest.mark.parametrize("who", ["gmkern", *RIVALS])
@pytest.mark.parametrize("case", CASES)
def test_speed(benchmark, case, who):
    x = lattice(*CASES[case])
    check(x, 20)
    run = {"gmkern": ours, **RIVALS}[who](x)
    if run is None:
        pytest.skip(f"{who} is not installed, or has no batches")
    benchmark.extra_info.update(about(), case=case, steps=10)
    benchmark(run, 10)


if __name__ == "__main__":
    main()
