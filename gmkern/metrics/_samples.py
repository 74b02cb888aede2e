"""Sets of samples at the door of the metrics: [N, D], finite, of one dtype and device."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gmkern import _validate
from gmkern.neighbors._points import DTYPES

_ROWS = 4096  # looked at together


def samples(name: str, value: Any, *, like: tuple[str, Tensor] | None = None, least: int = 1) -> Tensor:
    """``value`` as finite points [N, D] with N >= least, of the width, dtype and device of ``like``."""
    x = _validate.tensor(
        name,
        value,
        ndim=2,
        dtypes=DTYPES if like is None else (like[1].dtype,),
        device=None if like is None else like[1].device,
    )
    width = "D" if like is None else str(like[1].shape[1])
    if x.shape[0] < least or x.shape[1] < 1 or (like is not None and x.shape[1] != like[1].shape[1]):
        what = f"shape [N, {width}] with N >= {least}" + (" and D >= 1" if like is None else f", as {like[0]}")
        raise _validate.bad(name, x, what)
    for row in range(0, x.shape[0], _ROWS):
        part = x[row : row + _ROWS].detach()
        finite = torch.isfinite(part)
        if not bool(finite.all()):
            i, d = (~finite).nonzero()[0].tolist()
            raise _validate.bad(name, f"{float(part[i, d])} at [{row + i}, {d}]", "finite numbers")
    return x
