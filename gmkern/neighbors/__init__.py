"""Exact nearest neighbours and counts of neighbours. See docs/neighbors.md."""

from gmkern.neighbors.count_within import count_within
from gmkern.neighbors.knn import KNN, knn

__all__ = ["KNN", "count_within", "knn"]
