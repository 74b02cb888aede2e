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
from gmkern.decode.transformer.device_weights import Linear, Norm
from gmkern.decode.transformer.triton_tiles import ROWS, embedded, norm_rows, place_heads, product, put, statistics

WARPS = 4
STAGES = 4  # blocks of weights on their way
_HEADS = tl.constexpr(16)  # that a program places
_WIDE = tl.constexpr(1024)  # numbers of an embedding that a program looks up


@triton.jit(do_not_specialize=["rows"])
def linear_kernel(
    x, norm_weight, norm_bias, weight, bias, scale, gate, gate_bias, gate_scale, out, rows,
    INPUTS: tl.constexpr, OUTPUTS: tl.constexpr, NORM: tl.constexpr, EPS: tl.constexpr, ACTIVATION: tl.constexpr,
    GATED: tl.constexpr, BIASED: tl.constexpr, SCALED: tl.constexpr, ADDED: tl.constexpr, CAP: tl.constexpr,
    NARROW: tl.constexpr, I: tl.constexpr, O: tl.constexpr,
):  # fmt: skip
    """out [rows, OUTPUTS], or what is ADDED to it: :func:`product` of x [rows, INPUTS], its norm first."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    there = row < rows
    o = tl.program_id(1) * O + tl.arange(0, O)
    x_at = x + row.to(tl.int64)[:, None] * INPUTS
    mean, size = tl.zeros([ROWS], tl.float32), tl.zeros([ROWS], tl.float32)
    if NORM != "none":
        mean, size = statistics(x_at, there, INPUTS, NORM == "layernorm", EPS, I)
    total = product(
        x_at, there, mean, size, norm_weight, norm_bias, weight, bias, scale, gate, gate_bias, gate_scale, o,
        INPUTS, OUTPUTS, NORM, ACTIVATION, GATED, BIASED, SCALED, CAP, NARROW, I, O,
    )  # fmt: skip
    put(out, total, row, there, o, OUTPUTS, ADDED)


@triton.jit(do_not_specialize=["rows"])
def norm_kernel(
    x, weight, bias, out, rows,
    WIDTH: tl.constexpr, LAYER: tl.constexpr, EPS: tl.constexpr, ADDED: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """out [rows, WIDTH], or what is ADDED to it: x's rows, normed."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    norm_rows(x, weight, bias, out, row, row < rows, WIDTH, LAYER, EPS, ADDED, BLOCK)


@triton.jit(do_not_specialize=["asked"])
def embed_kernel(tokens, firsts, table, places, out, asked, WIDTH: tl.constexpr, LEARNED: tl.constexpr):
    """out [B * asked, WIDTH]: the embedding of each token, and of its position firsts [B] + 0 ... asked - 1."""
    row = tl.program_id(0).to(tl.int64)
    i = tl.program_id(1) * _WIDE + tl.arange(0, _WIDE)
    position = tl.load(firsts + row // asked).to(tl.int64) + row % asked
    x = embedded(table, places, tl.load(tokens + row), position, i, i < WIDTH, WIDTH, LEARNED)
    tl.store(out + row * WIDTH + i, x, mask=i < WIDTH)


@triton.jit(do_not_specialize=["asked", "room"])
def place_kernel(
    qkv, q_norm, k_norm, turns, slots, firsts, queries, keys, values, asked, room,
    HEADS: tl.constexpr, KEY_HEADS: tl.constexpr, DIM: tl.constexpr, TURNED: tl.constexpr, NORMED: tl.constexpr,
    EPS: tl.constexpr, D: tl.constexpr,
):  # fmt: skip
    """:func:`place_heads` of rows of qkv, the tokens at positions firsts [B] + 0 ... asked - 1 of slots [B]."""
    head = tl.program_id(1) * _HEADS + tl.arange(0, _HEADS)
    row = tl.program_id(0).to(tl.int64) + tl.zeros([1, 1], tl.int64)
    position = tl.load(firsts + row // asked).to(tl.int64) + row % asked
    slot = tl.load(slots + row // asked).to(tl.int64)
    place_heads(
        qkv, q_norm, k_norm, turns, queries, keys, values, row, position, slot, head, head < HEADS + 2 * KEY_HEADS,
        room, HEADS, KEY_HEADS, DIM, TURNED, NORMED, EPS, D,
    )  # fmt: skip


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
