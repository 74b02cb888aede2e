from gmkern.neighbors.knn.api import KNN, METRICS, knn
from gmkern.neighbors.knn.certificate import Certificate, knn_certificate

__all__ = ["KNN", "METRICS", "Certificate", "knn", "knn_certificate"]
