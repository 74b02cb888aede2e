"""Attention over a cache: as it is, in pages, in eight bits, of a prompt, and back."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from gmkern import decode
from gpu_cases.case import SHARE, Case, Mark, Rivals, absent, with_gradient

_PAGE = 16
_FP8 = torch.float8_e4m3fn


def _latest(
    device: torch.device, tiny: bool, kind: torch.dtype, page: int | None, marks: tuple[Mark, ...] = ()
) -> Case:
    """One query a row against a cache, which is read once; beyond four times any L2 as it is."""
    rows, held, heads, key_heads, dim = (2, 300, 4, 2, 16) if tiny else (64, 4096, 64, 8, 128)
    q = torch.randn(rows, heads, dim, device=device, dtype=torch.bfloat16)
    lengths = torch.full((rows,), held, dtype=torch.int32, device=device)
    options: dict[str, Tensor] = {}
    pages = math.ceil(held / (page or held))
    shape = (rows * pages, page or held, key_heads, dim)
    if page is not None:  # every row's pages lie apart
        order = torch.randperm(rows * pages, generator=torch.Generator().manual_seed(1))
        options["page_table"] = order.to(device, torch.int32).reshape(rows, pages)
    if kind == torch.bfloat16:
        keys, values = torch.randn(2, *shape, device=device, dtype=kind)
    else:
        most = 127 if kind == torch.int8 else 448
        keys, values = (most / 3 * torch.randn(2, *shape, device=device)).clamp(-most, most).to(kind)
        options |= {name: torch.rand(shape[:3], device=device) / most for name in ("k_scale", "v_scale")}

    def check() -> None:
        ours = decode.attention(q, keys, values, lengths, **options)
        table = options.get("page_table")
        cache = [(x[:2] if table is None else x[table[:2].long()].flatten(1, 2)).cpu() for x in (keys, values)]
        cache = [x.double() if x.dtype == torch.bfloat16 else x for x in cache]
        scales = {name: x[:2].cpu() for name, x in options.items() if name != "page_table"}
        truth = decode.attention(q[:2].cpu().double(), *cache, lengths[:2].cpu(), **scales, backend="reference")
        torch.testing.assert_close(ours.out[:2].double().cpu(), truth.out, rtol=2**-8, atol=2**-12)
        torch.testing.assert_close(ours.lse[:2].double().cpu(), truth.lse, rtol=1e-5, atol=1e-5)

    size = rows * held * key_heads * (2 * dim * keys.element_size() + (0 if kind == torch.bfloat16 else 8))
    name = str(kind).removeprefix("torch.")
    return Case(
        f"B={rows} T={held} Hq={heads} Hkv={key_heads} D={dim} {name}{f' pages of {page}' if page else ''}",
        lambda: decode.attention(q, keys, values, lengths, **options),
        check,
        _rivals_of(device, q, keys, values, options.get("page_table")),
        read=size,
        marks=marks,
    )


def _rivals_of(device: torch.device, q: Tensor, keys: Tensor, values: Tensor, table: Tensor | None) -> Rivals:
    if keys.dtype != torch.bfloat16:
        why = f"takes no scales of {str(keys.dtype).removeprefix('torch.')} numbers"
        return {"scaled_dot_product_attention": why, "FlexAttention": why, "flashinfer": why}
    rivals: Rivals = {}
    if table is None:
        by_heads = [x.transpose(1, 2) for x in (keys, values)]
        query = q.unsqueeze(2)
        rivals["scaled_dot_product_attention"] = lambda: torch.nn.functional.scaled_dot_product_attention(
            query, *by_heads, enable_gqa=True
        )
    else:
        rivals["scaled_dot_product_attention"] = "takes no pages"
    rivals["flashinfer"] = absent("flashinfer", "flashinfer-python", device) or _flashinfer(q, keys, values, table)
    if table is not None:
        rivals["FlexAttention"] = "takes no pages of a cache as it lies"
    else:
        rivals["FlexAttention"] = "takes CUDA tensors" if device.type != "cuda" else _flex(query, *by_heads)
    return rivals


def _flex(query: Tensor, keys: Tensor, values: Tensor) -> Callable[[], object]:
    from torch.nn.attention.flex_attention import flex_attention

    compiled = torch.compile(flex_attention)
    return lambda: compiled(query, keys, values, enable_gqa=True)


def _flashinfer(q: Tensor, keys: Tensor, values: Tensor, table: Tensor | None) -> Callable[[], object]:
    """Its batch decoder reads pages: a cache that has none is one, cut where it lies."""
    made: list[Callable[[], object]] = []

    def run() -> object:
        if not made:  # at the first run, which is not timed: it compiles
            import flashinfer

            rows, heads, dim = q.shape
            cache = [x.reshape(-1, _PAGE, *x.shape[2:]) for x in (keys, values)]
            pages = cache[0].shape[0] // rows
            order = torch.arange(rows * pages, device=q.device, dtype=torch.int32) if table is None else table.flatten()
            room = torch.empty(256 << 20, dtype=torch.uint8, device=q.device)
            serves = flashinfer.BatchDecodeWithPagedKVCacheWrapper(room, "NHD", use_tensor_cores=True)
            starts = pages * torch.arange(rows + 1, device=q.device, dtype=torch.int32)
            ends = torch.full((rows,), _PAGE, device=q.device, dtype=torch.int32)
            serves.plan(
                starts, order, ends, heads, keys.shape[2], dim, _PAGE, q_data_type=q.dtype, kv_data_type=q.dtype
            )
            made.append(lambda: serves.run(q, tuple(cache)))
        return made[0]()

    return run


def latest(device: torch.device, tiny: bool) -> Case:
    return _latest(device, tiny, torch.bfloat16, None, (Mark(0.8, SHARE),))


def in_pages(device: torch.device, tiny: bool) -> Case:
    return _latest(device, tiny, torch.bfloat16, _PAGE)


def of_int8(device: torch.device, tiny: bool) -> Case:
    return _latest(device, tiny, torch.int8, None)


def of_fp8(device: torch.device, tiny: bool) -> Case:
    return _latest(device, tiny, _FP8, None)


def _prompt(device: torch.device, tiny: bool, dtype: torch.dtype) -> tuple[tuple[int, ...], list[Tensor], Tensor]:
    """Sizes, q [B, T, Hq, D] with k and v [B, T, Hkv, D], and lengths: a prompt that is all there."""
    sizes = (2, 40, 4, 2, 16) if tiny else (4, 2048, 32, 8, 128)
    rows, length, heads, key_heads, dim = sizes
    tensors = [torch.randn(rows, length, h, dim, device=device, dtype=dtype) for h in (heads, key_heads, key_heads)]
    return sizes, tensors, torch.full((rows,), length, dtype=torch.int32, device=device)


def _causal(q: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    by_heads = (x.transpose(1, 2) for x in (q, keys, values))
    return torch.nn.functional.scaled_dot_product_attention(*by_heads, is_causal=True, enable_gqa=True).transpose(1, 2)


def prefill(device: torch.device, tiny: bool) -> Case:
    sizes, (q, keys, values), lengths = _prompt(device, tiny, torch.bfloat16)
    rows, length, heads, key_heads, dim = sizes

    def check() -> None:
        ours = decode.attention(q, keys, values, lengths).out[:1, -4:].double().cpu()
        wide = [x[:1].double().cpu() for x in (q[:, -4:], keys, values)]
        truth = decode.attention(*wide, lengths[:1].cpu(), backend="reference").out
        torch.testing.assert_close(ours, truth, rtol=2**-8, atol=2**-12)

    return Case(
        f"B={rows} T={length} Hq={heads} Hkv={key_heads} D={dim} bfloat16",
        lambda: decode.attention(q, keys, values, lengths),
        check,
        {"scaled_dot_product_attention": lambda: _causal(q, keys, values)},
        flop=2.0 * rows * heads * length * (length + 1) * dim,  # two products of what is at or before each position
    )


def backward(device: torch.device, tiny: bool) -> Case:
    sizes, tensors, lengths = _prompt(device, tiny, torch.float32)
    rows, length, heads, key_heads, dim = sizes
    leaves = [x.requires_grad_() for x in tensors]

    def gradients(run: Callable[..., Any]) -> list[Tensor]:
        some = [x[:1, : min(length, 64)].detach().requires_grad_() for x in leaves]
        return list(torch.autograd.grad(run(*some).square().sum(), some))

    def check() -> None:
        few = torch.full((1,), min(length, 64), dtype=torch.int32, device=device)
        for ours, theirs in zip(gradients(lambda *x: decode.attention(*x, few).out), gradients(_causal), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-3 * float(theirs.abs().max()))  # sums of 64 terms

    return Case(
        f"B={rows} T={length} Hq={heads} Hkv={key_heads} D={dim} fp32",
        with_gradient(lambda: decode.attention(*leaves, lengths).out, leaves),
        check,
        {"scaled_dot_product_attention": with_gradient(lambda: _causal(*leaves), leaves)},
        flop=7.0 * rows * heads * length * (length + 1) * dim,  # two products forward, five back
    )


CASES = {
    "decode.attention": latest,
    "decode.attention paged": in_pages,
    "decode.attention int8": of_int8,
    "decode.attention fp8": of_fp8,
    "decode.attention prefill": prefill,
    "decode.attention backward": backward,
}
