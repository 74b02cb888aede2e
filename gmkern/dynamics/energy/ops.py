"""The compiled ops ``gmkern::energy_and_forces`` and ``gmkern::hessian_times``: fake kernels and derivatives.

With gE [S] and gF [M, D] the gradients of energy and forces, the gradient of the positions is -gE F - H gF, H being the
energy's Hessian, which is what ``hessian_times`` applies. Its own derivative in the positions would need the third
derivatives of the potential: that raises.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gmkern._library import ops

energy_and_forces = ops.energy_and_forces.default
hessian_times = ops.hessian_times.default


@torch.library.register_fake("gmkern::energy_and_forces")
def _(
    positions: Tensor, system_ptr: Tensor, kinds: list[int], parameters: Tensor, cell: Tensor, inverse: Tensor
) -> tuple[Tensor, Tensor]:
    return positions.new_empty(system_ptr.shape[0] - 1), torch.empty_like(positions)


@torch.library.register_fake("gmkern::hessian_times")
def _(
    positions: Tensor,
    directions: Tensor,
    system_ptr: Tensor,
    kinds: list[int],
    parameters: Tensor,
    cell: Tensor,
    inverse: Tensor,
) -> Tensor:
    return torch.empty_like(positions)


def _setup_energy(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    positions, system_ptr, ctx.kinds, parameters, cell, inverse = inputs
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(positions, system_ptr, parameters, cell, inverse, output[1])


def _energy_backward(ctx: Any, grad_energy: Tensor | None, grad_forces: Tensor | None) -> tuple[Tensor | None, ...]:
    positions, system_ptr, parameters, cell, inverse, forces = ctx.saved_tensors
    _refuse(ctx.needs_input_grad[3], "parameters")
    grad = None
    if grad_energy is not None:
        sizes = system_ptr[1:] - system_ptr[:-1]
        each = torch.repeat_interleave(grad_energy, sizes, output_size=positions.shape[0])
        grad = -each[:, None] * forces
    if grad_forces is not None:
        pull = -hessian_times(positions, grad_forces.contiguous(), system_ptr, ctx.kinds, parameters, cell, inverse)
        grad = pull if grad is None else grad + pull
    return grad, None, None, None, None, None


def _setup_hessian(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    positions, _, system_ptr, ctx.kinds, parameters, cell, inverse = inputs
    ctx.save_for_backward(positions, system_ptr, parameters, cell, inverse)


def _hessian_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    positions, system_ptr, parameters, cell, inverse = ctx.saved_tensors
    _refuse(ctx.needs_input_grad[4], "parameters")
    _refuse(ctx.needs_input_grad[0], "positions (third derivatives of a potential)")
    directions = None
    if ctx.needs_input_grad[1]:  # the Hessian is symmetric
        directions = hessian_times(positions, grad.contiguous(), system_ptr, ctx.kinds, parameters, cell, inverse)
    return None, directions, None, None, None, None, None


def _refuse(wanted: bool, what: str) -> None:
    if wanted:
        raise RuntimeError(f'energy_and_forces: backend "cpu" has no gradient in {what}; backend="reference" has')


torch.library.register_autograd("gmkern::energy_and_forces", _energy_backward, setup_context=_setup_energy)
torch.library.register_autograd("gmkern::hessian_times", _hessian_backward, setup_context=_setup_hessian)
