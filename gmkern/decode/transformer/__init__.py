"""The transformer that is trained in PyTorch and sampled in compiled code."""

from gmkern.decode.transformer.config import TransformerConfig
from gmkern.decode.transformer.module import Transformer

__all__ = ["Transformer", "TransformerConfig"]
