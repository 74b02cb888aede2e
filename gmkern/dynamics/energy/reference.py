"""Energies and forces in plain PyTorch: all pairs of a padded batch at once, any dimension, differentiable in
everything."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

LENNARD_JONES, HARMONIC = 0, 1  # gmkern/dynamics/fields.py


def energy_and_forces(
    x: Tensor, mask: Tensor, kinds: Sequence[int], parameters: Tensor, cell: Tensor, inverse: Tensor
) -> tuple[Tensor, Tensor]:
    """Energy [S] and forces [S, N, D] of positions x [S, N, D] whose rows outside ``mask`` [S, N] are no atoms.

    ``parameters`` is the float64 vector of the terms' parameters (fields.packed), ``cell`` and ``inverse`` a
    systems.Box. Forces are written out, not taken by autograd, so that they carry a graph of their own.
    """
    zero = torch.zeros((), dtype=x.dtype, device=x.device)
    energy = x.new_zeros(x.shape[0])
    forces = torch.zeros_like(x)
    parameters = parameters.to(x.dtype)
    at = 0
    if LENNARD_JONES in kinds:
        # d[s, i, j] = x_i - x_j, r2 its square; outside the pairs r2 is 1, so that no gradient becomes NaN
        d = x[:, :, None, :] - x[:, None, :, :]
        if cell.shape[0]:
            images = torch.round(d.detach() @ inverse.to(x.dtype)[:, None])
            d = d - images @ cell.to(x.dtype)[:, None]
        pairs = mask[:, :, None] & mask[:, None, :] & ~torch.eye(x.shape[1], dtype=torch.bool, device=x.device)
        r2 = torch.where(pairs, (d * d).sum(-1), torch.ones_like(zero))
    for kind in kinds:
        if kind == LENNARD_JONES:
            epsilon, sigma, cutoff, taken = parameters[at : at + 4].unbind()
            at += 4
            s2 = sigma * sigma / r2
            s6 = s2 * s2 * s2
            inside = pairs & ~(r2 >= cutoff.detach() * cutoff.detach())  # a NaN distance stays in
            pair_energy = torch.where(inside, 4.0 * epsilon * s6 * (s6 - 1.0) - taken, zero)
            pull = torch.where(inside, 24.0 * epsilon * s6 * (2.0 * s6 - 1.0) / r2, zero)
            energy = energy + 0.5 * pair_energy.sum((1, 2))
            forces = forces + (pull[..., None] * d).sum(2)
        elif kind == HARMONIC:
            k, center = parameters[at], parameters[at + 1 : at + 1 + x.shape[-1]]
            at += 1 + x.shape[-1]
            away = torch.where(mask[..., None], x - center, zero)
            energy = energy + 0.5 * k * (away * away).sum((1, 2))
            forces = forces - k * away
        else:
            raise ValueError(f"kinds: got {kind}; takes {LENNARD_JONES} or {HARMONIC}")
    return energy, forces
