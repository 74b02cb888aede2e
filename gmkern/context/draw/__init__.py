"""Sets of distinct training points."""

from gmkern.context.draw.api import Draw, draw

__all__ = ["Draw", "draw"]
