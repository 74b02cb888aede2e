"""Samples of a decoder: noise drawn in the kernel and carried through the layers."""

from gmkern.latent.sample.api import sample

__all__ = ["sample"]
