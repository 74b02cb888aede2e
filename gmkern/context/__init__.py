"""Samples in context: a few training points in, a new one out. See docs/context.md."""

from gmkern.context.draw import Draw, draw
from gmkern.context.network import SetTransformer
from gmkern.context.sampling import sample

__all__ = ["Draw", "SetTransformer", "draw", "sample"]
