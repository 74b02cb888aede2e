"""Batched dynamics of small systems: force fields, energies and forces, trajectories. See docs/dynamics.md."""

from gmkern.dynamics.egnn import EGNN
from gmkern.dynamics.energy import EnergyAndForces, energy_and_forces
from gmkern.dynamics.fields import (
    WCA,
    Coulomb,
    DoubleWell,
    Harmonic,
    HarmonicBonds,
    LennardJones,
    Morse,
    Potential,
    SoftSphere,
    VectorField,
)
from gmkern.dynamics.integrators import BAOAB, RK4, EulerMaruyama, Heun, VelocityVerlet
from gmkern.dynamics.learned_pair import LearnedPair
from gmkern.dynamics.neighbor_list import NeighborList, VerletList, neighbor_list
from gmkern.dynamics.trajectory import PathLogProb, Trajectory, path_log_prob, simulate

__all__ = [
    "BAOAB",
    "EGNN",
    "RK4",
    "WCA",
    "Coulomb",
    "DoubleWell",
    "EnergyAndForces",
    "EulerMaruyama",
    "Harmonic",
    "HarmonicBonds",
    "Heun",
    "LearnedPair",
    "LennardJones",
    "Morse",
    "NeighborList",
    "PathLogProb",
    "Potential",
    "SoftSphere",
    "Trajectory",
    "VectorField",
    "VelocityVerlet",
    "VerletList",
    "energy_and_forces",
    "neighbor_list",
    "path_log_prob",
    "simulate",
]
