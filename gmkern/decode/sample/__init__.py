"""The choice of a token: filters, Gumbel noise, log-probabilities. See docs/sampling.md."""

from gmkern.decode.sample.api import Sample, sample, token_logprobs
from gmkern.decode.sample.params import SamplingParams

__all__ = ["Sample", "SamplingParams", "sample", "token_logprobs"]
