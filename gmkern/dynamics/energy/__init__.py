"""Energies and forces of potentials."""

from gmkern.dynamics.energy.api import EnergyAndForces, energy_and_forces

__all__ = ["EnergyAndForces", "energy_and_forces"]
