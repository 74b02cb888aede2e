"""The compiled op ``gmkern::neighbor_list``: its fake kernel, and the derivatives of its vectors and distances."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gmkern._interrupt import audible
from gmkern._library import ops

neighbor_list = audible(ops.neighbor_list.default)


@torch.library.register_fake("gmkern::neighbor_list")
def _(
    positions: Tensor,
    system_ptr: Tensor,
    cell: Tensor,
    fractions: Tensor,
    repeats: list[int],
    cutoff: float,
    half: bool,
    capacity: int,
) -> tuple[Tensor, ...]:
    pairs = torch.library.get_ctx().new_dynamic_size() if capacity < 0 else capacity
    dim = positions.shape[1]
    index = system_ptr.new_empty(pairs, dtype=torch.int64)
    return (
        positions.new_empty(pairs),
        positions.new_empty((pairs, dim)),
        index,
        torch.empty_like(index),
        system_ptr.new_empty((pairs, dim), dtype=torch.int32),
        system_ptr.new_empty(positions.shape[0] + 1, dtype=torch.int64),
    )


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    distance, vector, i, j, shift, row_ptr = output
    ctx.atoms = inputs[0].shape[0]
    ctx.mark_non_differentiable(i, j, shift, row_ptr)
    ctx.save_for_backward(i, j, distance, vector)


def _backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
    """By operations that are differentiable themselves; a distance of 0 has derivative 0."""
    i, j, distance, vector = ctx.saved_tensors
    by_distance, by_vector = grads[:2]
    there = (distance > 0) & (i >= 0)  # neither padding nor atoms at one point
    along = vector / torch.where(there, distance, 1.0)[:, None]
    pull = by_vector + torch.where(there, by_distance, 0.0)[:, None] * along
    pull = torch.where((i >= 0)[:, None], pull, 0.0)
    zeros = vector.new_zeros((ctx.atoms, vector.shape[1]))
    if ctx.atoms == 0:
        return zeros, *(None,) * 7
    to, at = i.clamp(min=0), j.clamp(min=0)
    return zeros.index_add(0, at, pull) - zeros.index_add(0, to, pull), *(None,) * 7


torch.library.register_autograd("gmkern::neighbor_list", _backward, setup_context=_setup)
