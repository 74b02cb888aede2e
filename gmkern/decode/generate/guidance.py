"""Classifier-free guidance: two sequences a row, one with the prompt and one without, and logits between and beyond."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from gmkern import _validate

if TYPE_CHECKING:
    from gmkern.decode.generate.job import Job
    from gmkern.decode.generate.loop import Steps


@dataclass(frozen=True)
class Guidance:
    """logits = unconditional + scale * (conditional - unconditional) (Ho and Salimans, 2022; Sanchez et al., 2023).

    Parameters
    ----------
    scale : a number, or a tensor [N] with one a row: 1 leaves the prompt's own logits (up to rounding), 0 takes the
        unconditional ones, more than 1 leans towards the prompt.
    prompts : what the unconditional sequences begin with: as ``generate``'s prompts, one a row, or one for all rows.

    Examples
    --------
    >>> from gmkern.decode import Guidance, Transformer, TransformerConfig, generate
    >>> model = Transformer(TransformerConfig(17, n_layers=1, n_heads=2, d_model=8, max_seq_len=32))
    >>> drawn = generate(model, [[3, 5], [7]], max_new_tokens=4, seed=0, guidance=Guidance(2.0, [[0]]))
    >>> drawn.tokens.shape
    torch.Size([2, 4])
    """

    scale: float | Tensor
    prompts: Any

    def __post_init__(self) -> None:
        if isinstance(self.scale, Tensor):
            _validate.tensor("guidance.scale", self.scale, ndim=(0, 1), dtypes=(torch.float32, torch.float64))
        else:
            _validate.number("guidance.scale", self.scale)


def blend(conditional: Tensor, unconditional: Tensor, scale: Tensor) -> Tensor:
    """Guided logits [b, V]; scale [b]. ``generate`` and ``score`` share this line, and so its roundings."""
    return unconditional + scale.to(conditional.dtype).unsqueeze(1) * (conditional - unconditional)


class GuidedSteps:
    """Steps of a guided job: inner rows 0 to b - 1 read the prompts, rows b to 2b - 1 the unconditional ones."""

    def __init__(self, inner: Steps, job: Job):
        self.inner, self.job = inner, job

    def most_rows(self, job: Job) -> int:
        return max(1, self.inner.most_rows(job) // 2)

    def open(self, rows: Tensor, length: int) -> None:
        guide = self.job.guide
        assert guide is not None
        prompts = [guide.prompts[row] for row in rows.tolist()]
        longest = max(prompt.numel() for prompt in prompts)
        self.half = rows.shape[0]
        self.inner.open(torch.cat([rows, rows]), max(length, longest + self.job.max_new_tokens))
        self.scale, self.lengths = guide.scale[rows], self.job.prompt_lengths[rows]
        self.fed = torch.zeros(self.half, dtype=torch.int64)
        self.unconditional: Tensor | None = None
        for size in {prompt.numel() for prompt in prompts}:
            some = [i for i, prompt in enumerate(prompts) if prompt.numel() == size]
            self._remember(
                torch.tensor(some),
                self.inner.feed(torch.stack([prompts[i] for i in some]), torch.tensor(some) + self.half),
            )

    def feed(self, tokens: Tensor, live: Tensor) -> Tensor:
        rows = live.cpu()
        drawn = self.fed[rows] >= self.lengths[rows]  # these tokens follow the prompt: both sequences take them
        self.fed[rows] += tokens.shape[1]
        both = rows[drawn]
        logits = self.inner.feed(
            torch.cat([tokens, tokens[drawn.to(tokens.device)]]), torch.cat([rows, both + self.half])
        )
        self._remember(both, logits[rows.shape[0] :])
        assert self.unconditional is not None
        scale = self.scale[rows].to(logits.device)
        return blend(logits[: rows.shape[0]], self.unconditional[rows.to(logits.device)], scale)

    def drop(self, live: Tensor) -> None:
        self.inner.drop(torch.cat([live, live + self.half]))

    def _remember(self, rows: Tensor, logits: Tensor) -> None:
        if self.unconditional is None:
            self.unconditional = logits.new_zeros(self.half, logits.shape[1])
        self.unconditional[rows.to(logits.device)] = logits
