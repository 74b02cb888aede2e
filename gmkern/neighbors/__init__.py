"""Exact nearest neighbours, counts of neighbours and kernel sums. See docs/neighbors.md."""

from gmkern.neighbors.count_within import count_within
from gmkern.neighbors.kernel_sum import kernel_sum, log_kernel_sum
from gmkern.neighbors.knn import KNN, Certificate, knn, knn_certificate

__all__ = ["KNN", "Certificate", "count_within", "kernel_sum", "knn", "knn_certificate", "log_kernel_sum"]
