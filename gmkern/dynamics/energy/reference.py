"""Energies and forces in plain PyTorch: all pairs of a padded batch at once, any dimension, differentiable in
everything."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from gmkern.dynamics.reference import nearest_image

# gmkern/dynamics/fields/terms.py
LENNARD_JONES, HARMONIC, MORSE, COULOMB, SOFT_SPHERE, DOUBLE_WELL, BONDS, LEARNED, NODES = range(9)
_PAIR_PARAMETERS = 6


def energy_and_forces(
    x: Tensor,
    mask: Tensor,
    types: Tensor | None,
    kinds: Sequence[int],
    sizes: Sequence[int],
    parameters: Tensor,
    cell: Tensor,
    inverse: Tensor,
) -> tuple[Tensor, Tensor]:
    """Energy [S] and forces [S, N, D] of positions x [S, N, D] whose rows outside ``mask`` [S, N] are no atoms.

    ``parameters`` is the float64 vector of the terms' parameters and ``sizes`` how many each has (fields.packed),
    ``types`` [S, N] or None, ``cell`` and ``inverse`` a systems.Box. Forces are written out, not taken by autograd, so
    that they carry a graph of their own.
    """
    zero = torch.zeros((), dtype=x.dtype, device=x.device)
    energy = x.new_zeros(x.shape[0])
    forces = torch.zeros_like(x)
    terms = list(zip(kinds, parameters.to(x.dtype).split(list(sizes)), strict=True))
    if any(kind not in (HARMONIC, BONDS) for kind in kinds):
        # d[s, i, j] = x_i - x_j, r2 its square; outside the pairs r2 is 1, so that no gradient becomes NaN
        d = nearest_image(x[:, :, None, :] - x[:, None, :, :], cell, inverse)
        pairs = mask[:, :, None] & mask[:, None, :] & ~torch.eye(x.shape[1], dtype=torch.bool, device=x.device)
        r2 = torch.where(pairs, (d * d).sum(-1), torch.ones_like(zero))
    for at, (kind, own) in enumerate(terms):
        if kind == HARMONIC:
            table = own.reshape(-1, 1 + x.shape[-1])
            each = table[0] if table.shape[0] == 1 or types is None else table[types]  # [1 + D] or [S, N, 1 + D]
            k = each[..., :1]
            away = torch.where(mask[..., None], x - each[..., 1:], zero)
            energy = energy + (0.5 * k * (away * away)).sum((1, 2))
            forces = forces - k * away
        elif kind == BONDS:
            bonds = own.reshape(-1, 4)
            i, j = bonds[:, 0].long(), bonds[:, 1].long()
            bond = nearest_image(x[:, i] - x[:, j], cell, inverse)
            k, length = bonds[:, 2], bonds[:, 3]
            square = (bond * bond).sum(-1)  # [S, B]
            stiff = length != 0  # a spring has no root to differentiate at 0
            r = torch.sqrt(torch.where(stiff, square, torch.ones_like(square)))
            stretch = torch.where(stiff, (r - length) ** 2, square)
            pull = -k * torch.where(stiff, 1.0 - length / r, torch.ones_like(r))
            energy = energy + (0.5 * k * stretch).sum(1)
            forces = forces.index_add(1, i, pull[..., None] * bond).index_add(1, j, -pull[..., None] * bond)
        elif kind != NODES:
            table = own.reshape(-1, _PAIR_PARAMETERS)
            if table.shape[0] == 1 or types is None:
                p = table[0].unbind()
            else:
                count = round(table.shape[0] ** 0.5)
                p = table[types[:, :, None] * count + types[:, None, :]].unbind(-1)  # each [S, N, N]
            inside = pairs & ~(r2 >= p[4].detach() * p[4].detach())  # a NaN distance stays in
            square = torch.where(inside, r2, torch.ones_like(r2))
            pair_energy, pull = _spline(p, terms[at + 1][1], square) if kind == LEARNED else _pair(kind, p, square)
            pair_energy = torch.where(square == 0, torch.nan, pair_energy)  # without a direction, as their forces
            energy = energy + 0.5 * torch.where(inside, pair_energy - p[5], zero).sum((1, 2))
            forces = forces + (torch.where(inside, pull, zero)[..., None] * d).sum(2)
    return energy, forces


def _pair(kind: int, p: Sequence[Tensor], r2: Tensor) -> tuple[Tensor, Tensor]:
    """The energy of pairs at squared distances r2, and minus its derivative in r over r."""
    if kind == LENNARD_JONES:
        s2 = p[1] * p[1] / r2
        s6 = s2 * s2 * s2
        return 4.0 * p[0] * s6 * (s6 - 1.0), 24.0 * p[0] * s6 * (2.0 * s6 - 1.0) / r2
    r = torch.sqrt(r2)
    if kind == MORSE:
        e = torch.exp(-p[1] * (r - p[2]))
        return p[0] * e * (e - 2.0), -2.0 * p[1] * p[0] * e * (1.0 - e) / r
    if kind == COULOMB:
        return p[0] * (1.0 / r + p[1] * r2), p[0] * (1.0 / (r2 * r) - 2.0 * p[1])
    if kind == SOFT_SPHERE:
        n = p[2].detach()
        w = torch.clamp(1.0 - r / p[1], min=1e-30)  # beyond it only by rounding
        return p[0] / n * w**n, p[0] / p[1] * w ** (n - 1.0) / r
    if kind == DOUBLE_WELL:
        y = r - p[3]
        return (p[0] * y + p[1] * y**2 + p[2] * y**4), -(p[0] + 2.0 * p[1] * y + 4.0 * p[2] * y**3) / r
    raise ValueError(f"kinds: got {kind}; takes 0 to {BONDS}")


def _spline(p: Sequence[Tensor], nodes: Tensor, r2: Tensor) -> tuple[Tensor, Tensor]:
    """As ``_pair``, of a learnt term."""
    first, intervals, begin, scale = (q.detach() for q in p[:4])
    r = torch.sqrt(r2)
    s = (r - begin) * scale
    interval = torch.minimum(torch.floor(s.detach()).clamp(min=0.0), intervals - 1.0)
    t = s - interval
    c = nodes[(first + 6.0 * interval).long()[..., None] + torch.arange(6, device=r2.device)].unbind(-1)
    energy, slope = c[5], torch.zeros_like(c[5])
    for k in range(4, -1, -1):
        slope = slope * t + energy
        energy = energy * t + c[k]
    return energy, -slope * scale / r
