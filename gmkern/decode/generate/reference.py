"""The Transformer in plain PyTorch, token by token with its own cache: the truth that the engine is tested against."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from gmkern.decode.generate.job import Job
    from gmkern.decode.transformer import Transformer


class ReferenceSteps:
    """``Transformer.forward`` with a cache, any dtype and device (see :class:`gmkern.decode.generate.loop.Steps`)."""

    def __init__(self, model: Transformer):
        self.model = model

    def most_rows(self, job: Job) -> int:
        return 256

    def open(self, rows: int, length: int) -> None:
        self.cache = self.model.new_cache(rows, length)
        self.filled = torch.zeros(rows, dtype=torch.int64, device=self.cache.keys.device)
        self.rows = torch.arange(rows, device=self.filled.device)  # those whose cache is kept

    def feed(self, tokens: Tensor, live: Tensor) -> Tensor:
        if live.shape[0] < self.rows.shape[0]:  # forget the rows that have stopped
            keep = torch.searchsorted(self.rows, live)
            self.cache.keys, self.cache.values = self.cache.keys[:, keep], self.cache.values[:, keep]
            self.filled, self.rows = self.filled[keep], live
        positions = self.filled.unsqueeze(1) + torch.arange(tokens.shape[1], device=tokens.device)
        self.filled += tokens.shape[1]
        return self.model(tokens, positions, self.cache)[:, -1]
