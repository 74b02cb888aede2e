"""Fit two force fields to the forces of a known potential: a network of the distance, and an equivariant graph network.

Clusters of eight Morse atoms are drawn by BAOAB at two temperatures, and both fields learn from their forces alone: the
loss is of forces, so its gradient is a second derivative of the energy (double backward). A `LearnedPair` is exact in
form here and should win; an `EGNN` has to find out that atoms act in pairs. Both then drive molecular dynamics, and the
energy they keep is the test of forces that are a gradient.

Run: python examples/force_matching.py [--quick]
"""

import argparse

import torch

from gmkern.dynamics import (
    BAOAB,
    EGNN,
    Harmonic,
    LearnedPair,
    Morse,
    VelocityVerlet,
    energy_and_forces,
    simulate,
)

ATOMS, CUTOFF = 8, 3.0
TRUTH = Morse(depth=1.0, rate=2.5, distance=1.2, cutoff=CUTOFF)


def clusters(systems, seed):
    """Positions [3 S, N, 3] along a run of S clusters, half of them hot, held together by a trap."""
    axis = torch.arange(2.0) * 1.2 - 0.6
    start = torch.cartesian_prod(axis, axis, axis).repeat(systems, 1, 1)
    temperature = torch.where(torch.arange(systems) % 2 == 0, 0.2, 0.6)
    bath = BAOAB(0.01, temperature.double(), 1.0)
    path = simulate(TRUTH + Harmonic(0.1), start, integrator=bath, steps=1500, seed=seed, record_every=500)
    return path.frames[1:].flatten(0, 1)


def relative_error(field, x):
    """Root mean square error of the forces over the forces' own."""
    with torch.no_grad():
        wanted, got = (energy_and_forces(f, x).forces for f in (TRUTH, field))
    return float((got - wanted).square().mean().sqrt() / wanted.square().mean().sqrt())


def fit(field, parameters, data, updates, rate):
    optimiser = torch.optim.Adam(parameters, lr=rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, updates)
    for _ in range(updates):
        x = data[torch.randint(len(data), (64,))]
        wanted = energy_and_forces(TRUTH, x).forces
        loss = (energy_and_forces(field, x).forces - wanted).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()


def energy_drift(field, x):
    """Largest change of the total energy along velocity Verlet from rest, over the kinetic energy gained."""
    with torch.no_grad():
        path = simulate(field, x, integrator=VelocityVerlet(0.005), steps=400, record_every=400)
    kinetic = 0.5 * path.velocities.square().sum((1, 2))
    return float(((path.energies[1] - path.energies[0] + kinetic).abs() / kinetic).max())


def main():
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer updates: to see that it runs")
    given = parser.parse_args()
    updates = 30 if given.quick else 600
    torch.manual_seed(0)
    data, test = clusters(256, seed=1), clusters(64, seed=2)
    silu, linear = torch.nn.SiLU, torch.nn.Linear
    radial = torch.nn.Sequential(linear(1, 32), silu(), linear(32, 32), silu(), linear(32, 1))
    fields = {
        "LearnedPair": (LearnedPair(radial, r_max=CUTOFF), radial.parameters(), 2e-2),
        "EGNN": (graph := EGNN(32, 2, time=False, conservative=True, cutoff=CUTOFF), graph.parameters(), 5e-3),
    }
    for name, (field, parameters, rate) in fields.items():
        before = relative_error(field, test)
        fit(field, list(parameters), data, updates, rate)
        print(
            f"{name:<12} relative error of forces {before:.3f} before, {relative_error(field, test):.4f} after "
            f"{updates} updates; energy along its own run kept to {energy_drift(field, test[:16]):.1e}",
            flush=True,
        )


if __name__ == "__main__":
    main()
