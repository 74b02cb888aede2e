"""What the neighbour ops share at their doors: points as [B, N, D] tensors, and errors that name the argument."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from gmkern import _backend, _validate

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def accumulated(dtype: torch.dtype) -> torch.dtype:
    """The dtype of distances between points of ``dtype``: float64 for float64, else float32."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def pair(queries: Any, references: Any, *, names: tuple[str, str] = ("queries", "references")) -> tuple[Tensor, Tensor]:
    """Both sides as [B, N, D] and [B, M, D] of one floating dtype; None for references stands for the queries."""
    x = _validate.tensor(names[0], queries, ndim=(2, 3), dtypes=DTYPES)
    if x.shape[-1] < 1:
        raise _validate.bad(names[0], x, "at least one coordinate (the last dimension)")
    if references is None or references is queries:
        x = x.contiguous() if x.ndim == 3 else x.contiguous().unsqueeze(0)
        return x, x
    y = _validate.tensor(names[1], references, ndim=x.ndim, dtypes=(x.dtype,), device=x.device)
    if y.shape[-1] != x.shape[-1] or y.shape[:-2] != x.shape[:-2]:
        batch = f"{x.shape[0]}, " if x.ndim == 3 else ""
        raise _validate.bad(names[1], y, f"shape [{batch}M, {x.shape[-1]}], as {names[0]} of shape {list(x.shape)}")
    if x.ndim == 2:
        x, y = x.unsqueeze(0), y.unsqueeze(0)
    return x.contiguous(), y.contiguous()


def check_excludes(exclude_self: bool, n: int, m: int) -> None:
    """``exclude_self`` is by index: reference i is query i."""
    if exclude_self and n != m:
        raise _validate.bad(
            "exclude_self", f"True with {n} queries and {m} references", "as many of both: reference i is query i"
        )


def on_triton(x: Tensor, y: Tensor, *numbers: Tensor) -> str | None:
    """Why the Triton kernels cannot serve points [B, N, D] and [B, M, D], and numbers of the references, or None."""
    wanted = torch.is_grad_enabled() and any(t.requires_grad for t in (x, y, *numbers))
    if x.device.type == "cpu" and wanted:
        return "takes CUDA tensors where a gradient is wanted"
    if y.shape[1] >= 1 << 31:
        return f"takes fewer than 2^31 references, got {y.shape[1]}"
    return _backend.on_triton(x.device)


def called(op: Callable[..., Any], *arguments: Any) -> Any:
    """Calls a compiled op; what it says of the values (a NaN and its position) becomes a ValueError."""
    if torch.compiler.is_compiling():
        return op(*arguments)
    try:
        return op(*arguments)
    except RuntimeError as error:
        text = str(error).split("\n", 1)[0]
        if "gmkern: " not in text:
            raise
        raise ValueError(text.split("gmkern: ", 1)[1]) from None
