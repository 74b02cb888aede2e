"""Sequences drawn from an autoregressive model."""

from gmkern.decode.generate.api import generate, generate_stream
from gmkern.decode.generate.guidance import Guidance
from gmkern.decode.generate.result import FinishedRow, Generation

__all__ = ["FinishedRow", "Generation", "Guidance", "generate", "generate_stream"]
