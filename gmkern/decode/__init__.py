"""Decoding: batched autoregressive sampling with log-probabilities a trainer can trust."""

from gmkern.decode.sample import Sample, SamplingParams, sample, token_logprobs
from gmkern.decode.transformer import Transformer, TransformerConfig

__all__ = ["Sample", "SamplingParams", "Transformer", "TransformerConfig", "sample", "token_logprobs"]
