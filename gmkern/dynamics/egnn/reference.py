"""One layer of an equivariant graph network in plain PyTorch: all pairs of a padded batch at once, differentiable
without limit."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import linear, silu

from gmkern.dynamics.reference import nearest_image


class Weights(NamedTuple):
    """The linear layers of one layer, as csrc/dynamics/register.cpp has them one after another."""

    message_in: Tensor  # [H, 2 H + 1]: features of i, of j, squared distance
    message_in_bias: Tensor
    message_out: Tensor  # [H, H]
    message_out_bias: Tensor
    update_in: Tensor  # [H, 2 H]: features, sum of messages
    update_in_bias: Tensor
    update_out: Tensor  # [H, H]
    update_out_bias: Tensor
    move_in: Tensor | None = None  # [H, H]
    move_in_bias: Tensor | None = None
    move_out: Tensor | None = None  # [1, H]


def shapes(width: int, moves: bool) -> list[tuple[int, ...]]:
    """Of the fields of ``Weights``."""
    h = width
    kept: list[tuple[int, ...]] = [(h, 2 * h + 1), (h,), (h, h), (h,), (h, 2 * h), (h,), (h, h), (h,)]
    return [*kept, (h, h), (h,), (1, h)] if moves else kept


def unpacked(weights: Tensor, width: int, moves: bool) -> Weights:
    """The layers that lie one after another in ``weights``."""
    own = shapes(width, moves)
    sizes = [torch.Size(shape).numel() for shape in own]
    parts = [part.reshape(shape) for part, shape in zip(weights.split(sizes), own, strict=True)]
    return Weights(*parts)


def egnn_layer(
    x: Tensor,
    h: Tensor,
    w: Weights,
    mask: Tensor,
    cell: Tensor,
    inverse: Tensor,
    cutoff: float,
    neighbors: float,
) -> tuple[Tensor, Tensor]:
    """Positions x [S, N, D] and features h [S, N, H] after the layer; rows outside ``mask`` [S, N] are no atoms."""
    zero = torch.zeros((), dtype=x.dtype, device=x.device)
    width = h.shape[-1]
    r = nearest_image(x[:, :, None, :] - x[:, None, :, :], cell, inverse)  # [S, N, N, D]: x_i - x_j
    square = (r * r).sum(-1)
    pairs = mask[:, :, None] & mask[:, None, :] & ~torch.eye(x.shape[1], dtype=torch.bool, device=x.device)
    pairs = pairs & ~(square.detach() >= cutoff * cutoff)  # a NaN distance stays in
    square = torch.where(pairs, square, zero)
    weight = torch.where(pairs, (1.0 - square / cutoff**2) ** 3, zero)
    of_i, of_j, of_square = w.message_in.split([width, width, 1], 1)
    first = linear(h, of_i, w.message_in_bias)[:, :, None] + linear(h, of_j)[:, None]
    message = silu(first + square[..., None] * of_square[:, 0])
    message = silu(linear(message, w.message_out, w.message_out_bias))  # [S, N, N, H]
    sums = (weight[..., None] * message).sum(2) / neighbors
    if w.move_out is not None:
        assert w.move_in is not None
        out = linear(silu(linear(message, w.move_in, w.move_in_bias)), w.move_out)[..., 0]
        apart = square > 0
        length = torch.where(apart, torch.sqrt(torch.where(apart, square, torch.ones_like(square))), zero)
        x = x + ((weight * out / (1.0 + length))[..., None] * r).sum(2) / neighbors
    update = silu(linear(torch.cat([h, sums], -1), w.update_in, w.update_in_bias))
    return x, h + linear(update, w.update_out, w.update_out_bias)
