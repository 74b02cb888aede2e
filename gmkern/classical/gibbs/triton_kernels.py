"""Block Gibbs chains in Triton: all sweeps in one launch, or a launch a layer where that is sooner.

A tile is 64 chains. Where tiles fill the machine or layers are narrow, a program carries its chains through all sweeps,
and their units stay in the cache. Else a launch draws one layer, and programs share its units too. A unit's sum runs
over the other layer in blocks of 32, in order, whichever way: the same bits.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from gmkern._triton_math import sigmoid
from gmkern.random.streams import GIBBS
from gmkern.random.triton_kernels import noise_block, noise_key, uniform_from_word

ROWS = tl.constexpr(64)  # chains of a tile
WARPS = 8
_UNITS = tl.constexpr(32)  # that are drawn together
_INPUTS = tl.constexpr(32)
_STREAM = tl.constexpr(GIBBS)
_NARROW = 256  # units that one program draws in a few microseconds
_FULL = 264  # programs that fill a large GPU twice


@triton.jit
def _draw(
    x, weight, bias, to, there, seed, sample, step, first,
    INPUTS: tl.constexpr, OUTPUTS: tl.constexpr, W_IN: tl.constexpr, W_OUT: tl.constexpr,
):  # fmt: skip
    """Units first ... first + 31 of to [ROWS, OUTPUTS], given the other layer x [ROWS, INPUTS]; weight's entry of input
    i and output o lies at i W_IN + o W_OUT; seed and sample are [ROWS, 1]."""
    row = tl.arange(0, ROWS)[:, None]
    o = first + tl.arange(0, _UNITS)
    inside = (o < OUTPUTS)[None, :]
    total = tl.zeros([ROWS, _UNITS], tl.float32)
    for start in range(0, INPUTS, _INPUTS):
        i = start + tl.arange(0, _INPUTS)
        values = tl.load(x + row * INPUTS + i[None, :], mask=there & (i < INPUTS)[None, :], other=0.0)
        w = tl.load(weight + i[:, None] * W_IN + o[None, :] * W_OUT, mask=inside & (i < INPUTS)[:, None], other=0.0)
        total = tl.dot(values, w, total, input_precision="tf32x3")
    p = sigmoid(total + tl.load(bias + o, mask=o < OUTPUTS, other=0.0)[None, :])
    block = first // 4 + tl.arange(0, _UNITS // 4)[None, :] + 0 * row
    k0, k1 = noise_key(seed, _STREAM)
    w0, w1, w2, w3 = noise_block(k0, k1, sample, step, block.to(tl.uint32))
    even = tl.join(uniform_from_word(w0), uniform_from_word(w2))
    odd = tl.join(uniform_from_word(w1), uniform_from_word(w3))
    u = tl.reshape(tl.join(even, odd), [ROWS, _UNITS])
    tl.store(to + row * OUTPUTS + o[None, :], tl.where(u < p, 1.0, 0.0), mask=there & inside)


@triton.jit
def _chains(seeds, sample_ids, tile, n, seed_stride):
    """Of a tile: which rows are chains [ROWS, 1], their seeds and ids."""
    row = tile * ROWS + tl.arange(0, ROWS)[:, None]
    there = row < n
    seed = tl.load(seeds + row * seed_stride, mask=there, other=0)
    return there, seed, tl.load(sample_ids + row, mask=there, other=0)


@triton.jit(do_not_specialize=["n", "steps", "seed_stride"])
def chain_kernel(
    weight, visible_bias, hidden_bias, visible, hidden, seeds, sample_ids, first_step, n, steps, seed_stride,
    V: tl.constexpr, H: tl.constexpr,
):  # fmt: skip
    """All sweeps of a tile of chains: visible [n, V] in place, and hidden [n, H]."""
    tile = tl.program_id(0).to(tl.int64)
    there, seed, sample = _chains(seeds, sample_ids, tile, n, seed_stride)
    v = visible + tile * ROWS * V
    h = hidden + tile * ROWS * H
    begin = tl.load(first_step)
    for t in range(steps):
        step = 2 * (begin + t)
        for first in range(0, H, _UNITS):
            _draw(v, weight, hidden_bias, h, there, seed, sample, step, first, V, H, 1, V)
        tl.debug_barrier()  # what the warps stored is what all of them load
        for first in range(0, V, _UNITS):
            _draw(h, weight, visible_bias, v, there, seed, sample, step + 1, first, H, V, V, 1)
        tl.debug_barrier()


@triton.jit(do_not_specialize=["n", "after", "seed_stride"])
def layer_kernel(
    weight, bias, x, to, seeds, sample_ids, first_step, n, after, seed_stride,
    INPUTS: tl.constexpr, OUTPUTS: tl.constexpr, W_IN: tl.constexpr, W_OUT: tl.constexpr,
):  # fmt: skip
    """One layer to [n, OUTPUTS] given the other x [n, INPUTS], ``after`` draws of a layer: a tile of both a program."""
    tile = tl.program_id(0).to(tl.int64)
    there, seed, sample = _chains(seeds, sample_ids, tile, n, seed_stride)
    step = 2 * tl.load(first_step) + after
    first = tl.program_id(1) * _UNITS
    x += tile * ROWS * INPUTS
    to += tile * ROWS * OUTPUTS
    _draw(x, weight, bias, to, there, seed, sample, step, first, INPUTS, OUTPUTS, W_IN, W_OUT)


def gibbs_chain(
    weight: Tensor,
    visible_bias: Tensor,
    hidden_bias: Tensor,
    visible: Tensor,
    seed: Tensor,
    sample_ids: Tensor,
    first_step: Tensor,
    steps: int,
) -> tuple[Tensor, Tensor]:
    """As the op ``gmkern::gibbs_chain``. Of ``first_step`` nothing is checked, which would synchronise."""
    _check(weight, visible_bias, hidden_bias, visible, seed, sample_ids, first_step, steps)
    (units, inputs), n = weight.shape, len(visible)
    weight = weight.contiguous()
    v, h = visible.clone(memory_format=torch.contiguous_format), visible.new_empty((n, units))
    tiles, stride = triton.cdiv(n, ROWS.value), int(seed.numel() > 1)
    if not n:
        return v, h
    with torch.cuda.device_of(weight):
        if tiles >= _FULL or max(units, inputs) <= _NARROW:
            chain_kernel[(tiles,)](
                weight, visible_bias, hidden_bias, v, h, seed, sample_ids, first_step, n, steps, stride, V=inputs,
                H=units, num_warps=WARPS, enable_fp_fusion=False,
            )  # fmt: skip
            return v, h
        for draw in range(2 * steps):
            x, bias, to, strides = (h, visible_bias, v, (inputs, 1)) if draw % 2 else (v, hidden_bias, h, (1, inputs))
            layer_kernel[(tiles, triton.cdiv(len(bias), _UNITS.value))](
                weight, bias, x, to, seed, sample_ids, first_step, n, draw, stride, INPUTS=x.shape[1],
                OUTPUTS=to.shape[1], W_IN=strides[0], W_OUT=strides[1], num_warps=WARPS, enable_fp_fusion=False,
            )  # fmt: skip
    return v, h


def _check(
    weight: Tensor,
    visible_bias: Tensor,
    hidden_bias: Tensor,
    visible: Tensor,
    seed: Tensor,
    sample_ids: Tensor,
    first_step: Tensor,
    steps: int,
) -> None:
    if weight.ndim != 2 or weight.dtype != torch.float32 or not weight.numel():
        raise ValueError(f"weight: got {weight.dtype} {list(weight.shape)}; takes float32 [H, V], at least [1, 1]")
    (units, inputs), n = weight.shape, len(visible) if visible.ndim else 0
    for name, t, shapes, dtype in [
        ("visible_bias", visible_bias, [(inputs,)], torch.float32),
        ("hidden_bias", hidden_bias, [(units,)], torch.float32),
        ("visible", visible, [(n, inputs)], torch.float32),
        ("seed", seed, [(), (1,), (n,)], torch.int64),
        ("sample_ids", sample_ids, [(n,)], torch.int64),
        ("first_step", first_step, [(), (1,)], torch.int64),
    ]:
        if tuple(t.shape) not in shapes or t.dtype != dtype or t.device != weight.device or not t.is_contiguous():
            takes = f"contiguous {dtype} {' or '.join(str(list(shape)) for shape in shapes)} on {weight.device}"
            raise ValueError(f"{name}: got {t.dtype} {list(t.shape)} on {t.device}; takes {takes}")
    if steps < 1:
        raise ValueError(f"steps: got {steps}; takes at least 1")
