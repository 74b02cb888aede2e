"""What the CUDA kernels of dynamics are tested with, on the host and on a GPU."""

from __future__ import annotations

import torch

from gmkern.dynamics import (
    WCA,
    Coulomb,
    DoubleWell,
    Harmonic,
    HarmonicBonds,
    LearnedPair,
    LennardJones,
    Morse,
    SoftSphere,
)
from tests.dynamics.truth import lattice

SIZES = (13, 0, 1, 65, 32)  # on both sides of every group of threads
RING = HarmonicBonds([[0, 1], [1, 2], [2, 0], [3, 1]], k=[3.0, 2.0, 1.0, 4.0], length=[1.1, 0.0, 1.0, 1.2])


def network(outputs: int) -> torch.nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(4)
        layers = torch.nn.Linear(1, 8), torch.nn.SiLU(), torch.nn.Linear(8, outputs)
        return torch.nn.Sequential(*layers).double()


def learned(types: int = 1, intervals: int = 64) -> LearnedPair:
    return LearnedPair(network(types * (types + 1) // 2), 2.2, types=types, intervals=intervals)


def fields() -> dict:
    """By name: each kind of term, alone or in a sum, and how many types of atoms it tells apart."""
    three = torch.tensor([[1.0, 0.5, 0.8], [0.5, 1.2, 0.7], [0.8, 0.7, 0.9]])
    return {
        "pairs": (LennardJones(cutoff=2.5) + Harmonic(0.2, 0.3), 1),
        "terms": (Morse(cutoff=2.0) + SoftSphere(exponent=2.5) + DoubleWell(quartic=0.1) + Coulomb(0.3), 1),
        "types": (LennardJones([1.0, 0.5, 0.8], [1.0, 0.9, 1.1], cutoff=2.5) + Morse(three, cutoff=1.8)
                  + Harmonic([0.1, 0.2, 0.3], [[0.0] * 3, [0.2] * 3, [0.1, 0.0, 0.3]]), 3),
        "bonds": (WCA() + RING, 1),
        "learnt": (learned() + Harmonic(0.2), 1),
        "learnt types": (learned(2) + LennardJones(0.3, cutoff=2.0), 2),
    }  # fmt: skip


def state(sizes, dim: int, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """Positions near a lattice, and velocities, of systems one after another."""
    x = torch.cat([lattice(n, dim=dim) + 0.05 * torch.randn(n, dim, dtype=torch.float64) for n in sizes]).to(dtype)
    return x, (0.5 * torch.randn(*x.shape)).to(dtype)


def types_of(atoms: int, count: int) -> torch.Tensor | None:
    return None if count == 1 else torch.randint(0, count, (atoms,), generator=torch.Generator().manual_seed(1))
