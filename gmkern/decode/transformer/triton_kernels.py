"""A transformer's layers in Triton: embedding, norm and linear in one, rotation and append (docs/generation.md).

A tile is 16 rows, whatever their number, and the sums of an output run over its inputs in blocks of a size that the
layer's shape alone decides: so a row's bits depend on that row. ``rows`` and whatever else changes from call to call is
never specialised on, or one number of rows would run other code than another. Launch with ``enable_fp_fusion=False``.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from gmkern import _backend
from gmkern._triton_math import gelu, gelu_tanh, silu, tanh
from gmkern.decode.transformer.device_weights import Linear, Norm

ROWS = tl.constexpr(16)  # of a tile: the least that tensor cores take
WARPS = 4
STAGES = 4  # blocks of weights on their way
_HEADS = tl.constexpr(8)  # that a program places
_WIDE = tl.constexpr(1024)  # numbers of an embedding that a program looks up


@triton.jit
def _statistics(x, there, INPUTS: tl.constexpr, LAYER: tl.constexpr, EPS: tl.constexpr, BLOCK: tl.constexpr):
    """Means (0 unless LAYER) and 1 / sqrt(mean square about them + EPS), [ROWS], of rows x [ROWS, 1] of pointers."""
    mean = tl.zeros([ROWS], tl.float32)
    if LAYER:
        total = tl.zeros([ROWS, BLOCK], tl.float32)
        for start in range(0, INPUTS, BLOCK):
            i = start + tl.arange(0, BLOCK)
            total += tl.load(x + i[None, :], mask=there[:, None] & (i < INPUTS)[None, :], other=0.0)
        mean = tl.sum(total, 1) * (1.0 / INPUTS)
    squares = tl.zeros([ROWS, BLOCK], tl.float32)
    for start in range(0, INPUTS, BLOCK):
        i = start + tl.arange(0, BLOCK)
        inside = there[:, None] & (i < INPUTS)[None, :]
        away = tl.where(inside, tl.load(x + i[None, :], mask=inside, other=0.0) - mean[:, None], 0.0)
        squares += away * away
    root = tl.sqrt_rn(tl.sum(squares, 1) * (1.0 / INPUTS) + EPS)
    return mean, tl.div_rn(tl.full([ROWS], 1.0, tl.float32), root)


@triton.jit
def _normed(v, mean, scale, weight, bias, i, INPUTS: tl.constexpr, LAYER: tl.constexpr):
    """Numbers i of normed rows; 0 past INPUTS."""
    inside = i < INPUTS
    v = (v - mean[:, None]) * scale[:, None] * tl.load(weight + i, mask=inside, other=0.0)[None, :]
    if LAYER:
        v += tl.load(bias + i, mask=inside, other=0.0)[None, :]
    return v


@triton.jit
def _more(v, w, total, NARROW: tl.constexpr):
    """total + v [ROWS, I] @ w [I, O]. Bfloat16 and int8 weights meet v's three bfloat16 parts, whose sum is v."""
    if NARROW:
        high = v.to(tl.bfloat16)
        rest = v - high.to(tl.float32)
        middle = rest.to(tl.bfloat16)
        low = (rest - middle.to(tl.float32)).to(tl.bfloat16)
        narrow = w.to(tl.bfloat16)
        total = tl.dot(low, narrow, total)
        total = tl.dot(middle, narrow, total)
        return tl.dot(high, narrow, total)
    else:
        return tl.dot(v, w.to(tl.float32), total, input_precision="tf32x3")


@triton.jit
def _activated(x, ACTIVATION: tl.constexpr):
    if ACTIVATION == "silu":
        return silu(x)
    elif ACTIVATION == "gelu":
        return gelu(x)
    elif ACTIVATION == "gelu_tanh":
        return gelu_tanh(x)
    elif ACTIVATION == "relu":
        return tl.where(x > 0.0, x, x * 0.0)  # NaN stays
    else:
        return x


