"""The sliced Wasserstein distance: transport along random lines, where it is a matter of sorting."""

from __future__ import annotations

import torch
from torch import Tensor

from gmkern import _validate
from gmkern._validate import ArrayLike
from gmkern.metrics._samples import samples
from gmkern.neighbors._points import accumulated
from gmkern.random import PROJECTION, normal

_NUMBERS = 1 << 23  # of projections held at a time


def sliced_wasserstein(
    x: ArrayLike, y: ArrayLike, *, seed: int | Tensor, projections: int = 256, p: float = 2.0
) -> Tensor:
    """The p-Wasserstein distance of two sets projected onto random directions: the p-th root of the mean p-th power.

    Parameters
    ----------
    x, y : [N, D] and [M, D] of one dtype; float32, float64, bfloat16 or float16; finite. N and M may differ.
    seed : of the directions, by the noise contract: direction i is the normal noise of sample id i, step 0 and stream
        ``PROJECTION``, divided by its norm. More projections keep the first ones.
    projections : how many directions, at least 1. The error of the mean falls with their square root.
    p : at least 1.

    Returns
    -------
    Tensor [], float64 for float64 points, else float32. Differentiable in both sides; the gradient is 0 where the sets
    are equal.

    Raises
    ------
    TypeError, ValueError : naming the argument; NaN and infinities by their first position.

    Notes
    -----
    Along a line the distance is that of the quantile functions, which are steps: it is integrated exactly, also where N
    and M differ. Time (N + M) (D + log(N + M)) a direction; memory beyond the inputs some hundred MB.

    Source: Bonneel, Rabin, Peyré and Pfister, "Sliced and Radon Wasserstein Barycenters of Measures", 2015.

    Examples
    --------
    >>> import torch, gmkern
    >>> line = torch.arange(4.0)[:, None]
    >>> gmkern.metrics.sliced_wasserstein(line, line + 3, seed=0)  # on a line every direction is this one
    tensor(3.)
    """
    x = samples("x", x)
    y = samples("y", y, like=("x", x))
    projections = _validate.integer("projections", projections, low=1)
    p = _validate.number("p", p, low=1)
    wide = accumulated(x.dtype)
    x, y = x.to(wide), y.to(wide)
    first, second, widths = _steps(x.shape[0], y.shape[0], x.device)
    at_once = max(1, _NUMBERS // (x.shape[0] + y.shape[0]))
    powers = []
    for start in range(0, projections, at_once):
        ids = torch.arange(start, min(start + at_once, projections), device=x.device)
        directions = normal(seed, ids, 0, x.shape[1], stream=PROJECTION, dtype=wide, device=x.device)
        directions = directions / directions.norm(dim=1, keepdim=True)
        with torch.autocast(x.device.type, enabled=False):  # which would round the projections
            on_x, on_y = x @ directions.T, y @ directions.T
        off = on_x.sort(0).values[first] - on_y.sort(0).values[second]
        power = off.square() if p == 2 else off.abs() if p == 1 else off.abs().pow(p)
        powers.append(widths @ power.double())
        if powers[-1].requires_grad:
            powers[-1].register_hook(lambda grad: None)  # so that the backward pass, too, hears Ctrl-C between slices
    total = torch.cat(powers).mean()
    apart = total > 0
    return torch.where(apart, torch.where(apart, total, 1.0).pow(1 / p), 0.0).to(wide)


def _steps(n: int, m: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Intervals of (0, 1) on which the quantile functions of n and of m points are constant.

    Gives the rank in each set, and the width, of each interval: at most n + m - 1 of them. Ends are multiples of
    1 / (n m), in integers.
    """
    if n == m:
        ranks = torch.arange(n, device=device)
        return ranks, ranks, torch.full((n,), 1 / n, dtype=torch.float64, device=device)
    ends = torch.cat([torch.arange(1, n + 1, device=device) * m, torch.arange(1, m + 1, device=device) * n]).unique()
    starts = torch.cat([ends.new_zeros(1), ends[:-1]])
    return starts // m, starts // n, (ends - starts).double() / (n * m)
