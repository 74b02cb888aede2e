"""gmkern: compiled kernels for generative modelling in PyTorch.

Sampling (:mod:`gmkern.decode`), simulation (:mod:`gmkern.dynamics`), nearest neighbours (:mod:`gmkern.neighbors`)
and the metrics built on them (:mod:`gmkern.metrics`); their noise is :mod:`gmkern.random`. Nothing is compiled or
fetched at import.
"""

from gmkern import classical, context, decode, dynamics, latent, metrics, neighbors, random
from gmkern._info import info
from gmkern._version import __version__

__all__ = [
    "__version__",
    "classical",
    "context",
    "decode",
    "dynamics",
    "info",
    "latent",
    "metrics",
    "neighbors",
    "random",
]
