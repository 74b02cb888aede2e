"""Latent: Gaussian noise through a network. See docs/latent.md."""

from gmkern.latent.sample import sample

__all__ = ["sample"]
