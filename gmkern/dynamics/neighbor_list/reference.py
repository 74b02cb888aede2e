"""Neighbour lists in plain PyTorch: every pair and every image, one system after another."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from gmkern._exact import sqrt as exact_sqrt

List = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]


def neighbor_list(
    positions: Tensor,
    system_ptr: Tensor,
    cell: Tensor,
    fractions: Tensor,
    repeats: Sequence[int],
    cutoff: float,
    half: bool,
    capacity: int,
) -> List:
    """As ``gmkern::neighbor_list``: (distance, vector, i, j, shift, row_ptr)."""
    parts = []
    for s in range(system_ptr.shape[0] - 1):
        begin, end = int(system_ptr[s]), int(system_ptr[s + 1])
        frame = 0 if cell.shape[0] == 1 else s
        i, j, shift = _one(positions[begin:end].detach(), cell[frame], fractions[frame], repeats, cutoff, half)
        parts.append((i + begin, j + begin, shift, torch.full_like(i, frame)))
    dim, device = positions.shape[1], positions.device
    empty = torch.empty(0, dtype=torch.int64, device=device)
    i, j, shift, owner = (
        torch.cat(p) for p in zip((empty, empty, empty.new_empty(0, dim), empty), *parts, strict=True)
    )
    vector = vectors(positions[i], positions[j], shift, cell[owner])
    distance = roots(squares(vector))
    rows = torch.bincount(i, minlength=positions.shape[0]).cumsum(0)
    row_ptr = torch.cat([torch.zeros_like(empty.new_empty(1)), rows])
    out = (distance.to(positions.dtype), vector.to(positions.dtype), i, j, shift.to(torch.int32))
    if capacity < 0:
        return (*out, row_ptr)
    kept = i.shape[0] if i.shape[0] <= capacity else 0
    padded = []
    for part, fill in zip(out, (float("inf"), 0.0, -1, -1, 0), strict=True):
        rest = torch.full((capacity - kept, *part.shape[1:]), fill, dtype=part.dtype, device=device)
        padded.append(torch.cat([part[:kept], rest]))
    return (*padded, row_ptr)  # type: ignore[return-value]


def vectors(a: Tensor, b: Tensor, shift: Tensor, cell: Tensor) -> Tensor:
    """b + shift . cell - a, [P, D] float64; cell [1 | P, D, D]. In the order of operations of csrc/dynamics/cells.h."""
    shifts = [shift[:, k : k + 1].double() * cell[:, k] for k in range(cell.shape[-2])]
    return (b.double() - a.double()) + sum(shifts[1:], shifts[0])


def squares(vector: Tensor) -> Tensor:
    """[P] squared lengths, summed in the order of the axes."""
    parts = [v * v for v in vector.unbind(-1)]
    return sum(parts[1:], parts[0])


def roots(square: Tensor) -> Tensor:
    """Lengths, rounded to the nearest; with derivative 0 at 0."""
    there = square > 0
    safe = torch.where(there, square, 1.0)
    root = torch.sqrt(safe)
    root = root + (exact_sqrt(safe.detach()) - root.detach())  # the derivatives of a root, and its exact value
    return torch.where(there, root, 0.0)


def _one(
    x: Tensor, cell: Tensor, fractions: Tensor, repeats: Sequence[int], cutoff: float, half: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Pairs and shifts of one system, in order."""
    x = x.double()
    count, dim = x.shape
    turns = torch.floor(x @ fractions.T) * torch.tensor(repeats, dtype=x.dtype, device=x.device)
    # two atoms within the box differ by less than one length: an image further off than this is beyond the cutoff
    lengths = torch.linalg.vector_norm(fractions, dim=1).tolist()
    most = [int(cutoff * f) + 2 if repeat else 0 for f, repeat in zip(lengths, repeats, strict=True)]
    images = torch.cartesian_prod(*[torch.arange(-m, m + 1, device=x.device) for m in most]).reshape(-1, dim)
    found = []
    for i in range(count):
        seen = images[None] + (turns[i] - turns).long()[:, None]  # [N, images, D]
        j = torch.arange(count, device=x.device)[:, None].expand(count, images.shape[0]).reshape(-1)
        seen = seen.reshape(-1, dim)
        vector = vectors(x[i], x[j], seen, cell[None])
        same = (j == i) & (seen == 0).all(1)
        keep = squares(vector) < cutoff * cutoff
        keep &= ~same
        if half:
            nonzero = seen != 0
            first = seen.gather(1, nonzero.int().argmax(1, keepdim=True))[:, 0]
            keep &= (i < j) | ((j == i) & (first > 0))
        found.append((torch.full_like(j[keep], i), j[keep], seen[keep]))
    if not found:
        none = torch.empty(0, dtype=torch.int64, device=x.device)
        return none, none, none.new_empty(0, dim)
    i_all, j_all, shift = (torch.cat(part) for part in zip(*found, strict=True))
    return i_all, j_all, shift  # images rise lexicographically, and j before them
