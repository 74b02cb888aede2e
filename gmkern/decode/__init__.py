"""Decoding: batched autoregressive sampling with log-probabilities a trainer can trust."""

from gmkern.decode.attention import Attention, KVCache, attention
from gmkern.decode.generate import FinishedRow, Generation, Guidance, generate, generate_stream
from gmkern.decode.sample import Sample, SamplingParams, sample, token_logprobs
from gmkern.decode.score import Score, score
from gmkern.decode.transformer import Transformer, TransformerConfig

__all__ = [
    "Attention",
    "FinishedRow",
    "Generation",
    "Guidance",
    "KVCache",
    "Sample",
    "SamplingParams",
    "Score",
    "Transformer",
    "TransformerConfig",
    "attention",
    "generate",
    "generate_stream",
    "sample",
    "score",
    "token_logprobs",
]
