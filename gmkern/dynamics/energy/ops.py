"""The compiled ops ``gmkern::energy_and_forces`` and ``..._backward``: fake kernels and derivatives.

With gE [S] and gF [M, D] the gradients of energy and forces, the gradient of the positions is -gE F - H gF, H being the
energy's Hessian, and that of the parameters is gE dE/dp + gF dF/dp: one more sweep over the pairs gives both. Their own
derivatives contain the potential's third, and are the reference's, in plain PyTorch; they read system_ptr's values, so
a compiled caller cannot trace them.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gmkern._interrupt import audible
from gmkern._library import ops
from gmkern.dynamics.derivatives import starts
from gmkern.dynamics.energy import reference
from gmkern.dynamics.systems import padded_index

energy_and_forces = audible(ops.energy_and_forces.default)
energy_and_forces_backward = audible(ops.energy_and_forces_backward.default)


@torch.library.register_fake("gmkern::energy_and_forces")
def _(
    positions: Tensor,
    system_ptr: Tensor,
    types: Tensor,
    kinds: list[int],
    sizes: list[int],
    parameters: Tensor,
    cell: Tensor,
    inverse: Tensor,
) -> tuple[Tensor, Tensor]:
    return positions.new_empty(system_ptr.shape[0] - 1), torch.empty_like(positions)


@torch.library.register_fake("gmkern::energy_and_forces_backward")
def _(
    positions: Tensor,
    grad_energy: Tensor,
    grad_forces: Tensor,
    system_ptr: Tensor,
    types: Tensor,
    kinds: list[int],
    sizes: list[int],
    parameters: Tensor,
    cell: Tensor,
    inverse: Tensor,
    with_parameters: bool,
) -> tuple[Tensor, Tensor]:
    return torch.empty_like(positions), torch.empty_like(parameters)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    positions, system_ptr, types, ctx.kinds, ctx.sizes, parameters, cell, inverse = inputs
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(positions, system_ptr, types, parameters, cell, inverse, output[1])


def _backward(ctx: Any, grad_energy: Tensor | None, grad_forces: Tensor | None) -> tuple[Tensor | None, ...]:
    positions, system_ptr, types, parameters, cell, inverse, forces = ctx.saved_tensors
    need_positions, need_parameters = ctx.needs_input_grad[0], ctx.needs_input_grad[5]
    if grad_forces is None and not need_parameters:
        if grad_energy is None:
            return (None,) * 8
        sizes = system_ptr[1:] - system_ptr[:-1]
        each = torch.repeat_interleave(grad_energy, sizes, output_size=positions.shape[0])
        return -each[:, None] * forces, *(None,) * 7
    if grad_energy is None:
        grad_energy = positions.new_zeros(system_ptr.shape[0] - 1)
    grad_forces = torch.zeros_like(positions) if grad_forces is None else grad_forces.contiguous()
    in_positions, in_parameters = energy_and_forces_backward(
        positions, grad_energy.contiguous(), grad_forces, system_ptr, types, ctx.kinds, ctx.sizes, parameters, cell,
        inverse, need_parameters,
    )  # fmt: skip
    return (
        in_positions if need_positions else None, None, None, None, None,
        in_parameters if need_parameters else None, None, None,
    )  # fmt: skip


def _double_backward(
    positions: Tensor,
    grad_energy: Tensor,
    grad_forces: Tensor,
    by_positions: Tensor,
    by_parameters: Tensor,
    system_ptr: Tensor,
    types: Tensor,
    kinds: list[int],
    sizes: list[int],
    parameters: Tensor,
    cell: Tensor,
    inverse: Tensor,
) -> tuple[Tensor, ...]:
    """The gradient of sum(by_positions * in_positions) + sum(by_parameters * in_parameters), the two being what
    ``energy_and_forces_backward`` gives, in positions, grad_energy, grad_forces and parameters: by the reference."""
    rows, inside = padded_index(system_ptr)
    again_differentiable = torch.is_grad_enabled()
    x, by_energy, by_forces, p = starts(positions, grad_energy, grad_forces, parameters)
    with torch.enable_grad():
        padded = torch.where(inside[..., None], x[rows], torch.zeros((), dtype=x.dtype, device=x.device))
        own = types[rows] if types.numel() else None
        energy, forces = reference.energy_and_forces(padded, inside, own, kinds, sizes, p, cell, inverse)
        total = (energy * by_energy).sum() + (forces[inside] * by_forces).sum()
        in_positions, in_parameters = torch.autograd.grad(
            total, (x, p), create_graph=True, allow_unused=True, materialize_grads=True
        )
        again = (in_positions * by_positions).sum() + (in_parameters * by_parameters).sum()
        wanted = (x, by_energy, by_forces, p)
        if not again.requires_grad:
            return tuple(torch.zeros_like(t) for t in wanted)
        return torch.autograd.grad(
            again, wanted, create_graph=again_differentiable, allow_unused=True, materialize_grads=True
        )


def _setup_second(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    positions, grad_energy, grad_forces, system_ptr, types, ctx.kinds, ctx.sizes, parameters, cell, inverse, _ = inputs
    ctx.save_for_backward(positions, grad_energy, grad_forces, system_ptr, types, parameters, cell, inverse)


def _backward_second(ctx: Any, by_positions: Tensor, by_parameters: Tensor) -> tuple[Tensor | None, ...]:
    positions, grad_energy, grad_forces, system_ptr, types, parameters, cell, inverse = ctx.saved_tensors
    in_positions, in_energy, in_forces, in_parameters = _double_backward(
        positions, grad_energy, grad_forces, by_positions.contiguous(), by_parameters.contiguous(), system_ptr, types,
        ctx.kinds, ctx.sizes, parameters, cell, inverse,
    )  # fmt: skip
    return in_positions, in_energy, in_forces, None, None, None, None, in_parameters, None, None, None


torch.library.register_autograd("gmkern::energy_and_forces", _backward, setup_context=_setup)
torch.library.register_autograd("gmkern::energy_and_forces_backward", _backward_second, setup_context=_setup_second)
