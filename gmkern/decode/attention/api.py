"""The public function: attention of queries over a cache."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from gmkern import _backend, _validate
from gmkern._validate import ArrayLike
from gmkern.decode.attention import ops, reference

_QUERIES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
FLOAT8 = torch.float8_e4m3fn
SCALED = {torch.int8: 127.0, FLOAT8: 448.0}  # the greatest number of what is held with scales
_CACHES = (torch.float32, torch.bfloat16, torch.float16, *SCALED, torch.float64)
_HEAD_MOST = 256


class Attention(NamedTuple):
    """What :func:`attention` returns."""

    out: Tensor
    """[B, Hq, D], or [B, Tq, Hq, D], in the queries' dtype: the weighted mean of the values."""
    lse: Tensor
    """[B, Hq] or [B, Tq, Hq]: the log of the sum of exp(score); -infinity where nothing is seen."""


def attention(
    q: ArrayLike,
    k_cache: ArrayLike,
    v_cache: ArrayLike,
    lengths: ArrayLike,
    *,
    page_table: ArrayLike | None = None,
    window: int | None = None,
    alibi: ArrayLike | None = None,
    softcap: float | None = None,
    scale: float | None = None,
    k_scale: ArrayLike | None = None,
    v_scale: ArrayLike | None = None,
    backend: str | None = None,
) -> Attention:
    """Softmax attention of each row's latest queries over its cache.

    Parameters
    ----------
    q : [B, Hq, D], one query a row, at its last position; or [B, Tq, Hq, D], the row's last Tq positions, each of which
        sees what is at or before it. float32, bfloat16, float16 or float64; D from 1 to 256.
    k_cache, v_cache : [B, T, Hkv, D], row b's position t at [b, t]; with ``page_table``, [pages, page_size, Hkv, D].
        float32, bfloat16, float16, or int8 or float8_e4m3fn with scales (float64 with float64 queries); float8 on a GPU
        from sm_89 on, or in plain PyTorch. Hq is a multiple of Hkv; query head h reads key head h // (Hq / Hkv). Views
        are read in place if a head's numbers lie side by side.
    lengths : [B] int32 or int64: positions that each row holds, the queries' own included. 0 gives 0 and -infinity, as
        does a query before position 0.
    page_table : [B, n] int32 or int64: the pages of each row, in order. Entries past a row's length are not read.
    window : a query sees that many latest positions, itself included; None: all.
    alibi : [Hq]: slope * (position of the key - position of the query) is added to scores (Press et al., 2022).
    softcap : scores become softcap * tanh(score / softcap), before ``alibi``; None: as they are.
    scale : of scores; 1 / sqrt(D) unless given.
    k_scale, v_scale : for int8 and float8 caches: float32, by which numbers are multiplied; [Hkv], one a head,
        or [B, T, Hkv] ([pages, page_size, Hkv] with pages), one a head and position.
    backend : None, "cpu" (C++), "triton" (CUDA), or "reference" (plain PyTorch, any device; float64).

    Returns
    -------
    Attention(out, lse).

    Raises
    ------
    TypeError, ValueError : naming the argument, what it got and what it takes. A GPU is not waited for: there a row
        whose length or page is out of range becomes NaN.

    Notes
    -----
    Sums are float32 in splits of 256 positions, folded in order: a query's bits do not depend on the rows beside it, on
    threads, on T, on pages, or on whether it came alone or with a prompt (docs/attention.md). A score that is NaN or
    +infinity makes its row NaN, lse included; one whose scores are all -infinity gets 0 and -infinity. Differentiable
    once in q and in the caches, those with scales excepted; the backward pass holds blocks of 1,024 positions. Works
    under ``torch.compile(fullgraph=True)`` and in CUDA graphs. Method: split keys and values with online softmax
    (Milakov and Gimelshein, 2018; Dao et al., 2023).

    Examples
    --------
    >>> import torch
    >>> from gmkern.decode import attention
    >>> q, k, v = torch.randn(2, 8, 64), torch.randn(2, 100, 2, 64), torch.randn(2, 100, 2, 64)
    >>> out, lse = attention(q, k, v, torch.tensor([100, 37]))
    >>> out.shape, lse.shape
    (torch.Size([2, 8, 64]), torch.Size([2, 8]))
    """
    queries = _validate.tensor("q", q, ndim=(3, 4), dtypes=_QUERIES)
    device, exact = queries.device, queries.dtype == torch.float64
    keys = _validate.tensor("k_cache", k_cache, ndim=4, dtypes=_CACHES, device=device)
    values = _validate.tensor("v_cache", v_cache, ndim=4, dtypes=(keys.dtype,), device=device)
    if values.shape != keys.shape:
        raise _validate.bad("v_cache", values, f"the shape of k_cache, {list(keys.shape)}")
    if keys.dtype == torch.float64 and not exact:
        raise _validate.bad("k_cache", keys, f"another dtype with queries of {queries.dtype}", error=TypeError)
    alone = queries.ndim == 3
    many = queries.unsqueeze(1) if alone else queries
    rows, _, heads, dim = many.shape
    if keys.shape[3] != dim or not 1 <= dim <= _HEAD_MOST:
        raise _validate.bad("q", queries, f"the cache's head_dim, {keys.shape[3]}, from 1 to {_HEAD_MOST}")
    if keys.shape[2] < 1 or heads % keys.shape[2]:
        raise _validate.bad("q", queries, f"a multiple of the cache's {keys.shape[2]} heads")
    table = None
    if page_table is not None:
        table = _validate.tensor("page_table", page_table, ndim=2, dtypes=(torch.int32, torch.int64), device=device)
        if table.shape[0] != rows:
            raise _validate.bad("page_table", table, f"shape [{rows}, n], a row a query")
        table = _narrow(table)
    elif keys.shape[0] != rows:
        raise _validate.bad("k_cache", keys, f"{rows} rows, as q has (or a page_table)")
    room = keys.shape[1] * (1 if table is None else table.shape[1])
    held = _validate.tensor("lengths", lengths, ndim=1, dtypes=(torch.int32, torch.int64), device=device)
    if held.shape[0] != rows:
        raise _validate.bad("lengths", held, f"shape [{rows}], one a row")
    _check_pages(held, table, room, keys.shape)
    slopes = None
    if alibi is not None:
        slopes = _validate.tensor("alibi", alibi, ndim=1, dtypes=_QUERIES, device=device)
        if slopes.shape[0] != heads or slopes.requires_grad:
            raise _validate.bad("alibi", slopes, f"shape [{heads}], one slope a head, without gradient")
        slopes = slopes.to(torch.float64 if exact else torch.float32).contiguous()
    scales = [_scale(name, value, keys) for name, value in (("k_scale", k_scale), ("v_scale", v_scale))]
    options = (
        0 if window is None else _validate.integer("window", window, low=1),
        0.0 if softcap is None else _validate.number("softcap", softcap, above=0.0),
        1 / math.sqrt(dim) if scale is None else _validate.number("scale", scale),
    )
    if keys.dtype in SCALED and torch.is_grad_enabled() and queries.requires_grad:
        takes = "queries that need none, or a cache without scales"
        raise _validate.bad("q", f"queries that require a gradient, and a cache of {keys.dtype}", takes)
    _validate.no_tangents("decode.attention", queries, keys, values)
    too_exact = "takes float32, bfloat16 and float16 queries, got float64" if exact else None
    candidates = [
        ("cpu", too_exact or _backend.on_cpu(device) or _not_float8(keys)),
        ("triton", too_exact or _on_triton(queries, keys, values)),
        ("reference", None),
    ]
    chosen = _backend.choose("decode.attention", backend, candidates)
    wide = many if exact else many.to(torch.float32)
    serve: Callable[..., tuple[Tensor, Tensor]] = reference.attention
    if chosen != "reference":
        keys, values = (x if x.stride(3) == 1 or dim == 1 else x.contiguous() for x in (keys, values))
        serve = ops.attention
    if chosen == "triton" and device.type == "cpu":
        from gmkern.decode.attention import triton_kernels  # in the interpreter

        serve = triton_kernels.attention
    out, lse = serve(wide.contiguous(), keys, values, _narrow(held), table, *scales, slopes, *options)
    out = out.to(queries.dtype)
    return Attention(out.squeeze(1), lse.squeeze(1)) if alone else Attention(out, lse)


