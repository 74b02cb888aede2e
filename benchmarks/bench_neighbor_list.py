"""neighbor_list beside vesin and matscipy.

One periodic system at a liquid's density, 52 neighbours an atom, in float64; each gives i, j, shift, vector and
distance of the full list, on as many threads as it takes.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from _case import OURS, Case, Point, Run, across

from gmkern.dynamics import neighbor_list

CUTOFF, DENSITY, NEAR = 2.5, 0.8, 52


class Box(NamedTuple):
    x: np.ndarray  # [N, 3]
    cell: np.ndarray  # [3, 3]


def box(atoms: int) -> Box:
    side = (atoms / DENSITY) ** (1 / 3)
    return Box(np.random.default_rng(0).uniform(0, side, (atoms, 3)), side * np.eye(3))


def ours(given: Box) -> Run:
    x, cell = (torch.from_numpy(one) for one in given)
    return lambda _: neighbor_list(x, CUTOFF, cell=cell, pbc=True)


def by_vesin(given: Box) -> Run:
    import vesin

    search = vesin.NeighborList(cutoff=CUTOFF, full_list=True, sorted=False)
    return lambda _: search.compute(points=given.x, box=given.cell, periodic=True, quantities="ijSDd")


def by_matscipy(given: Box) -> Run:
    from matscipy.neighbours import neighbour_list

    return lambda _: neighbour_list("ijSDd", cell=given.cell, pbc=[True] * 3, positions=given.x, cutoff=CUTOFF)


def check(given: Box, tool: str, ours: Any, theirs: Any) -> None:
    """The same pairs; ours, where that is cheap, those of the list of every pair."""
    if tool == OURS and len(given.x) < 1000:
        x, cell = (torch.from_numpy(one) for one in given)
        theirs = neighbor_list(x, CUTOFF, cell=cell, pbc=True, backend="reference")
    keys = [np.column_stack([np.asarray(p) for p in (one[0], one[1], one[2])]) for one in (ours, theirs)]
    assert np.array_equal(*(key[np.lexsort(key.T[::-1])] for key in keys)), tool


def case(atoms: int, point: Point | None = None) -> Case:
    tools = {OURS: ours, "vesin": by_vesin, "matscipy": by_matscipy}
    pairs = atoms * NEAR
    moved = 24.0 * atoms + pairs * (8 + 8 + 24 + 24 + 8)  # positions; i, j, shift, vector and distance of a pair
    return Case(f"neighbor_list, {atoms} atoms", partial(box, atoms), tools, check, moved, point=point)


CASES = [case(864), case(4_000), case(32_000)]
CURVES = [case(atoms, Point("neighbor_list", "N", atoms)) for atoms in (1_000, 4_000, 16_000, 64_000)]


@across(CASES)
def test_neighbor_list(case, tool, raced):
    raced(case, tool)


@across(CURVES)
def test_neighbor_list_grows(case, tool, raced):
    raced(case, tool)
