"""Decoding: batched autoregressive sampling with log-probabilities a trainer can trust."""

from gmkern.decode.transformer import Transformer, TransformerConfig

__all__ = ["Transformer", "TransformerConfig"]
