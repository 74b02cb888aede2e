"""Neighbour lists: which atoms are near which, once or along a path."""

from gmkern.dynamics.neighbor_list.api import NeighborList, neighbor_list
from gmkern.dynamics.neighbor_list.verlet import VerletList

__all__ = ["NeighborList", "VerletList", "neighbor_list"]
