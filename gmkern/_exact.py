"""Correctly rounded square roots in plain PyTorch, for references whose bits are promised.

``torch.sqrt`` is not correctly rounded on every CPU build (MKL's vector square root is off by one unit in the last
place for about 1% of arguments), while IEEE 754's square root, which C++, CUDA and Triton use, is.
"""

from __future__ import annotations

import torch
from torch import Tensor


def sqrt(x: Tensor) -> Tensor:
    """The square root of x >= 0 (float32 or float64), rounded to nearest."""
    if x.dtype == torch.float32:
        # 53 bits suffice for a root that is then rounded to 24: no root of a float32 is that near to a midpoint.
        return torch.sqrt(x.to(torch.float64)).to(torch.float32)
    tiny = x < 2.0**-900  # scaled by an even power of two, so that no term below underflows
    scaled = torch.where(tiny, x * 2.0**200, x)
    s = torch.sqrt(scaled)
    # x - s*s without rounding (Dekker's product), then one Newton step, whose only rounding is that of the sum.
    t = s * 134217729.0  # 2^27 + 1
    high = t - (t - s)
    low = s - high
    square = s * s
    error = ((high * high - square) + 2.0 * high * low) + low * low
    step = ((scaled - square) - error) / (2.0 * s)
    s = torch.where(torch.isfinite(step), s + step, s)  # 0, infinity and NaN are as they are
    return torch.where(tiny, s * 2.0**-100, s)
