"""Hidden states at the scored positions: by an engine, with generate's bits, and by the PyTorch module."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from gmkern.decode.score.job import Sequences
from gmkern.decode.transformer import Transformer, ops, packed

if TYPE_CHECKING:
    from gmkern.decode.transformer.device import DeviceEngine

_TOKENS = 4096  # that one call of the engine takes, about: enough to fill its tiles, and a small cache


def by_engine(weights: packed.Packed, given: Sequences) -> Tensor:
    """[Q, d_model] float32, on the CPU. A row's bits do not depend on the rows beside it."""
    ends = given.lengths.cumsum(0)
    longest = int(given.lengths.max()) if given.lengths.numel() else 0
    size = max(1, _TOKENS // max(longest, 1))
    cache = packed.new_cache(weights.config, min(size, given.lengths.shape[0]), max(longest, 1))
    turns, out = packed.turns(weights.config, cache.shape[3]), []
    for first in range(0, given.lengths.shape[0], size):
        lengths = given.lengths[first : first + size]
        begin, end = int(ends[first] - lengths[0]), int(ends[first + lengths.shape[0] - 1])
        slots = torch.arange(lengths.shape[0]).repeat_interleave(lengths)
        positions = torch.arange(end - begin) - (lengths.cumsum(0) - lengths)[slots]
        wanted = given.wanted[torch.searchsorted(given.wanted, begin) : torch.searchsorted(given.wanted, end)] - begin
        out.append(
            ops.transformer_hidden(
                weights.weights,
                turns,
                cache,
                given.tokens[begin:end],
                slots,
                positions,
                wanted,
                weights.shape,
                weights.reals,
            )
        )
    return torch.cat(out) if out else torch.empty(0, weights.config.d_model)


def by_device(engine: DeviceEngine, given: Sequences) -> Tensor:
    """The same by the Triton kernels, on the engine's device."""
    out = torch.empty(given.wanted.shape[0], engine.config.d_model, device=engine.device)
    if not out.numel():
        return out
    ends, longest = given.lengths.cumsum(0), int(given.lengths.max())
    row = torch.searchsorted(ends, given.wanted, right=True)
    at = given.wanted - (ends - given.lengths)[row]
    cache = engine.new_cache(min(given.lengths.shape[0], max(1, 4 * _TOKENS // longest)), longest)
    for some, begin, x in engine.read(cache, list(given.tokens.split(given.lengths.tolist()))):
        place = torch.full_like(given.lengths, -1)
        place[some] = torch.arange(len(some))
        here = (place[row] >= 0) & (at >= begin) & (at < begin + x.shape[1])
        from_x = place[row[here]].to(engine.device), (at[here] - begin).to(engine.device)
        out[here.to(engine.device)] = x[from_x]
    return engine.normed(out)


def by_module(model: Transformer, given: Sequences) -> Tensor:
    """[Q, d_model] with gradients, in the parameters' dtype, of rows padded on the right.

    On a CPU a few thousand tokens at a time: Ctrl-C is heard between layers, also in the backward pass.
    """
    device = model.embedding.weight.device
    if given.wanted.numel() == 0:
        return model.embedding.weight.new_zeros(0, model.config.d_model)
    longest = int(given.lengths.max())
    row = torch.arange(given.lengths.shape[0]).repeat_interleave(given.lengths)
    at = torch.arange(row.shape[0]) - (given.lengths.cumsum(0) - given.lengths)[row]
    tokens = torch.zeros(given.lengths.shape[0], longest, dtype=torch.int64)
    tokens[row, at] = given.tokens
    rows = max(1, _TOKENS // longest) if device.type == "cpu" else tokens.shape[0]
    hidden = torch.cat([model.hidden(part.to(device)) for part in tokens.split(rows)])
    return hidden[row[given.wanted].to(device), at[given.wanted].to(device)]
