"""Decoding: batched autoregressive sampling with log-probabilities a trainer can trust."""

from gmkern.decode.generate import Generation, generate
from gmkern.decode.sample import Sample, SamplingParams, sample, token_logprobs
from gmkern.decode.transformer import Transformer, TransformerConfig

__all__ = [
    "Generation",
    "Sample",
    "SamplingParams",
    "Transformer",
    "TransformerConfig",
    "generate",
    "sample",
    "token_logprobs",
]
