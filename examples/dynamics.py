"""Cool 256 clusters of 13 Lennard-Jones atoms at once and look for the icosahedron, their lowest energy.

Run: python examples/dynamics.py
"""

import torch

from gmkern.dynamics import BAOAB, Harmonic, LennardJones, energy_and_forces, simulate

SYSTEMS, ATOMS, STEPS, STAGES = 256, 13, 1000, 30
LOWEST = -44.3268  # of 13 atoms: Hoare and Pal, 1971

atoms = LennardJones()
field = atoms + Harmonic(0.02)  # a weak trap, so that an atom that boils off comes back
generator = torch.Generator().manual_seed(0)
axis = torch.arange(3.0) * 1.2
lattice = torch.cartesian_prod(axis, axis, axis)[:ATOMS] - 1.2
positions = lattice + 0.05 * torch.randn(SYSTEMS, ATOMS, 3, generator=generator)

velocities = None
for stage in range(STAGES):
    temperature = 0.4 * (1 - stage / STAGES) + 0.001
    path = simulate(
        field,
        positions,
        velocities=velocities,
        integrator=BAOAB(dt=0.005, temperature=temperature, friction=1.0),
        steps=STEPS,
        start_step=stage * STEPS,  # the noise goes on where it stopped
        seed=0,
    )
    positions, velocities = path.positions, path.velocities
    if stage % 5 == 4:
        energy = energy_and_forces(atoms, positions).energy
        print(f"temperature {temperature:.3f}: median energy {energy.median():7.2f}, lowest {energy.min():7.2f}")

energy = energy_and_forces(atoms, positions).energy
found = int((energy < LOWEST + 0.3).sum())
print(f"{found} of {SYSTEMS} clusters are the icosahedron (energy {LOWEST} at rest)")
