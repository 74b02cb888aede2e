"""What ``generate`` returns."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Generation(NamedTuple):
    """N sequences of new tokens; T is max_new_tokens.

    Attributes
    ----------
    tokens : [N, T] int64, the new tokens alone, the end token included; what follows a row's end is pad_token.
    mask : [N, T] bool, True at a row's tokens.
    lengths : [N] int64, the number of a row's new tokens, the end token counted.
    logprobs : [N, T], the log-probability of each token under the distribution it was drawn from; 0 outside the mask.
    raw_logprobs : [N, T], log_softmax of the model's own logits at the token; 0 outside the mask.
    log_kept_mass : [N, T], the log of the probability that the filters kept; 0 outside the mask.
    finished : [N] bool, True where a row ended by an end token, False where max_new_tokens cut it.
    """

    tokens: Tensor
    mask: Tensor
    lengths: Tensor
    logprobs: Tensor
    raw_logprobs: Tensor
    log_kept_mass: Tensor
    finished: Tensor


class FinishedRow(NamedTuple):
    """One row of a :class:`Generation`, without padding: L is its length, the end token counted.

    Attributes
    ----------
    row : which row it is.
    tokens : [L] int64.
    logprobs, raw_logprobs, log_kept_mass : [L].
    finished : whether an end token ended it.
    """

    row: int
    tokens: Tensor
    logprobs: Tensor
    raw_logprobs: Tensor
    log_kept_mass: Tensor
    finished: bool


def empty_generation(rows: int, length: int, pad_token: int, dtype: torch.dtype, device: torch.device) -> Generation:
    """A Generation in which nothing has been drawn; ``mask`` is filled by :func:`with_mask`."""
    return Generation(
        tokens=torch.full((rows, length), pad_token, dtype=torch.int64, device=device),
        mask=torch.zeros(rows, length, dtype=torch.bool, device=device),
        lengths=torch.zeros(rows, dtype=torch.int64, device=device),
        logprobs=torch.zeros(rows, length, dtype=dtype, device=device),
        raw_logprobs=torch.zeros(rows, length, dtype=dtype, device=device),
        log_kept_mass=torch.zeros(rows, length, dtype=dtype, device=device),
        finished=torch.zeros(rows, dtype=torch.bool, device=device),
    )


def with_mask(done: Generation) -> Generation:
    """The same with ``mask`` true at the first ``lengths`` tokens of each row."""
    at = torch.arange(done.tokens.shape[1], device=done.lengths.device)
    return done._replace(mask=at < done.lengths.unsqueeze(1))
