"""Parameters of force fields: numbers, one a type, or one a pair of types; checked, and made tables [T, T]."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gmkern import _validate

Given = float | Sequence[float] | Sequence[Sequence[float]] | np.ndarray | Tensor


def as_tensor(value: Given, device: torch.device | None = None) -> Tensor:
    """``value`` in float64, differentiable."""
    return torch.as_tensor(upright(value), dtype=torch.float64, device=device)


def upright(value: Any) -> Any:
    """``value``, arrays in the machine's byte order and with strides that torch takes."""
    if isinstance(value, np.ndarray) and (not value.dtype.isnative or any(stride < 0 for stride in value.strides)):
        return np.array(value, dtype=value.dtype.newbyteorder("="))
    return value


def scalar(name: str, value: Given) -> None:
    """Refuses what is not one finite number."""
    if isinstance(value, Tensor):
        if _validate.tensor(name, value).ndim != 0:
            raise _validate.bad(name, value, "a number or a 0-d tensor")
        value = float(value.detach())
    _validate.number(name, value)


def check(
    name: str,
    value: Given,
    *,
    low: float | None = None,
    above: float | None = None,
    mixes: bool = True,
    tables: bool = True,
) -> None:
    """Refuses what is not finite numbers within limits, alone or by type: [T] where they mix, [T, T] in ``tables``."""
    if isinstance(value, (int, float)) or not isinstance(value, (Sequence, np.ndarray, np.number, Tensor)):
        _validate.number(name, value, low=low, above=above)
        return
    if isinstance(value, Tensor):
        _validate.tensor(name, value)
    takes = "a number" + ", or one a type [T]" * mixes + ", or a symmetric table [T, T]" * tables
    if isinstance(value, (str, bytes)):
        raise _validate.bad(name, value, takes, error=TypeError)
    try:
        tensor = torch.as_tensor(upright(value)).detach()
    except (TypeError, ValueError, RuntimeError) as error:
        raise _validate.bad(name, value, takes, error=TypeError) from error
    dims = (0, *[1] * mixes, *[2] * tables)
    if tensor.ndim not in dims or tensor.numel() == 0 or tensor.is_complex() or tensor.dtype == torch.bool:
        raise _validate.bad(name, tensor, takes)
    if tensor.ndim == 2 and not torch.equal(tensor, tensor.T):
        raise _validate.bad(name, tensor.tolist(), takes)
    good = torch.isfinite(tensor)
    limits = ""
    if low is not None:
        good, limits = good & (tensor >= low), f" >= {low}"
    if above is not None:
        good, limits = good & (tensor > above), f" > {above}"
    if not bool(good.all()):
        raise _validate.bad(name, tensor.tolist(), f"finite numbers{limits}")


def between_types(value: Given, device: torch.device) -> Tensor:
    """[T, T] of numbers that do not mix; [1, 1] of one number."""
    tensor = as_tensor(value, device)
    return tensor.reshape(1, 1) if tensor.ndim == 0 else tensor


def lengths(value: Given, device: torch.device) -> Tensor:
    """[T, T]: lengths of types mix as their mean."""
    tensor = as_tensor(value, device)
    return 0.5 * (tensor[:, None] + tensor[None, :]) if tensor.ndim == 1 else between_types(tensor, device)


def energies(value: Given, device: torch.device) -> Tensor:
    """[T, T]: energies of types mix as their geometric mean, with derivative 0 where it is 0."""
    tensor = as_tensor(value, device)
    if tensor.ndim != 1:
        return between_types(tensor, device)
    product = tensor[:, None] * tensor[None, :]
    there = product > 0
    mixed = torch.where(there, torch.sqrt(torch.where(there, product, 1.0)), torch.zeros_like(product))
    same = torch.eye(len(tensor), dtype=torch.bool, device=tensor.device)
    return torch.where(same, tensor[:, None].expand_as(mixed), mixed)
