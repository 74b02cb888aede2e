"""neighbor_list() beside vesin and matscipy, where they are installed: python benchmarks/bench_neighbor_list.py

One periodic system at a liquid's density, 52 neighbours an atom, in float64; each gives i, j, shift, vector and
distance of the full list, on as many threads as it takes.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from _compare import circumstances, interleaved

from gmkern.dynamics import neighbor_list

CUTOFF, DENSITY = 2.5, 0.8
ATOMS = (864, 4_000, 32_000)


def by_vesin(x: np.ndarray, cell: np.ndarray) -> Any:
    import vesin

    search = vesin.NeighborList(cutoff=CUTOFF, full_list=True, sorted=False)
    return search.compute(points=x, box=cell, periodic=True, quantities="ijSDd")


def by_matscipy(x: np.ndarray, cell: np.ndarray) -> Any:
    from matscipy.neighbours import neighbour_list

    return neighbour_list("ijSDd", cell=cell, pbc=[True] * 3, positions=x, cutoff=CUTOFF)


RIVALS: dict[str, Callable[..., Any]] = {"vesin": by_vesin, "matscipy": by_matscipy}


def check(name: str, ours: Any, theirs: Any) -> None:
    """The same pairs."""
    keys = [np.column_stack([np.asarray(p) for p in (one[0], one[1], one[2])]) for one in (ours, theirs)]
    sorted_keys = [key[np.lexsort(key.T[::-1])] for key in keys]
    assert np.array_equal(*sorted_keys), name


def main() -> None:
    for key, value in circumstances("numpy", *RIVALS).items():
        print(f"{key}: {value}")
    for atoms in ATOMS:
        side = (atoms / DENSITY) ** (1 / 3)
        x, cell = np.random.default_rng(0).uniform(0, side, (atoms, 3)), side * np.eye(3)
        ours = partial(neighbor_list, torch.from_numpy(x), CUTOFF, cell=torch.from_numpy(cell), pbc=True)
        there = {name: partial(run, x, cell) for name, run in RIVALS.items() if importlib.util.find_spec(name)}
        print(interleaved(f"{atoms:,} atoms", ours, there, check, rounds=15))


if __name__ == "__main__":
    main()
