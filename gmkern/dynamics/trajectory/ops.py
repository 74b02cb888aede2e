"""The compiled ops ``gmkern::simulate`` and ``gmkern::path_log_prob``: fake kernels, and the refusal to be
differentiated."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gmkern._library import ops

simulate = ops.simulate.default
path_log_prob = ops.path_log_prob.default


@torch.library.register_fake("gmkern::simulate")
def _(
    positions: Tensor,
    velocities: Tensor,
    inverse_masses: Tensor,
    system_ptr: Tensor,
    kinds: list[int],
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
    kinds: list[int],
    parameters: Tensor,
    cell: Tensor,
    inverse: Tensor,
    coefficients: Tensor,
    log_probs: Tensor,
    backward: int,
    pin: Tensor,
) -> Tensor:
    return torch.empty_like(log_probs)


def _backward(ctx: Any, *grads: Tensor) -> None:
    raise RuntimeError('simulate: the compiled trajectory has no gradient; backend="reference" has')


torch.library.register_autograd("gmkern::simulate", _backward)
torch.library.register_autograd("gmkern::path_log_prob", _backward)
