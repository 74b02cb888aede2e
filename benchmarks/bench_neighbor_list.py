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
ROUNDING = 1e-12  # of a few sums of coordinates below 64 in float64, whose half units in the last place are 4e-15


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
    """The same pairs, vectors and distances; ours, for 32 atoms, those of a search through every image that is near."""
    ours = [np.asarray(part) for part in (ours.i, ours.j, ours.shift, ours.vector, ours.distance)]
    if tool == OURS:
        return check_truth(given, *ours)
    found = [ours, [np.asarray(part) for part in theirs]]
    orders = [np.lexsort((*s.T, j, i)) for i, j, s, *_ in found]
    (i, j, shift, vector, distance), others = (
        [part[at] for part in one] for one, at in zip(found, orders, strict=True)
    )
    assert all(np.array_equal(a, b) for a, b in zip((i, j, shift), others[:3], strict=True)), f"{tool}: other pairs"
    np.testing.assert_allclose(others[3], vector, rtol=0, atol=ROUNDING, err_msg=tool)
    np.testing.assert_allclose(others[4], distance, rtol=0, atol=ROUNDING, err_msg=tool)


def check_truth(given: Box, i: Any, j: Any, shift: Any, vector: Any, distance: Any) -> None:
    """The side is above twice the cutoff, so that of an atom's images one at most is within it."""
    side = given.cell[0, 0]
    assert side > 2 * CUTOFF
    for atom in range(0, len(given.x), -(-len(given.x) // 32)):
        images = -np.round((given.x - given.x[atom]) / side)
        apart = given.x - given.x[atom] + side * images
        near = (np.linalg.norm(apart, axis=1) < CUTOFF).nonzero()[0]
        near, own = near[near != atom], (i == atom).nonzero()[0]
        own = own[np.argsort(j[own])]
        assert np.array_equal(j[own], near), f"atom {atom} has other neighbours"
        assert np.array_equal(shift[own], images[near]), f"atom {atom} has others' images"
        np.testing.assert_allclose(vector[own], apart[near], rtol=0, atol=ROUNDING)
        np.testing.assert_allclose(distance[own], np.linalg.norm(apart[near], axis=1), rtol=0, atol=ROUNDING)


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
