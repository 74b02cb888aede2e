"""Classical generators on the same kernels: a mixture of Gaussians, a Boltzmann machine. See docs/classical.md."""

from gmkern.classical.mixture import GaussianMixture
from gmkern.classical.rbm import RBM

__all__ = ["RBM", "GaussianMixture"]