@triton.jit(do_not_specialize=["rows"])
def linear_kernel(
    x, norm_weight, norm_bias, weight, bias, scale, gate, gate_bias, gate_scale, out, rows,
    INPUTS: tl.constexpr, OUTPUTS: tl.constexpr, NORM: tl.constexpr, EPS: tl.constexpr, ACTIVATION: tl.constexpr,
    GATED: tl.constexpr, BIASED: tl.constexpr, SCALED: tl.constexpr, ADDED: tl.constexpr, CAP: tl.constexpr,
    NARROW: tl.constexpr, I: tl.constexpr, O: tl.constexpr,
):  # fmt: skip
    """out [rows, OUTPUTS], or what is ADDED to it: a linear of x [rows, INPUTS], its norm first if NORM names one.

    GATED: act(x gate') * (x weight'); else act(x weight'). CAP > 0: c tanh(y / c).
    """
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    there = row < rows
    o = tl.program_id(1) * O + tl.arange(0, O)
    layer: tl.constexpr = NORM == "layernorm"
    x_at = x + row.to(tl.int64)[:, None] * INPUTS
    w_at = o.to(tl.int64)[None, :] * INPUTS
    if NORM != "none":
        mean, size = _statistics(x_at, there, INPUTS, layer, EPS, I)
    total = tl.zeros([ROWS, O], tl.float32)
    other = tl.zeros([ROWS, O], tl.float32)
    for start in range(0, INPUTS, I):
        i = start + tl.arange(0, I)
        v = tl.load(x_at + i[None, :], mask=there[:, None] & (i < INPUTS)[None, :], other=0.0)
        if NORM != "none":
            v = _normed(v, mean, size, norm_weight, norm_bias, i, INPUTS, layer)
        inside = (o < OUTPUTS)[None, :] & (i < INPUTS)[:, None]
        total = _more(v, tl.load(weight + w_at + i[:, None], mask=inside, other=0.0), total, NARROW)
        if GATED:
            other = _more(v, tl.load(gate + w_at + i[:, None], mask=inside, other=0.0), other, NARROW)
    if SCALED:
        total *= tl.load(scale + o, mask=o < OUTPUTS, other=0.0)[None, :]
    if BIASED:
        total += tl.load(bias + o, mask=o < OUTPUTS, other=0.0)[None, :]
    if GATED:
        if SCALED:
            other *= tl.load(gate_scale + o, mask=o < OUTPUTS, other=0.0)[None, :]
        if BIASED:
            other += tl.load(gate_bias + o, mask=o < OUTPUTS, other=0.0)[None, :]
        total = _activated(other, ACTIVATION) * total
    else:
        total = _activated(total, ACTIVATION)
    if CAP > 0.0:
        total = CAP * tanh(total * (1.0 / CAP))
    at = out + row.to(tl.int64)[:, None] * OUTPUTS + o[None, :]
    inside = there[:, None] & (o < OUTPUTS)[None, :]
    if ADDED:
        total = tl.load(at, mask=inside, other=0.0) + total
    tl.store(at, total, mask=inside)


