"""What searches and counts share around their kernels: when screening pays, what the host is told, rows done over."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from gmkern.neighbors.reference import captured, check_finite
from gmkern.neighbors.triton_distances import SKIPPED

# When it pays: thresholds by reckoning, not measured.
_LEAST_DIM = 9  # coordinates: below, differences cost what products do
_LEAST_REFERENCES, _LEAST_PAIRS = 4096, 1 << 22


def screening_pays(n: int, m: int, dim: int, least: int = 0) -> bool:
    """Whether products for n by m points are likely to be sooner than differences; ``least`` references are needed."""
    return dim >= _LEAST_DIM and m >= max(_LEAST_REFERENCES, least) and n * m >= _LEAST_PAIRS


def left_out(n: int, exclude_self: bool, device: torch.device) -> Tensor:
    """[n] int32: the reference that each row leaves out, or -1."""
    own = torch.arange(n, dtype=torch.int32, device=device)
    return own if exclude_self else torch.full_like(own, -1)


Direct = Callable[[int, Tensor | slice, Tensor], Sequence[Tensor]]
"""Of a batch, some of its rows and what each leaves out: [1, rows, ...] of all differences."""


def done_over(found: Sequence[Tensor], lost: Tensor, selves: Tensor, direct: Direct) -> None:
    """Gives the rows of ``found`` [B, N, ...] that are ``lost`` [B, N] what ``direct`` finds for them.

    The host reads which they are; while a graph is captured the search is of all rows, those that are not lost SKIPPED.
    """
    for b, mine in enumerate(lost):
        if captured(lost):
            again = direct(b, slice(None), torch.where(mine, selves, SKIPPED.value))
            for old, new in zip(found, again, strict=True):
                old[b] = torch.where(mine.view(-1, *[1] * (old.ndim - 2)), new[0], old[b])
        else:
            rows = mine.nonzero().squeeze(1)
            for old, new in zip(found, direct(b, rows, selves[rows]), strict=True):
                old[b, rows] = new[0]


def all_finite(*points: Tensor) -> Tensor:
    """[]: whether all are, told to the device alone: what a captured graph gives for others is made of it."""
    return torch.stack([torch.isfinite(one).all() for one in points]).all()


def read_flags(queries: Tensor, references: Tensor, *more: Tensor) -> list[bool]:
    """Waits for the device once: refuses points that are not finite, and returns what ``more`` say.

    Kernels were launched on the points before they were known to be finite; they end, and write nothing out of place.
    """
    flags = [torch.isfinite(queries).all(), torch.isfinite(references).all(), *more]
    finite_queries, finite_references, *rest = torch.stack(flags).tolist()
    if not finite_queries:
        check_finite("queries", queries)
    if not finite_references:
        check_finite("references", references)
    return rest
