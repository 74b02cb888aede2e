"""A learnt many-body force field: an equivariant graph network."""

from gmkern.dynamics.egnn.api import EGNN

__all__ = ["EGNN"]
