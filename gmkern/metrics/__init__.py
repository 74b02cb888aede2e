"""Fidelity, diversity and novelty of generated samples. See docs/metrics.md."""

from gmkern.metrics.novelty import Novelty, novelty
from gmkern.metrics.prdc import PRDC, prdc

__all__ = ["PRDC", "Novelty", "novelty", "prdc"]
