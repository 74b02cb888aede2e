"""What is asked of ``score``, checked once and laid out token by token."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gmkern import _validate
from gmkern._validate import bad
from gmkern.decode.generate.guidance import Guidance
from gmkern.decode.generate.job import (
    Guide,
    MaskFn,
    allowed,
    check_params,
    check_sequences,
    check_vocabulary,
    checked_guidance,
    rows_to_start,
)
from gmkern.decode.sample import SamplingParams
from gmkern.decode.sample.params import checked_epsilon


@dataclass(frozen=True)
class Sequences:
    """N prompts, each followed by the tokens to be scored, and which positions of them say something of a token."""

    tokens: Tensor  # [sum of lengths] int64: prompt and all scored tokens but the last, a row after another
    lengths: Tensor  # [N]
    wanted: Tensor  # [Q] where in ``tokens`` each scored token is drawn from

    @staticmethod
    def of(prompts: list[Tensor], tokens: Tensor, lengths: Tensor) -> Sequences:
        parts, wanted, sizes, begin = [], [], [], 0
        for prompt, row, length in zip(prompts, tokens, lengths.tolist(), strict=True):
            if length == 0:
                sizes.append(0)
                continue
            parts += [prompt, row[: length - 1]]
            sizes.append(prompt.numel() + length - 1)
            wanted.append(torch.arange(length) + (begin + prompt.numel() - 1))
            begin += sizes[-1]
        empty = torch.empty(0, dtype=torch.int64)
        return Sequences(
            torch.cat([empty, *parts]), torch.tensor(sizes, dtype=torch.int64), torch.cat([empty, *wanted])
        )


@dataclass(frozen=True)
class ScoreJob:
    """Q tokens of N rows to score. Tensors are on the CPU."""

    tokens: Tensor  # [N, T] int64
    row: Tensor  # [Q]
    at: Tensor  # [Q] which token of its row
    prompts: list[Tensor]
    main: Sequences
    side: Sequences | None  # the unconditional sequences, where guided
    guide: Guide | None
    params: Tensor  # [1 or N, 10] float64
    remembers: bool
    mask_fn: MaskFn | None
    pad_token: int
    entropy: bool

    @property
    def chosen(self) -> Tensor:
        """[Q]: the scored tokens."""
        return self.tokens[self.row, self.at]

    def rows(
        self, begin: int, end: int, device: torch.device, vocab: int
    ) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
        """(tokens, params, mask, history) of scored tokens begin to end: what the ops take beside logits."""
        row, at = self.row[begin:end], self.at[begin:end]
        packed = self.params if self.params.shape[0] == 1 else self.params[row]
        mask = history = None
        past = torch.arange(self.tokens.shape[1]) < at.unsqueeze(1)
        if self.mask_fn is not None:
            given = torch.where(past, self.tokens[row], self.pad_token)
            shape = [end - begin, vocab]
            mask = allowed(self.mask_fn, given.to(device), at.to(device), row.to(device), shape)
        if self.remembers:
            width = max(prompt.numel() for prompt in self.prompts)
            padded = torch.nn.utils.rnn.pad_sequence(self.prompts, batch_first=True, padding_value=-1)
            packed = packed.expand(end - begin, -1).clone()
            packed[:, -1] = width
            history = torch.cat([padded[row], torch.where(past, self.tokens[row], -1)], 1).to(device)
        chosen = self.tokens[row, at]
        return chosen.to(device), packed.contiguous().to(device), mask, history

    def scale(self, begin: int, end: int) -> Tensor:
        """[end - begin] float64: guidance's scale of each scored token."""
        assert self.guide is not None
        return self.guide.scale[self.row[begin:end]]


def make_job(
    tokens: Any,
    lengths: Any,
    *,
    prompts: Any,
    params: SamplingParams,
    epsilon: float | Tensor,
    guidance: Guidance | None,
    mask_fn: MaskFn | None,
    num_samples: int,
    pad_token: int,
    entropy: bool,
    bos_id: int | None,
    vocab_size: int | None,
    max_seq_len: int | None,
) -> ScoreJob:
    """Checks ``score``'s arguments; the model's three are None where it does not tell."""
    check_vocabulary(vocab_size)
    ids = (torch.int64, torch.int32)
    tokens = _validate.tensor("tokens", tokens, ndim=2, dtypes=ids).cpu().long()
    rows, longest = tokens.shape
    lengths = _validate.tensor("lengths", lengths, ndim=1, dtypes=ids).cpu().long()
    if lengths.shape[0] != rows:
        raise bad("lengths", lengths, f"shape [{rows}], one a row of tokens")
    if bool(((lengths < 0) | (lengths > longest)).any()):
        raise bad("lengths", f"values from {int(lengths.min())} to {int(lengths.max())}", f"0 to {longest}")
    n = rows // max(1, _validate.integer("num_samples", num_samples, low=1)) if prompts is None else None
    starts = rows_to_start(prompts, n, bos_id, num_samples)
    if len(starts) != rows:
        raise bad(
            "prompts", f"{len(starts)} rows", f"{rows}, one a row of tokens (num_samples counts each prompt so often)"
        )
    if not isinstance(params, SamplingParams):
        raise bad("params", params, "a SamplingParams", error=TypeError)
    if mask_fn is not None and not callable(mask_fn):
        raise bad("mask_fn", mask_fn, "a function or None", error=TypeError)
    epsilon = checked_epsilon(epsilon)
    check_params(params, epsilon, rows)
    guide = checked_guidance(guidance, rows)
    most = int(lengths.max()) if rows else 0
    for name, some in (("prompts", starts), ("guidance.prompts", guide.prompts if guide else [])):
        check_sequences(name, some, most, "lengths", vocab_size, max_seq_len)
    row = torch.arange(rows).repeat_interleave(lengths)
    at = torch.arange(row.shape[0]) - (lengths.cumsum(0) - lengths)[row]
    chosen = tokens[row, at]
    if vocab_size is not None and bool(((chosen < 0) | (chosen >= vocab_size)).any()):
        raise bad("tokens", f"ids from {int(chosen.min())} to {int(chosen.max())}", f"ids in [0, {vocab_size})")
    return ScoreJob(
        tokens=tokens,
        row=row,
        at=at,
        prompts=starts,
        main=Sequences.of(starts, tokens, lengths),
        side=Sequences.of(guide.prompts, tokens, lengths) if guide else None,
        guide=guide,
        params=params.packed(rows, torch.device("cpu"), epsilon),
        remembers=params.remembers,
        mask_fn=mask_fn,
        pad_token=_validate.integer("pad_token", pad_token, low=-(2**63), high=2**63 - 1),
        entropy=entropy,
    )
