"""What ``score`` returns where more than log-probabilities is asked for."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Score(NamedTuple):
    """What a model says of N sequences of up to T tokens; 0 past a row's length.

    Attributes
    ----------
    logprobs : [N, T], of the distribution the tokens are drawn from; -inf where a token is outside of it.
    raw_logprobs : [N, T], log_softmax of the model's own logits.
    log_kept_mass : [N, T], the log of the probability that the filters keep; no gradient.
    entropy : [N, T], of the distribution each token is drawn from; None unless asked for.
    hidden : [N, T, d_model], the last norm's output that each token is drawn from (for value heads); None unless asked
        for. With guidance, of the conditional sequence.
    """

    logprobs: Tensor
    raw_logprobs: Tensor
    log_kept_mass: Tensor
    entropy: Tensor | None
    hidden: Tensor | None
