"""gmkern.dynamics with drawn arguments."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor, nn

from gmkern import dynamics
from gmkern.testing import tolerance
from tests.robustness.fuzzing import WIDE, Draw, fuzz, laid_out

POTENTIALS = {
    "LennardJones": {"epsilon": 0.5, "sigma": 0.9},
    "Morse": {"depth": 0.7},
    "WCA": {},
    "Coulomb": {"constant": 0.2},
    "SoftSphere": {"epsilon": 2.0},
    "DoubleWell": {"quadratic": -1.0},
    "Harmonic": {"k": 0.5},
}


def field(draw: Draw) -> dynamics.Potential:
    name = draw(st.sampled_from(sorted(POTENTIALS)))
    made = getattr(dynamics, name)(**POTENTIALS[name])
    return made + dynamics.Harmonic(0.3) if draw(st.booleans()) else made


def cloud(draw: Draw, dim: int, dtype: torch.dtype) -> dict[str, Any]:
    """Systems of atoms at about a unit's distance: a batch, one, or ragged ones."""
    systems, atoms = draw(st.sampled_from([1, 2, 5])), draw(st.sampled_from([1, 2, 7, 17]))
    side = int(-(-(atoms ** (1 / dim)) // 1)) + 1
    sites = torch.cartesian_prod(*[torch.arange(float(side))] * dim).reshape(-1, dim)[:atoms]
    generator = torch.Generator().manual_seed(draw(st.integers(0, 99)))
    x = (1.2 * sites + 0.1 * torch.randn(systems, atoms, dim, generator=generator)).to(dtype)
    how = draw(st.sampled_from(["batch", "one", "ragged"]))
    if how == "batch":
        return {"positions": laid_out(draw, x)}
    if how == "one":
        return {"positions": laid_out(draw, x[0])}
    cut = draw(st.integers(0, atoms))  # an empty system too
    return {
        "positions": laid_out(draw, x[0]),
        "system_ptr": draw(st.sampled_from([[0, cut, atoms], torch.tensor([0, cut, atoms])])),
    }


# Sums of up to 16 pair terms, of magnitudes that may be 1e3 times their sum.
FORCES = 1e3 * tolerance(torch.float32, 17)


def told_apart(result: Any) -> list[Tensor]:
    """What is not finite, inf or NaN, is NaN: both stand for atoms at one point."""
    return [value.where(value.isfinite(), torch.nan) for value in result]


@fuzz("dynamics.energy_and_forces", rounding=FORCES, keep=("field",), show=told_apart)
def test_energy_and_forces(draw: Draw) -> dict[str, Any]:
    """Each potential, and sums of two."""
    return cloud(draw, draw(st.sampled_from([2, 3])), draw(st.sampled_from(WIDE))) | {"field": field(draw)}


@fuzz("dynamics.simulate", rounding=FORCES, keep=("steps",))
def test_simulate(draw: Draw) -> dict[str, Any]:
    """Few small steps of each integrator, from the same noise."""
    dt = draw(st.sampled_from([1e-3, 1e-4]))
    integrator = draw(
        st.sampled_from(
            [
                dynamics.VelocityVerlet(dt),
                dynamics.BAOAB(dt, 0.5, 1.0),
                dynamics.EulerMaruyama(dt, 0.3),
                dynamics.Heun(dt),
                dynamics.RK4(dt),
            ]
        )
    )
    given = cloud(draw, draw(st.sampled_from([2, 3])), draw(st.sampled_from(WIDE)))
    noisy = isinstance(integrator, (dynamics.BAOAB, dynamics.EulerMaruyama))
    return given | {
        "field": field(draw),
        "integrator": integrator,
        "steps": draw(st.integers(0, 5)),
        "seed": draw(st.integers(-2, 2)),
        "record_every": draw(st.sampled_from([None, 1, 3])),
        "log_prob": noisy and draw(st.booleans()),
    }


@fuzz("dynamics.path_log_prob", rounding=FORCES, keep=("field",))
def test_path_log_prob(draw: Draw) -> dict[str, Any]:
    """Of a path that was drawn."""
    given = cloud(draw, 3, draw(st.sampled_from(WIDE)))
    if "system_ptr" in given:
        del given["system_ptr"]
    integrator, potential = dynamics.EulerMaruyama(1e-3, 0.3), field(draw)
    path = dynamics.simulate(
        potential, **given, integrator=integrator, steps=draw(st.integers(1, 4)), seed=0, record_every=1
    )
    backward = draw(st.sampled_from(["same_drift", "reversed", "brownian", "bridge"]))
    return {"field": potential, "frames": laid_out(draw, path.frames), "integrator": integrator, "backward": backward}


# Coordinates of a few units, once added and once squared.
@fuzz("dynamics.neighbor_list", rounding=8 * tolerance(torch.float32, 3))
def test_neighbor_list(draw: Draw) -> dict[str, Any]:
    """Open and periodic, in one to three dimensions."""
    dim, dtype = draw(st.integers(1, 3)), draw(st.sampled_from(WIDE))
    given = cloud(draw, dim, dtype) | {"cutoff": draw(st.sampled_from([0.5, 1.5, 3.0])), "half": draw(st.booleans())}
    if draw(st.booleans()):
        given |= {
            "cell": laid_out(draw, 4.0 * torch.eye(dim, dtype=dtype)),
            "pbc": draw(st.sampled_from([True, [True] + [False] * (dim - 1)])),
        }
    return given


@cache
def networks() -> dict[str, nn.Module]:
    torch.manual_seed(0)
    radial = nn.Sequential(nn.Linear(1, 8), nn.SiLU(), nn.Linear(8, 1)).double()
    return {"radial": radial, "drift": Drift()}


class Drift(nn.Module):
    """A field of vectors."""

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return -x


def told(thing: Any) -> list[Any]:
    """An object is made, or an error is clear: there is nothing to compare."""
    return [type(thing).__name__]


def made(name: str, **arguments: Any) -> Any:
    """A case of a class with these arguments."""

    @fuzz(f"dynamics.{name}", show=told)
    def case(draw: Draw) -> dict[str, Any]:
        chosen = dict(arguments)
        if draw(st.booleans()):  # as tensors, where they are numbers
            chosen = {
                key: torch.tensor(value)
                if type(value) is float
                and name not in ("EGNN", "VerletList", "LearnedPair", "VectorField")
                and key not in ("cutoff", "exponent")
                else value
                for key, value in chosen.items()
            }
        return chosen

    return case


test_lennard_jones = made("LennardJones", epsilon=0.5, sigma=0.9, cutoff=2.5)
test_morse = made("Morse", depth=0.5, rate=1.0, distance=1.2)
test_wca = made("WCA", epsilon=0.5, sigma=1.0)
test_coulomb = made("Coulomb", charges=1.0, constant=0.5, cutoff=3.0)
test_soft_sphere = made("SoftSphere", epsilon=0.5, sigma=1.0, exponent=2.5)
test_double_well = made("DoubleWell", linear=0.1, quadratic=-4.0, quartic=0.9, distance=4.0)
test_harmonic = made("Harmonic", k=0.5, center=0.0)
test_harmonic_bonds = made("HarmonicBonds", bonds=[[0, 1], [1, 2]], k=2.0, length=1.0)
test_velocity_verlet = made("VelocityVerlet", dt=0.01)
test_baoab = made("BAOAB", dt=0.01, temperature=1.0, friction=0.5)
test_euler_maruyama = made("EulerMaruyama", dt=0.01, noise=0.5)
test_heun = made("Heun", dt=0.01)
test_rk4 = made("RK4", dt=0.01)
test_verlet_list = made("VerletList", cutoff=1.5, skin=0.3)
test_egnn = made("EGNN", width=8, layers=1, types=2, cutoff=2.0)
test_vector_field = made("VectorField", module=Drift(), start_time=0.0)
test_learned_pair = made("LearnedPair", module=networks()["radial"], r_max=2.0, types=1, intervals=16)
