"""Sequences drawn from an autoregressive model."""

from gmkern.decode.generate.api import generate
from gmkern.decode.generate.result import Generation

__all__ = ["Generation", "generate"]
