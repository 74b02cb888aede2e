"""The compiled ops ``gmkern::euler_maruyama_step`` and ``gmkern::gaussian_log_prob``: update, noise and log-probability
around a drift that a module computes, each in one pass. Fake kernels, and gradients in plain PyTorch, of any order."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gmkern import _validate
from gmkern._interrupt import audible
from gmkern._library import ops
from gmkern.dynamics.trajectory.densities import gaussians
from gmkern.dynamics.trajectory.reference import Kernels

euler_maruyama_step = audible(ops.euler_maruyama_step.default)
gaussian_log_prob = audible(ops.gaussian_log_prob.default)


def kernels_of(op: str, seeds: Tensor, ids: Tensor) -> Kernels:
    """Kernels for ``reference.advance`` that draw the noise of these seeds and sample ids."""

    def move(x: Tensor, drift: Tensor, dt: Tensor, scale: Tensor, step: int) -> Tensor:
        _validate.no_tangents(op, x, drift)
        number = torch.tensor(step, dtype=torch.int64)
        moved = euler_maruyama_step(_rows(x), _rows(drift), _coefficients(dt, scale), seeds, ids, number)
        return moved.reshape(x.shape)

    def log(
        to: Tensor,
        start: Tensor,
        keep: Tensor | None,
        drift: Tensor | None,
        dt: Tensor,
        scale: Tensor,
        over: Tensor,
        pin: Tensor | None = None,
    ) -> Tensor:
        if keep is not None or pin is not None:
            return gaussians(to, start, keep, drift, dt, scale, over, pin)
        _validate.no_tangents(op, to, start, *([] if drift is None else [drift]))
        there = to.new_empty(0, _rows(to).shape[1]) if drift is None else _rows(drift)
        return gaussian_log_prob(_rows(to), _rows(start), there, _coefficients(dt, scale))

    return Kernels(move, log)


def _rows(x: Tensor) -> Tensor:
    """[S, E] of [S, ...]."""
    return x.reshape(x.shape[0], x.shape[1:].numel()).contiguous()


def _coefficients(dt: Tensor, scale: Tensor) -> Tensor:
    """[1 | S, 2] of numbers that broadcast to positions [S, ...]."""
    return torch.stack(torch.broadcast_tensors(dt.reshape(-1), scale.reshape(-1)), 1).double()


@torch.library.register_fake("gmkern::euler_maruyama_step")
def _(x: Tensor, drift: Tensor, coefficients: Tensor, seed: Tensor, sample_ids: Tensor, step: Tensor) -> Tensor:
    return torch.empty_like(x)


@torch.library.register_fake("gmkern::gaussian_log_prob")
def _(to: Tensor, start: Tensor, drift: Tensor, coefficients: Tensor) -> Tensor:
    return to.new_empty(to.shape[0], dtype=torch.float64)


def _setup_step(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(inputs[2])


def _backward_step(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    (coefficients,) = ctx.saved_tensors
    return grad, grad * coefficients[:, :1].to(grad.dtype), None, None, None, None


def _setup_log(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _backward_log(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    to, start, drift, coefficients = ctx.saved_tensors
    dt, scale = (coefficients[:, k : k + 1].to(to.dtype).double() for k in (0, 1))  # as the kernel rounds them
    away = to.double() - start.double()
    drifts = drift.shape[0] == to.shape[0]
    if drifts:
        away = away - dt * drift.double()
    pull = grad[:, None] * away / (scale * scale)
    in_start = pull.to(to.dtype)
    return -in_start, in_start, (dt * pull).to(to.dtype) if drifts else None, None


torch.library.register_autograd("gmkern::euler_maruyama_step", _backward_step, setup_context=_setup_step)
torch.library.register_autograd("gmkern::gaussian_log_prob", _backward_log, setup_context=_setup_log)
