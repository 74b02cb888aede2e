"""What one program makes of a tile of 16 rows, in Triton: norms, linears, embedding, rotation and append.

The kernels of one op each (triton_kernels.py) and the one that takes its rows through whole steps
(generate/triton_steps.py) call these, and so a row's bits are the same by either. Sums of floats are dot products on
tensor cores or :func:`row_sum`, whose orders no layout changes. Launch with ``enable_fp_fusion=False``.
"""

from __future__ import annotations

import triton
import triton.language as tl

from gmkern._triton_math import gelu, gelu_tanh, row_sum, silu, tanh

ROWS = tl.constexpr(16)  # of a tile: the least that tensor cores take


@triton.jit
def statistics(x, there, INPUTS: tl.constexpr, LAYER: tl.constexpr, EPS: tl.constexpr, BLOCK: tl.constexpr):
    """Means (0 unless LAYER) and 1 / sqrt(mean square about them + EPS), [ROWS], of rows x [ROWS, 1] of pointers."""
    mean = tl.zeros([ROWS], tl.float32)
    if LAYER:
        total = tl.zeros([ROWS, BLOCK], tl.float32)
        for start in range(0, INPUTS, BLOCK):
            i = start + tl.arange(0, BLOCK)
            total += tl.load(x + i[None, :], mask=there[:, None] & (i < INPUTS)[None, :], other=0.0)
        mean = row_sum(total) * (1.0 / INPUTS)
    squares = tl.zeros([ROWS, BLOCK], tl.float32)
    for start in range(0, INPUTS, BLOCK):
        i = start + tl.arange(0, BLOCK)
        inside = there[:, None] & (i < INPUTS)[None, :]
        away = tl.where(inside, tl.load(x + i[None, :], mask=inside, other=0.0) - mean[:, None], 0.0)
        squares += away * away
    root = tl.sqrt_rn(row_sum(squares) * (1.0 / INPUTS) + EPS)
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


@triton.jit
def product(
    x, there, mean, size, norm_weight, norm_bias, weight, bias, scale, gate, gate_bias, gate_scale, o,
    INPUTS: tl.constexpr, OUTPUTS: tl.constexpr, NORM: tl.constexpr, ACTIVATION: tl.constexpr, GATED: tl.constexpr,
    BIASED: tl.constexpr, SCALED: tl.constexpr, CAP: tl.constexpr, NARROW: tl.constexpr,
    I: tl.constexpr, O: tl.constexpr,
):  # fmt: skip
    """Outputs o [O] of a linear of rows x [ROWS, 1] of pointers, normed first if NORM names a norm.

    GATED: act(x gate') * (x weight'); else act(x weight'). CAP > 0: c tanh(y / c).
    """
    layer: tl.constexpr = NORM == "layernorm"
    w_at = o.to(tl.int64)[None, :] * INPUTS
    total = tl.zeros([ROWS, O], tl.float32)
    other = tl.zeros([ROWS, O], tl.float32)
    for start in range(0, INPUTS, I):
        i = start + tl.arange(0, I)
        v = tl.load(x + i[None, :], mask=there[:, None] & (i < INPUTS)[None, :], other=0.0)
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
    return total


@triton.jit
def put(out, total, row, there, o, OUTPUTS: tl.constexpr, ADDED: tl.constexpr):
    """Outputs o of rows, written to out [..., OUTPUTS] or ADDED to what is there."""
    at = out + row.to(tl.int64)[:, None] * OUTPUTS + o[None, :]
    inside = there[:, None] & (o < OUTPUTS)[None, :]
    if ADDED:
        total = tl.load(at, mask=inside, other=0.0) + total
    tl.store(at, total, mask=inside)


