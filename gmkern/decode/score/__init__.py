"""Log-probabilities of given tokens: generate's values, with the gradients of the PyTorch module."""

from gmkern.decode.score.api import score
from gmkern.decode.score.result import Score

__all__ = ["Score", "score"]