def _on_triton(*tensors: Tensor) -> str | None:
    """Why the Triton kernels cannot serve queries and caches, or None."""
    device = tensors[0].device
    if device.type == "cuda" and torch.cuda.get_device_capability(device) < (8, 9) and _not_float8(tensors[1]):
        return f"takes float8_e4m3fn caches from sm_89 on, got {torch.cuda.get_device_name(device)}"
    if device.type == "cpu" and torch.is_grad_enabled() and any(t.requires_grad for t in tensors):
        return "takes CUDA tensors where a gradient is wanted"
    return _backend.on_triton(device)


def _not_float8(cache: Tensor) -> str | None:
    """Why C++ cannot read a cache, or None."""
    return "takes float32, bfloat16, float16 and int8 caches, got float8_e4m3fn" if cache.dtype == FLOAT8 else None


def _narrow(numbers: Tensor) -> Tensor:
    """As int32, where what is out of range stays so."""
    return numbers.clamp(-1, (1 << 31) - 1).to(torch.int32).contiguous()


def _check_pages(lengths: Tensor, table: Tensor | None, room: int, shape: torch.Size) -> None:
    """Every position that is read is in the cache. (In compiled code, and on a GPU, the op itself checks.)"""
    if torch.compiler.is_compiling() or lengths.numel() == 0 or lengths.device.type != "cpu":
        return
    low, high = int(lengths.min()), int(lengths.max())
    if low < 0 or high > room:
        raise _validate.bad(
            "lengths", str(low if low < 0 else high), f"0 to {room}, the positions that a row's cache has"
        )
    if table is not None and table.numel():
        used = torch.arange(table.shape[1], device=table.device) * shape[1] < lengths[:, None]
        wrong = used & ((table < 0) | (table >= shape[0]))
        if wrong.any():
            row = int(wrong.any(1).nonzero()[0])
            raise _validate.bad(
                "page_table", f"page {int(table[row][wrong[row]][0])} in row {row}", f"0 to {shape[0] - 1}"
            )


def _scale(name: str, value: ArrayLike | None, cache: Tensor) -> Tensor | None:
    """Scales [pages, page_size, Hkv] of an int8 or float8 cache, as a view where there is one a head."""
    if (value is None) != (cache.dtype not in SCALED):
        held = str(cache.dtype).removeprefix("torch.")
        takes = f"None for a cache of {held}" if value is not None else f"scales, since the cache is {held}"
        raise _validate.bad(name, value, takes)
    if value is None:
        return None
    scale = _validate.tensor(name, value, ndim=(1, 3), dtypes=(torch.float32,), device=cache.device)
    wanted = cache.shape[2:3] if scale.ndim == 1 else cache.shape[:3]
    if scale.shape != wanted:
        raise _validate.bad(name, scale, f"shape [{cache.shape[2]}] or {list(cache.shape[:3])}")
    return scale.detach().expand(cache.shape[:3])