@triton.jit
def norm_rows(
    x, weight, bias, out, row, there,
    WIDTH: tl.constexpr, LAYER: tl.constexpr, EPS: tl.constexpr, ADDED: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Rows of x [..., WIDTH], normed, written to out or ADDED to what is there."""
    x_at = x + row.to(tl.int64)[:, None] * WIDTH
    mean, size = statistics(x_at, there, WIDTH, LAYER, EPS, BLOCK)
    for first in range(0, WIDTH, BLOCK):
        i = first + tl.arange(0, BLOCK)
        v = tl.load(x_at + i[None, :], mask=there[:, None] & (i < WIDTH)[None, :], other=0.0)
        put(out, _normed(v, mean, size, weight, bias, i, WIDTH, LAYER), row, there, i, WIDTH, ADDED)


@triton.jit
def embedded(table, places, token, position, i, inside, WIDTH: tl.constexpr, LEARNED: tl.constexpr):
    """Numbers i of the embedding of a token, and of its position; token and position are int64, in i's shape or 1."""
    x = tl.load(table + token * WIDTH + i, mask=inside, other=0.0).to(tl.float32)
    if LEARNED:
        x += tl.load(places + position * WIDTH + i, mask=inside, other=0.0).to(tl.float32)
    return x


@triton.jit
def _of_heads(q_norm, k_norm, is_query, d, DIM: tl.constexpr):
    """The norm's weights d of queries, and of keys."""
    q = tl.load(q_norm + d, mask=d < DIM, other=0.0)
    k = tl.load(k_norm + d, mask=d < DIM, other=0.0)
    return tl.where(is_query[:, None], q[None, :], k[None, :])


@triton.jit
def place_heads(
    qkv, q_norm, k_norm, turns, queries, keys, values, row, position, slot, head, there, room,
    HEADS: tl.constexpr, KEY_HEADS: tl.constexpr, DIM: tl.constexpr, TURNED: tl.constexpr, NORMED: tl.constexpr,
    EPS: tl.constexpr, D: tl.constexpr,
):  # fmt: skip
    """Heads of rows of qkv, normed and turned, to queries [..., HEADS, DIM] or to position of slot of the caches.

    head and there are [P], row, position and slot int64 [P, 1] or of all alike [1, 1]; queries come first among heads,
    then keys, then values. Caches are [slots, room, KEY_HEADS, DIM]. The first TURNED numbers of a head turn in pairs
    (i, i + TURNED / 2) by turns [room, TURNED]: cosines, sines.
    """
    d = tl.arange(0, D)
    inside = there[:, None] & (d < DIM)[None, :]
    wide = head.to(tl.int64)[:, None]
    plain = wide >= HEADS + KEY_HEADS  # values
    half: tl.constexpr = TURNED // 2
    partner = tl.where(d < half, d + half, tl.where(d < TURNED, d - half, d))
    at = qkv + (row * (HEADS + 2 * KEY_HEADS) + wide) * DIM
    x = tl.load(at + d[None, :], mask=inside, other=0.0)
    y = tl.load(at + partner[None, :], mask=inside, other=0.0)
    if NORMED:
        root = tl.sqrt_rn(row_sum(x * x) * (1.0 / DIM) + EPS)
        size = tl.div_rn(root * 0.0 + 1.0, root)[:, None]
        of_x = _of_heads(q_norm, k_norm, head < HEADS, d, DIM)
        of_y = _of_heads(q_norm, k_norm, head < HEADS, partner, DIM)
        x, y = tl.where(plain, x, x * size * of_x), y * size * of_y
    if TURNED > 0:
        angle = tl.where(d < half, d, d - half)
        turns_at = turns + position * TURNED + angle[None, :]
        cos = tl.load(turns_at, mask=(d < TURNED)[None, :], other=1.0)
        sin = tl.load(turns_at + half, mask=(d < TURNED)[None, :], other=0.0)
        turned = tl.where((d < half)[None, :], x * cos - y * sin, x * cos + y * sin)
        x = tl.where(plain | (d >= TURNED)[None, :], x, turned)
    to_query = queries + (row * HEADS + wide) * DIM + d[None, :]
    tl.store(to_query, x, mask=inside & (wide < HEADS))
    to_key = ((slot * room + position) * KEY_HEADS - HEADS + wide) * DIM + d[None, :]
    tl.store(keys + to_key, x.to(keys.dtype.element_ty), mask=inside & (wide >= HEADS) & ~plain)
    tl.store(values + to_key - KEY_HEADS * DIM, x.to(values.dtype.element_ty), mask=inside & plain)
