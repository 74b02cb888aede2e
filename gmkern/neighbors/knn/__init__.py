from gmkern.neighbors.knn.api import KNN, METRICS, knn

__all__ = ["KNN", "METRICS", "knn"]
