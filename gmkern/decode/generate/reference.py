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

    def open(self, rows: Tensor, length: int) -> None:
        self.cache = self.model.new_cache(rows.shape[0], length)
        self.filled = torch.zeros(rows.shape[0], dtype=torch.int64, device=self.cache.keys.device)
        self.rows = torch.arange(rows.shape[0], device=self.filled.device)  # those whose cache is kept

    def drop(self, live: Tensor) -> None:
        keep = torch.searchsorted(self.rows, live.to(self.rows.device))
        self.cache.keys, self.cache.values = self.cache.keys[:, keep], self.cache.values[:, keep]
        self.filled, self.rows = self.filled[keep], self.rows[keep]

    def feed(self, tokens: Tensor, live: Tensor) -> Tensor:
        device = self.filled.device
        tokens, at = tokens.to(device), torch.searchsorted(self.rows, live.to(device))
        some = live.shape[0] < self.rows.shape[0]  # not all rows move
        cache = type(self.cache)(self.cache.keys[:, at], self.cache.values[:, at]) if some else self.cache
        positions = self.filled[at].unsqueeze(1) + torch.arange(tokens.shape[1], device=device)
        self.filled[at] += tokens.shape[1]
        logits = self.model(tokens, positions, cache)[:, -1]
        if some:
            self.cache.keys[:, at], self.cache.values[:, at] = cache.keys, cache.values
        return logits
