"""The op ``gmkern::attention``: its fake kernel, and the gradients of queries, keys and values."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from gmkern._interrupt import audible
from gmkern._library import ops
from gmkern.decode.attention.reference import gathered

attention = audible(ops.attention.default)
_BLOCK = 1024  # positions whose weights are in memory at once in the backward pass


@torch.library.register_fake("gmkern::attention")
def _(q: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    return torch.empty_like(q), q.new_empty(q.shape[:3])


@torch.library.register_kernel("gmkern::attention", "cuda")
def _(*args: Any) -> tuple[Tensor, Tensor]:
    from gmkern.decode.attention import triton_kernels  # Triton is optional, and slow to import

    return triton_kernels.attention(*args)


def _context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    q, keys, values, lengths, page_table, _, _, slopes, ctx.window, ctx.softcap, ctx.scale = inputs
    ctx.save_for_backward(q, keys, values, lengths, page_table, slopes, *output)


def _backward(ctx: Any, grad_out: Tensor, grad_lse: Tensor) -> tuple[Any, ...]:
    """With p = exp(score - lse): dv = p dout, dscore = p (dout·v - dout·out + dlse), then through cap and product."""
    q, keys, values, lengths, table, slopes, out, lse = ctx.saved_tensors
    heads = keys.shape[2]
    asked, group = q.shape[1], q.shape[2] // heads

    def split(x: Tensor) -> Tensor:
        return x.unflatten(2, (heads, group))  # [B, Tq, Hkv, group, ...]

    k_all, v_all = gathered(keys, None, table, q.dtype), gathered(values, None, table, q.dtype)
    queries, g = split(q), split(grad_out)
    rest = split((grad_lse - (grad_out * out).sum(-1)).unsqueeze(-1))
    lse = split(torch.where(lse == -math.inf, 0.0, lse).unsqueeze(-1))  # where no score is finite
    position = (lengths.long()[:, None] - asked + torch.arange(asked, device=q.device))[:, :, None]
    to_q = torch.zeros_like(queries)
    to_k, to_v = [], []
    for first in range(0, k_all.shape[1], _BLOCK):
        k, v = k_all[:, first : first + _BLOCK], v_all[:, first : first + _BLOCK]
        place = torch.arange(first, first + k.shape[1], device=q.device)
        seen = place <= position
        if ctx.window > 0:
            seen = seen & (place > position - ctx.window)
        seen = seen[:, :, None, None]
        held = (place < lengths[:, None])[:, :, None, None]
        k, v = torch.where(held, k, 0.0), torch.where(held, v, 0.0)
        score = torch.einsum("bihgd,bthd->bihgt", queries, k) * ctx.scale
        slope = torch.ones_like(score)
        if ctx.softcap > 0:
            bent = torch.tanh(score / ctx.softcap)
            score, slope = ctx.softcap * bent, 1 - bent * bent
        if slopes is not None:
            away = (place - position).to(q.dtype)[:, :, None, None]
            score = score + slopes.view(-1, group)[:, :, None] * away
        p = torch.where(seen, torch.exp(torch.where(seen, score - lse, 0.0)), 0.0)
        to_v.append(torch.einsum("bihgt,bihgd->bthd", p, g))
        d = p * (torch.einsum("bihgd,bthd->bihgt", g, v) + rest) * slope * ctx.scale
        d = torch.where(seen, d, 0.0)
        to_q = to_q + torch.einsum("bihgt,bthd->bihgd", d, k)
        to_k.append(torch.einsum("bihgt,bihgd->bthd", d, queries))

    def scattered(parts: list[Tensor], cache: Tensor) -> Tensor:
        x = torch.cat(parts, 1)
        if table is None:
            return x.to(cache.dtype)
        # A page that several rows share gathers what each of them gives it; a page past a row's length, zeros.
        pages = x.unflatten(1, (table.shape[1], -1)).flatten(0, 1)
        index = table.long().clamp(0, len(cache) - 1).flatten()
        return pages.new_zeros(cache.shape).index_add(0, index, pages).to(cache.dtype)

    return to_q.flatten(2, 3), scattered(to_k, keys), scattered(to_v, values), *(None,) * 8


torch.library.register_autograd("gmkern::attention", _backward, setup_context=_context)
