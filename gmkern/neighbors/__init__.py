"""Exact nearest neighbours, counts of neighbours and kernel sums. See docs/neighbors.md."""

from gmkern.neighbors.count_within import count_within
from gmkern.neighbors.kernel_sum import kernel_sum, log_kernel_sum
from gmkern.neighbors.knn import KNN, knn

__all__ = ["KNN", "count_within", "kernel_sum", "knn", "log_kernel_sum"]
