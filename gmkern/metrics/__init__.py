"""Fidelity, diversity and novelty of generated samples. See docs/metrics.md."""

from gmkern.metrics._bootstrap import Estimate
from gmkern.metrics.duplicates import Duplicates, duplicates
from gmkern.metrics.evaluate import evaluate
from gmkern.metrics.frechet import Extrapolated, Moments, frechet_distance, frechet_distance_infinity, moments
from gmkern.metrics.mmd import KID, kid, mmd
from gmkern.metrics.novelty import Novelty, novelty
from gmkern.metrics.outliers import knn_anomaly_score, local_outlier_factor
from gmkern.metrics.prdc import PRDC, prdc
from gmkern.metrics.realism import realism
from gmkern.metrics.report import Curve, Report, Scores
from gmkern.metrics.sinkhorn import sinkhorn_divergence
from gmkern.metrics.sliced import sliced_wasserstein
from gmkern.metrics.vendi import vendi_score

__all__ = [
    "KID",
    "PRDC",
    "Curve",
    "Duplicates",
    "Estimate",
    "Extrapolated",
    "Moments",
    "Novelty",
    "Report",
    "Scores",
    "duplicates",
    "evaluate",
    "frechet_distance",
    "frechet_distance_infinity",
    "kid",
    "knn_anomaly_score",
    "local_outlier_factor",
    "mmd",
    "moments",
    "novelty",
    "prdc",
    "realism",
    "sinkhorn_divergence",
    "sliced_wasserstein",
    "vendi_score",
]