@triton.jit(do_not_specialize=["rows"])
def norm_kernel(
    x, weight, bias, out, rows,
    WIDTH: tl.constexpr, LAYER: tl.constexpr, EPS: tl.constexpr, ADDED: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """out [rows, WIDTH], or what is ADDED to it: x's rows, normed."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    there = row < rows
    start = row.to(tl.int64)[:, None] * WIDTH
    mean, size = _statistics(x + start, there, WIDTH, LAYER, EPS, BLOCK)
    for first in range(0, WIDTH, BLOCK):
        i = first + tl.arange(0, BLOCK)
        inside = there[:, None] & (i < WIDTH)[None, :]
        v = tl.load(x + start + i[None, :], mask=inside, other=0.0)
        v = _normed(v, mean, size, weight, bias, i, WIDTH, LAYER)
        if ADDED:
            v = tl.load(out + start + i[None, :], mask=inside, other=0.0) + v
        tl.store(out + start + i[None, :], v, mask=inside)


@triton.jit(do_not_specialize=["asked"])
def embed_kernel(tokens, firsts, table, places, out, asked, WIDTH: tl.constexpr, LEARNED: tl.constexpr):
    """out [B * asked, WIDTH]: the embedding of each token, and of its position firsts [B] + 0 ... asked - 1."""
    row = tl.program_id(0).to(tl.int64)
    i = tl.program_id(1) * _WIDE + tl.arange(0, _WIDE)
    x = tl.load(table + tl.load(tokens + row) * WIDTH + i, mask=i < WIDTH, other=0.0).to(tl.float32)
    if LEARNED:
        position = tl.load(firsts + row // asked) + row % asked
        x += tl.load(places + position * WIDTH + i, mask=i < WIDTH, other=0.0).to(tl.float32)
    tl.store(out + row * WIDTH + i, x, mask=i < WIDTH)


@triton.jit
def _of_heads(q_norm, k_norm, is_query, d, DIM: tl.constexpr):
    """The norm's weights d of queries, and of keys."""
    q = tl.load(q_norm + d, mask=d < DIM, other=0.0)
    k = tl.load(k_norm + d, mask=d < DIM, other=0.0)
    return tl.where(is_query[:, None], q[None, :], k[None, :])


@triton.jit(do_not_specialize=["asked", "room"])
def place_kernel(
    qkv, q_norm, k_norm, turns, slots, firsts, queries, keys, values, asked, room,
    HEADS: tl.constexpr, KEY_HEADS: tl.constexpr, DIM: tl.constexpr, TURNED: tl.constexpr, NORMED: tl.constexpr,
    EPS: tl.constexpr, D: tl.constexpr,
):  # fmt: skip
    """Normed and turned queries [B * asked, HEADS, DIM], and keys and values appended to the caches.

    A row of qkv is the token at position firsts [B] + 0 ... asked - 1 of slots [B]; caches are [slots, room, KEY_HEADS,
    DIM]. The first TURNED numbers of a head turn in pairs (i, i + TURNED / 2) by turns [room, TURNED]: cosines, sines.
    """
    row = tl.program_id(0).to(tl.int64)
    position = (tl.load(firsts + row // asked) + row % asked).to(tl.int64)
    head = tl.program_id(1) * _HEADS + tl.arange(0, _HEADS)
    d = tl.arange(0, D)
    inside = (head < HEADS + 2 * KEY_HEADS)[:, None] & (d < DIM)[None, :]
    plain = (head >= HEADS + KEY_HEADS)[:, None]  # values
    half: tl.constexpr = TURNED // 2
    partner = tl.where(d < half, d + half, tl.where(d < TURNED, d - half, d))
    at = qkv + (row * (HEADS + 2 * KEY_HEADS) + head.to(tl.int64))[:, None] * DIM
    x = tl.load(at + d[None, :], mask=inside, other=0.0)
    y = tl.load(at + partner[None, :], mask=inside, other=0.0)
    if NORMED:
        root = tl.sqrt_rn(tl.sum(x * x, 1) * (1.0 / DIM) + EPS)
        size = tl.div_rn(tl.full([_HEADS], 1.0, tl.float32), root)[:, None]
        of_x = _of_heads(q_norm, k_norm, head < HEADS, d, DIM)
        of_y = _of_heads(q_norm, k_norm, head < HEADS, partner, DIM)
        x, y = tl.where(plain, x, x * size * of_x), y * size * of_y
    if TURNED > 0:
        angle = tl.where(d < half, d, d - half)
        turns_at = turns + position * TURNED + angle
        cos = tl.load(turns_at, mask=d < TURNED, other=1.0)[None, :]
        sin = tl.load(turns_at + half, mask=d < TURNED, other=0.0)[None, :]
        turned = tl.where((d < half)[None, :], x * cos - y * sin, x * cos + y * sin)
        x = tl.where(plain | (d >= TURNED)[None, :], x, turned)
    to_query = queries + (row * HEADS + head.to(tl.int64))[:, None] * DIM + d[None, :]
    tl.store(to_query, x, mask=inside & (head < HEADS)[:, None])
    slot = tl.load(slots + row // asked).to(tl.int64)
    start = (slot * room + position) * KEY_HEADS - HEADS
    to_key = (start + head.to(tl.int64))[:, None] * DIM + d[None, :]
    tl.store(keys + to_key, x.to(keys.dtype.element_ty), mask=inside & ((head >= HEADS)[:, None] & ~plain))
    tl.store(values + to_key - KEY_HEADS * DIM, x.to(values.dtype.element_ty), mask=inside & plain)


def blocks(inputs: int, outputs: int, size: int) -> dict[str, int]:
    """Inputs and outputs of a tile, for weights of ``size`` bytes an input and output, a gate's counted.

    Few outputs where there are few, so that programs fill the machine, and what registers hold.
    """
    most, wide = (128, 64) if size <= 2 else (64, 32)
    few = 64 if outputs >= 1 << 13 else 32 if outputs >= 1 << 12 else 16
    return {"I": max(16, min(most, triton.next_power_of_2(inputs))), "O": min(wide, few)}


def _some(*tensors: Tensor | None, instead: Tensor) -> list[Tensor]:
    """What a launch is given for tensors that are not there and that the kernel does not read."""
    return [instead if tensor is None else tensor for tensor in tensors]


def linear(
    x: Tensor,
    linear: Linear,
    out: Tensor,
    *,
    norm: Norm | None,
    eps: float,
    gate: Linear | None,
    activation: str,
    added: bool,
    cap: float,
) -> Tensor:
    """out [rows, outputs] of x [rows, inputs], or what is added to it; see :func:`linear_kernel`."""
    rows, (outputs, inputs) = out.shape[0], linear.weight.shape
    kind = "none" if norm is None else "rmsnorm" if norm.bias is None else "layernorm"
    tiles = blocks(inputs, outputs, linear.weight.itemsize * (1 if gate is None else 2))
    narrow = linear.weight.dtype in (torch.bfloat16, torch.int8) and not _backend.triton_interprets()
    if rows == 0:
        return out
    with torch.cuda.device_of(x):
        linear_kernel[(triton.cdiv(rows, ROWS.value), triton.cdiv(outputs, tiles["O"]))](
            x, *_some(*(norm or (None, None)), instead=x), linear.weight,
            *_some(*linear[1:], *(gate or (linear.weight, None, None)), instead=x), out, rows, INPUTS=inputs,
            OUTPUTS=outputs, NORM=kind, EPS=eps, ACTIVATION=activation, GATED=gate is not None,
            BIASED=linear.bias is not None, SCALED=linear.scale is not None, ADDED=added, CAP=cap, NARROW=narrow,
            **tiles, num_warps=WARPS, num_stages=STAGES, enable_fp_fusion=False,
        )  # fmt: skip
    return out


def norm(x: Tensor, norm: Norm, out: Tensor, *, eps: float, added: bool = False) -> Tensor:
    """out [rows, width], or what is added to it: x's rows, normed."""
    rows, width = x.shape
    if rows:
        with torch.cuda.device_of(x):
            norm_kernel[(triton.cdiv(rows, ROWS.value),)](
                x, *_some(*norm, instead=x), out, rows, WIDTH=width, LAYER=norm.bias is not None, EPS=eps,
                ADDED=added, BLOCK=blocks(width, width, x.itemsize)["I"], num_warps=WARPS, enable_fp_fusion=False,
            )  # fmt: skip
    return out


def embed(tokens: Tensor, firsts: Tensor, table: Tensor, places: Tensor | None, out: Tensor) -> None:
    """out [B * t, width] of tokens [B, t] at positions firsts [B] + 0 ... t - 1."""
    with torch.cuda.device_of(out):
        embed_kernel[(out.shape[0], triton.cdiv(out.shape[1], _WIDE.value))](
            tokens, firsts, table, *_some(places, instead=table), out, tokens.shape[1], WIDTH=out.shape[1],
            LEARNED=places is not None, num_warps=WARPS, enable_fp_fusion=False,
        )  # fmt: skip


def place(
    qkv: Tensor,
    norms: tuple[Tensor | None, Tensor | None],
    eps: float,
    turns: Tensor,
    slots: Tensor,
    firsts: Tensor,
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
) -> None:
    """See :func:`place_kernel`; queries are [B, t, Hq, head_dim]."""
    _, asked, heads, dim = queries.shape
    key_heads = keys.shape[2]
    with torch.cuda.device_of(qkv):
        place_kernel[(qkv.shape[0], triton.cdiv(heads + 2 * key_heads, _HEADS.value))](
            qkv, *_some(*norms, instead=qkv), turns, slots, firsts, queries, keys, values, asked, keys.shape[1],
            HEADS=heads, KEY_HEADS=key_heads, DIM=dim, TURNED=turns.shape[1], NORMED=norms[0] is not None, EPS=eps,
            D=max(16, triton.next_power_of_2(dim)), num_warps=WARPS, enable_fp_fusion=False,
        )  # fmt: skip
