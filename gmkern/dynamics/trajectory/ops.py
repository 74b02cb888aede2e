"""The compiled ops ``gmkern::simulate`` and ``gmkern::path_log_prob``: fake kernels, and the gradient of the second."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from gmkern._interrupt import audible
from gmkern._library import ops
from gmkern.dynamics.energy.ops import energy_and_forces
from gmkern.dynamics.trajectory.densities import BRIDGE, BROWNIAN, REVERSED, SAME_DRIFT

_MOST_ELEMENTS = 1 << 22  # of positions, whose forces are differentiated at once

simulate = audible(ops.simulate.default)
path_log_prob = audible(ops.path_log_prob.default)


@torch.library.register_fake("gmkern::simulate")
def _(
    positions: Tensor,
    velocities: Tensor,
    inverse_masses: Tensor,
    system_ptr: Tensor,
    types: Tensor,
    kinds: list[int],
    sizes: list[int],
    parameters: Tensor,
    cell: Tensor,
    inverse: Tensor,
    integrator: int,
    coefficients: Tensor,
    seed: Tensor,
    sample_ids: Tensor,
    step: Tensor,
    steps: int,
    record_every: int,
    phase: int,
    largest: int,
    log_probs: Tensor,
    backward: int,
    pin: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    frames = 0 if record_every == 0 else (phase + steps) // record_every - phase // record_every
    return (
        torch.empty_like(positions),
        torch.empty_like(positions),
        positions.new_empty((frames, *positions.shape)),
        positions.new_empty((frames, system_ptr.shape[0] - 1)),
        torch.empty_like(log_probs),
    )


@torch.library.register_fake("gmkern::path_log_prob")
def _(
    frames: Tensor,
    system_ptr: Tensor,
    types: Tensor,
    kinds: list[int],
    sizes: list[int],
    parameters: Tensor,
    cell: Tensor,
    inverse: Tensor,
    coefficients: Tensor,
    largest: int,
    log_probs: Tensor,
    backward: int,
    pin: Tensor,
) -> Tensor:
    return torch.empty_like(log_probs)


def _refuse(ctx: Any, *grads: Tensor) -> None:
    raise RuntimeError(
        "simulate: the op itself has no gradient; gmkern.dynamics.simulate has, by a loop around the compiled forces"
    )


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    frames, system_ptr, types, ctx.kinds, ctx.sizes, parameters, cell, inverse, coefficients = inputs[:9]
    ctx.backward, pin = inputs[11:]
    ctx.save_for_backward(frames, system_ptr, types, parameters, cell, inverse, coefficients, pin)


@once_differentiable  # type: ignore[misc]
def _path_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    """By autograd of the densities, the forces of many frames at once being one call of the compiled op."""
    frames, system_ptr, types, parameters, cell, inverse, coefficients, pin = ctx.saved_tensors
    count, atoms, dim = frames.shape
    systems = system_ptr.shape[0] - 1
    sizes = system_ptr[1:] - system_ptr[:-1]
    owner = torch.repeat_interleave(torch.arange(systems, device=frames.device), sizes, output_size=atoms)
    by_forward, by_backward = (g[owner][:, None] for g in grad)  # [M, 1]
    sums = [torch.zeros_like(t) for t in (frames, parameters, pin)]
    length = max(1, _MOST_ELEMENTS // max(1, atoms * dim))
    for first in range(0, count - 1, length):
        last = min(first + length, count - 1)
        with torch.enable_grad():
            x, p, start = (t.detach().requires_grad_() for t in (frames[first : last + 1], parameters, pin))
            here = last + 1 - first
            offsets = (system_ptr[:-1] + atoms * torch.arange(here, device=frames.device)[:, None]).reshape(-1)
            forces = energy_and_forces(
                x.reshape(-1, dim), torch.cat([offsets, offsets.new_tensor([atoms * here])]), types.repeat(here),
                ctx.kinds, ctx.sizes, p, *(b.repeat(here, 1, 1) if b.shape[0] > 1 else b for b in (cell, inverse)),
            )[1].reshape(here, atoms, dim).double()  # fmt: skip
            rows = coefficients if coefficients.shape[0] == 1 else coefficients[first:last]
            rows = rows if rows.shape[1] == 1 else rows[:, owner]  # [1 | steps, 1 | M, 5]
            dt, noise, ratio = rows[..., 0:1], rows[..., 3:4], rows[..., 4:5]
            scale = (noise * torch.sqrt(dt)).to(x.dtype).double()
            dt = dt.to(x.dtype).double()
            wide = x.double()
            before, after = wide[:-1], wide[1:]
            z = (after - before - dt * forces[:-1]) / scale
            total = -0.5 * (by_forward * z * z).sum()
            if ctx.backward == BRIDGE:
                there = ratio > 0
                root = torch.sqrt(torch.where(there, ratio, torch.ones_like(ratio)))
                z = torch.where(there, before - start.double() - ratio * (after - start.double()), 0.0) / (scale * root)
            else:
                sign = {SAME_DRIFT: 1.0, REVERSED: -1.0, BROWNIAN: 0.0}[ctx.backward]
                z = (before - after - sign * dt * forces[1:]) / scale
            total = total - 0.5 * (by_backward * z * z).sum()
        grads = torch.autograd.grad(total, (x, p, start), allow_unused=True, materialize_grads=True)
        sums[0][first : last + 1] += grads[0]
        sums[1] += grads[1]
        sums[2] += grads[2]
    need = ctx.needs_input_grad
    kept = {0: sums[0], 5: sums[1], 10: grad, 12: sums[2]}
    return tuple(kept[i] if i in kept and need[i] else None for i in range(13))


torch.library.register_autograd("gmkern::simulate", _refuse)
torch.library.register_autograd("gmkern::path_log_prob", _path_backward, setup_context=_setup)
