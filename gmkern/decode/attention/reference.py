"""Attention over a cache in plain PyTorch: all scores at once. Differentiable, on any device, in the queries' dtype."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def gathered(cache: Tensor, scale: Tensor | None, page_table: Tensor | None, dtype: torch.dtype) -> Tensor:
    """The rows' keys or values [B, T, Hkv, D] in ``dtype``, scales multiplied in, pages side by side."""
    x = cache.to(dtype) if scale is None else cache.to(dtype) * scale.to(dtype).unsqueeze(-1)
    if page_table is None:
        return x
    return x[page_table.long().clamp(0, len(x) - 1)].flatten(1, 2)


def attention(
    q: Tensor,
    keys: Tensor,
    values: Tensor,
    lengths: Tensor,
    page_table: Tensor | None,
    key_scale: Tensor | None,
    value_scale: Tensor | None,
    slopes: Tensor | None,
    window: int,
    softcap: float,
    scale: float,
) -> tuple[Tensor, Tensor]:
    """As the op ``gmkern::attention``."""
    k, v = (gathered(x, s, page_table, q.dtype) for x, s in ((keys, key_scale), (values, value_scale)))
    rows, asked, heads, dim = q.shape
    group = heads // k.shape[2]
    grouped = q.unflatten(2, (k.shape[2], group))
    scores = torch.einsum("bihgd,bthd->bihgt", grouped, k) * scale
    if softcap > 0:
        scores = softcap * torch.tanh(scores / softcap)
    place = torch.arange(k.shape[1], device=q.device)
    position = (lengths.long()[:, None] - asked + torch.arange(asked, device=q.device))[:, :, None]  # [B, Tq, 1]
    if slopes is not None:
        away = (place - position).to(q.dtype)[:, :, None, None]
        scores = scores + slopes.to(q.dtype).view(-1, group)[:, :, None] * away
    seen = place <= position
    if window > 0:
        seen = seen & (place > position - window)
    # A row that sees nothing gets zeros and -infinity; what is not seen may hold anything, NaN included.
    seen = seen[:, :, None, None]
    empty = ~seen.any(-1, keepdim=True)
    scores = torch.where(seen, scores, float("-inf"))
    lse = torch.logsumexp(torch.where(empty, 0.0, scores), -1, keepdim=True)
    lse = torch.where(lse == math.inf, math.nan, lse)  # a score of +infinity leaves its row no weights
    base = torch.where(lse == -math.inf, 0.0, lse)  # and of -infinity alone, none to anything
    weight = torch.where(seen, torch.exp(scores - base), 0.0)
    v = torch.where((place < lengths[:, None])[:, :, None, None], v, 0.0)
    if not torch.compiler.is_compiling() and not v.isfinite().all():
        # 0 times a NaN that one query sees and another does not is NaN: each by itself.
        own = [torch.where(each.movedim(-1, 1), v, 0.0) for each in seen.unbind(1)]
        out = torch.stack([torch.einsum("bhgt,bthd->bhgd", weight[:, i], each) for i, each in enumerate(own)], 1)
    else:
        out = torch.einsum("bihgt,bthd->bihgd", weight, v)
    out = out.reshape(rows, asked, heads, dim)
    return out, torch.where(empty, float("-inf"), lse).reshape(rows, asked, heads)
