"""The op ``gmkern::draw_sets``: its fake kernel, and the gradient of points, which are rows of the training set."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gmkern._interrupt import audible
from gmkern._library import ops

draw_sets = audible(ops.draw_sets.default)
MOST_ON_TRITON = 1024  # points of a set, whose moves stand in registers


@torch.library.register_fake("gmkern::draw_sets")
def _(train: Tensor, seed: Tensor, sample_ids: Tensor, size: int) -> tuple[Tensor, Tensor]:
    indices = sample_ids.new_empty((sample_ids.shape[0], size))
    return train.new_empty((sample_ids.shape[0], size, *train.shape[1:])), indices


@torch.library.register_kernel("gmkern::draw_sets", "cuda")
def _(*args: Any) -> tuple[Tensor, Tensor]:
    from gmkern.context.draw import triton_kernels  # Triton is optional, and slow to import

    return triton_kernels.draw_sets(*args)


def _context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    _, indices = output
    ctx.mark_non_differentiable(indices)
    ctx.save_for_backward(indices)
    ctx.count = inputs[0].shape[0]


def _backward(ctx: Any, grad: Tensor, _: Tensor | None) -> tuple[Tensor, None, None, None]:
    (indices,) = ctx.saved_tensors
    rows = grad.flatten(0, 1)
    zeros = rows.new_zeros((ctx.count, *rows.shape[1:]))
    # one order of sums: on a CPU that of the sets, then of the places in a set; on a GPU PyTorch sorts by index
    return zeros.index_put((indices.flatten(),), rows, accumulate=True), None, None, None


torch.library.register_autograd("gmkern::draw_sets", _backward, setup_context=_context)
