"""Independent truths for the dynamics tests: plain loops in float64 NumPy, known clusters, discrete stationary laws."""

from __future__ import annotations

import itertools
import math

import numpy as np
import torch
from torch import Tensor


def lennard_jones(
    x: np.ndarray, epsilon: float = 1.0, sigma: float = 1.0, cutoff: float = math.inf, shift: bool = True,
    cell: np.ndarray | None = None, pbc: tuple[bool, ...] = (),
) -> tuple[float, np.ndarray]:  # fmt: skip
    """Energy and forces [N, D] of one system, pair by pair; with a cell, over every image within two cells each way."""
    x = np.asarray(x, dtype=np.float64)
    shifts = [np.zeros(x.shape[1])]
    if cell is not None:
        ranges = [range(-2, 3) if p else (0,) for p in pbc]
        shifts = [np.array(n) @ np.asarray(cell, dtype=np.float64) for n in itertools.product(*ranges)]

    def value(r: float) -> float:
        return 4 * epsilon * ((sigma / r) ** 12 - (sigma / r) ** 6)

    energy, forces = 0.0, np.zeros_like(x)
    for i, j in itertools.combinations(range(len(x)), 2):
        for shift_vector in shifts:
            d = x[i] - x[j] + shift_vector
            r = math.sqrt(float(d @ d))
            if r >= cutoff:
                continue
            energy += value(r) - (value(cutoff) if shift and cutoff < math.inf else 0.0)
            slope = 4 * epsilon * (-12 * sigma**12 / r**13 + 6 * sigma**6 / r**7)
            forces[i] -= slope * d / r
            forces[j] += slope * d / r
    return energy, forces


def icosahedron() -> Tensor:
    """Thirteen points: a centre and the twelve corners, at distance 1.08 from it."""
    golden = (1 + math.sqrt(5)) / 2
    corners = [
        p for a, b in itertools.product((-1.0, 1.0), (-golden, golden)) for p in ((0, a, b), (a, b, 0), (b, 0, a))
    ]
    points = torch.tensor([(0.0, 0.0, 0.0), *corners], dtype=torch.float64)
    return 1.08 * points / math.sqrt(1 + golden**2)


def truncated_octahedron() -> Tensor:
    """The 38 points of a face-centred lattice with nearest neighbours 1.1 apart, those nearest an octahedral hole."""
    sites = [p for p in itertools.product(range(-4, 5), repeat=3) if sum(p) % 2 == 0]
    points = torch.tensor(sites, dtype=torch.float64) - torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64)
    nearest = points[points.norm(dim=1).argsort(stable=True)[:38]]
    assert torch.unique(nearest.norm(dim=1).round(decimals=6)).numel() == 3  # shells of 6, 8 and 24
    return nearest * (1.1 / math.sqrt(2))


def lattice(n: int, spacing: float = 1.15, dim: int = 3) -> Tensor:
    """The first n points of a square or cubic lattice, float64: no two atoms close."""
    side = math.ceil(n ** (1 / dim))
    axes = [torch.arange(float(side), dtype=torch.float64)] * dim
    return spacing * torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).reshape(-1, dim)[:n]


def cloud(systems: int, n: int, dim: int = 3, noise: float = 0.05) -> Tensor:
    """Systems of atoms near lattice points, drawn with torch's global generator: [S, N, D] float64."""
    return lattice(n, dim=dim) + noise * torch.randn(systems, n, dim, dtype=torch.float64)


def stationary_baoab(k: float, mass: float, dt: float, temperature: float, friction: float) -> np.ndarray:
    """The covariance of (x, v) that BAOAB leaves unchanged in the trap k x^2 / 2: C = A C A^T + b b^T."""
    kick = np.array([[1.0, 0.0], [-0.5 * dt * k / mass, 1.0]])
    drift = np.array([[1.0, 0.5 * dt], [0.0, 1.0]])
    keep = math.exp(-friction * dt)
    rub = np.diag([1.0, keep])
    step = kick @ drift @ rub @ drift @ kick
    push = kick @ drift @ np.array([0.0, math.sqrt((1 - keep**2) * temperature / mass)])
    return _stationary(step, np.outer(push, push))


def stationary_euler_maruyama(k: float, dt: float, noise: float) -> float:
    """The variance of x that Euler-Maruyama leaves unchanged in the trap k x^2 / 2."""
    return float(_stationary(np.array([[1 - k * dt]]), np.array([[noise**2 * dt]]))[0, 0])


def _stationary(step: np.ndarray, added: np.ndarray) -> np.ndarray:
    n = len(step)
    return np.linalg.solve(np.eye(n * n) - np.kron(step, step), added.reshape(-1)).reshape(n, n)
