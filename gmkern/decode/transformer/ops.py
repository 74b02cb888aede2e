"""The engine's ops (schemas: csrc/decode/register.cpp) and their fake kernels. They have no gradient."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from gmkern._interrupt import audible
from gmkern._library import ops

fingerprint = audible(ops.fingerprint.default)
pack_transformer = audible(ops.pack_transformer.default)
transformer_logits = audible(ops.transformer_logits.default)
transformer_hidden = audible(ops.transformer_hidden.default)
transformer_head = audible(ops.transformer_head.default)
generate_steps = audible(ops.generate_steps.default)


@torch.library.register_fake("gmkern::fingerprint")
def _(tensors: list[Tensor]) -> Tensor:
    return tensors[0].new_empty(1, dtype=torch.int64)


@torch.library.register_fake("gmkern::pack_transformer")
def _(weights: list[Tensor], shape: list[int]) -> Tensor:
    return weights[0].new_empty(ops.packed_transformer_size(shape))


def _wanted_rows(width_at: int) -> Callable[..., Tensor]:
    """The fake kernel of an op that answers for each wanted token with a row of ``shape[width_at]`` numbers."""

    def fake(
        packed: Tensor,
        turns: Tensor,
        cache: Tensor,
        tokens: Tensor,
        slots: Tensor,
        positions: Tensor,
        wanted: Tensor,
        shape: list[int],
        reals: list[float],
    ) -> Tensor:
        return packed.new_empty(wanted.shape[0], shape[width_at])

    return fake


torch.library.register_fake("gmkern::transformer_logits", _wanted_rows(0))
torch.library.register_fake("gmkern::transformer_hidden", _wanted_rows(3))


@torch.library.register_fake("gmkern::transformer_head")
def _(packed: Tensor, hidden: Tensor, shape: list[int], reals: list[float]) -> Tensor:
    return packed.new_empty(hidden.shape[0], shape[0])


@torch.library.register_fake("gmkern::generate_steps")
def _(*_args: Any) -> None:
    return None
