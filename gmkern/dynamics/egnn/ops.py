"""The compiled ops ``gmkern::egnn_layer`` and ``..._backward``: fake kernels and derivatives.

The first derivatives are a compiled sweep that computes the messages again, so that no edge is ever kept; further ones
are the reference's, in plain PyTorch, with memory for all pairs, and read system_ptr's values, so a compiled caller
cannot trace them.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gmkern._interrupt import audible
from gmkern._library import ops
from gmkern.dynamics.derivatives import starts
from gmkern.dynamics.egnn import reference
from gmkern.dynamics.systems import padded_index

egnn_layer = audible(ops.egnn_layer.default)
egnn_layer_backward = audible(ops.egnn_layer_backward.default)


@torch.library.register_fake("gmkern::egnn_layer")
def _(
    positions: Tensor,
    features: Tensor,
    weights: Tensor,
    system_ptr: Tensor,
    cell: Tensor,
    inverse: Tensor,
    moves: bool,
    cutoff: float,
    neighbors: float,
) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(positions), torch.empty_like(features), torch.empty_like(features)


@torch.library.register_fake("gmkern::egnn_layer_backward")
def _(
    positions: Tensor,
    features: Tensor,
    weights: Tensor,
    system_ptr: Tensor,
    cell: Tensor,
    inverse: Tensor,
    moves: bool,
    cutoff: float,
    neighbors: float,
    sums: Tensor,
    grad_positions: Tensor,
    grad_features: Tensor,
    with_weights: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    by_weights = weights.new_empty(weights.shape[0] if with_weights else 0)
    return torch.empty_like(positions), torch.empty_like(features), by_weights


@torch.library.register_kernel("gmkern::egnn_layer", "cuda")
def _(*args: Any) -> tuple[Tensor, Tensor, Tensor]:
    from gmkern.dynamics.egnn import triton_kernels  # Triton is optional, and slow to import

    return triton_kernels.egnn_layer(*args)


@torch.library.register_kernel("gmkern::egnn_layer_backward", "cuda")
def _(*args: Any) -> tuple[Tensor, Tensor, Tensor]:
    from gmkern.dynamics.egnn import triton_adjoint

    return triton_adjoint.egnn_layer_backward(*args)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    positions, features, weights, system_ptr, cell, inverse, *ctx.settings = inputs
    ctx.save_for_backward(positions, features, weights, system_ptr, cell, inverse, output[2])
    ctx.mark_non_differentiable(output[2])
    ctx.set_materialize_grads(False)


def _backward(
    ctx: Any, by_positions: Tensor | None, by_features: Tensor | None, by_sums: Tensor | None
) -> tuple[Tensor | None, ...]:
    positions, features, weights, system_ptr, cell, inverse, sums = ctx.saved_tensors
    if by_positions is None and by_features is None:
        return (None,) * 9
    by_positions = torch.zeros_like(positions) if by_positions is None else by_positions.contiguous()
    by_features = torch.zeros_like(features) if by_features is None else by_features.contiguous()
    x, h, w = egnn_layer_backward(
        positions, features, weights, system_ptr, cell, inverse, *ctx.settings, sums, by_positions, by_features,
        ctx.needs_input_grad[2],
    )  # fmt: skip
    return x, h, w if ctx.needs_input_grad[2] else None, *(None,) * 6


def _setup_second(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    (positions, features, weights, system_ptr, cell, inverse, *ctx.settings, _, by_positions, by_features,
     ctx.with_weights) = inputs  # fmt: skip
    ctx.save_for_backward(positions, features, weights, by_positions, by_features, system_ptr, cell, inverse)


def _backward_second(ctx: Any, in_x: Tensor, in_h: Tensor, in_w: Tensor) -> tuple[Tensor | None, ...]:
    """The gradient of sum(in_x * gx) + sum(in_h * gh) + sum(in_w * gw), those being what the backward op gives, in
    positions, features, weights and the two gradients it takes: by the reference. The sums of messages it is handed
    are functions of the first three, and the gradient through them is in theirs."""
    *differentiable, system_ptr, cell, inverse = ctx.saved_tensors
    moves, cutoff, neighbors = ctx.settings
    rows, inside = padded_index(system_ptr)
    again_differentiable = torch.is_grad_enabled()
    x, h, w, by_x, by_h = starts(*differentiable)
    with torch.enable_grad():
        padded = [torch.where(inside[..., None], t[rows], t.new_zeros(())) for t in (x, h)]
        own = reference.unpacked(w, h.shape[1], moves)
        to_x, to_h = reference.egnn_layer(padded[0], padded[1], own, inside, cell, inverse, cutoff, neighbors)
        total = (to_x[inside] * by_x).sum() + (to_h[inside] * by_h).sum()
        first = torch.autograd.grad(total, (x, h, w), create_graph=True, allow_unused=True, materialize_grads=True)
        again = (first[0] * in_x).sum() + (first[1] * in_h).sum()
        if ctx.with_weights:
            again = again + (first[2] * in_w).sum()
        second = torch.autograd.grad(
            again, (x, h, w, by_x, by_h), create_graph=again_differentiable, allow_unused=True, materialize_grads=True
        )
    return *second[:3], *(None,) * 7, *second[3:], None


torch.library.register_autograd("gmkern::egnn_layer", _backward, setup_context=_setup)
torch.library.register_autograd("gmkern::egnn_layer_backward", _backward_second, setup_context=_setup_second)
