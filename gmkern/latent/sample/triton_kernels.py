"""Noise through linear layers in Triton: one launch from words to samples, or a launch a layer where that is sooner.

A tile is 64 samples. Where tiles fill the machine or layers are narrow, a program draws its tile's noise and carries it
through all layers, back and forth between two buffers of its own that stay in the cache. Else a launch a layer spreads
the outputs too. An output's sum runs over its inputs in blocks of 32, in order, whichever way: the same bits.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from gmkern._triton_math import expm1, gelu, gelu_tanh, sigmoid, silu, tanh
from gmkern.random import triton_kernels as noise
from gmkern.random.streams import LATENT
from gmkern.random.triton_kernels import noise_block, noise_key, normals_from_words

ROWS = tl.constexpr(64)  # samples of a tile
WARPS = 8
_OUTPUTS = tl.constexpr(64)
_INPUTS = tl.constexpr(32)
_BLOCKS = tl.constexpr(8)  # of Philox, four numbers each, at once
_STREAM = tl.constexpr(LATENT)
_NORMAL = 1  # of the kinds of noise
_NARROW = 256  # outputs that one program makes of a tile in a few microseconds
_FULL = 264  # programs that fill a large GPU twice


@triton.jit
def _activated(x, ACTIVATION: tl.constexpr, slope: tl.constexpr):
    """In the order of csrc/latent/latent.h."""
    if ACTIVATION == 1:
        return tl.where(x > 0.0, x, x * 0.0)  # NaN stays
    elif ACTIVATION == 2:
        return tl.where(x > 0.0, x, x * slope)
    elif ACTIVATION == 3:
        return tl.where(x > 0.0, x, slope * expm1(x))
    elif ACTIVATION == 4:
        return gelu(x)
    elif ACTIVATION == 5:
        return gelu_tanh(x)
    elif ACTIVATION == 6:
        return silu(x)
    elif ACTIVATION == 7:
        return tanh(x)
    elif ACTIVATION == 8:
        return sigmoid(x)
    else:
        return x


@triton.jit
def _outputs(
    x, x_stride, weight, bias, to, to_stride, there, first,
    INPUTS: tl.constexpr, OUTPUTS: tl.constexpr, ACTIVATION: tl.constexpr, SLOPE: tl.constexpr,
):  # fmt: skip
    """to [ROWS, first ... first + 63] of x [ROWS, INPUTS], weight [OUTPUTS, INPUTS] and bias [OUTPUTS]."""
    row = tl.arange(0, ROWS)
    o = first + tl.arange(0, _OUTPUTS)
    total = tl.zeros([ROWS, _OUTPUTS], tl.float32)
    for start in range(0, INPUTS, _INPUTS):
        i = start + tl.arange(0, _INPUTS)
        x_at = x + row[:, None] * x_stride + i[None, :]
        values = tl.load(x_at, mask=there[:, None] & (i < INPUTS)[None, :], other=0.0)
        w_at = weight + o[None, :].to(tl.int64) * INPUTS + i[:, None]
        w = tl.load(w_at, mask=(o < OUTPUTS)[None, :] & (i < INPUTS)[:, None], other=0.0)
        total = tl.dot(values, w, total, input_precision="tf32x3")
    total += tl.load(bias + o, mask=o < OUTPUTS, other=0.0)[None, :]
    at = to + row[:, None] * to_stride + o[None, :]
    tl.store(at, _activated(total, ACTIVATION, SLOPE), mask=there[:, None] & (o < OUTPUTS)[None, :])


@triton.jit
def network_kernel(
    seeds, sample_ids, weights, biases, rooms, out, n, width, seed_stride,
    WIDTHS: tl.constexpr, ACTIVATIONS: tl.constexpr, SLOPES: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """out [n, WIDTHS[DEPTH]]; rooms [programs, 2, ROWS, width]; weights and biases are tuples of DEPTH tensors."""
    room = rooms + tl.program_id(0).to(tl.int64) * 2 * ROWS * width
    line = tl.arange(0, ROWS)
    for tile in range(tl.program_id(0), tl.cdiv(n, ROWS), tl.num_programs(0)):
        row = tl.cast(tile, tl.int64) * ROWS + line
        there = row < n
        sample = tl.load(sample_ids + row, mask=there, other=0)[:, None]
        k0, k1 = noise_key(tl.load(seeds + row * seed_stride, mask=there, other=0)[:, None], _STREAM)
        for start in range(0, tl.cdiv(WIDTHS[0], 4), _BLOCKS):
            block = start + tl.arange(0, _BLOCKS)[None, :] + 0 * line[:, None]
            w0, w1, w2, w3 = noise_block(k0, k1, sample, sample * 0, block.to(tl.uint32))
            v0, v1 = normals_from_words(w0, w1)
            v2, v3 = normals_from_words(w2, w3)
            column = 4 * block
            at = room + line[:, None] * width + column
            tl.store(at, v0, mask=column < WIDTHS[0])
            tl.store(at + 1, v1, mask=column + 1 < WIDTHS[0])
            tl.store(at + 2, v2, mask=column + 2 < WIDTHS[0])
            tl.store(at + 3, v3, mask=column + 3 < WIDTHS[0])
        for layer in tl.static_range(DEPTH):
            tl.debug_barrier()  # what the warps stored is what all of them load
            x = room + (layer % 2) * ROWS * width
            for first in range(0, WIDTHS[layer + 1], _OUTPUTS):
                if layer + 1 < DEPTH:
                    to, stride = room + ((layer + 1) % 2) * ROWS * width, width
                else:
                    to, stride = out + tl.cast(tile, tl.int64) * ROWS * WIDTHS[DEPTH], WIDTHS[DEPTH]
                _outputs(
                    x, width, weights[layer], biases[layer], to, stride, there, first,
                    WIDTHS[layer], WIDTHS[layer + 1], ACTIVATIONS[layer], SLOPES[layer],
                )  # fmt: skip
        tl.debug_barrier()  # before the next tile's noise


@triton.jit
def layer_kernel(
    x, weight, bias, to, n,
    INPUTS: tl.constexpr, OUTPUTS: tl.constexpr, ACTIVATION: tl.constexpr, SLOPE: tl.constexpr,
):  # fmt: skip
    """to [n, OUTPUTS] of x [n, INPUTS], a tile of both a program."""
    begin = tl.program_id(0).to(tl.int64) * ROWS
    _outputs(
        x + begin * INPUTS, INPUTS, weight, bias, to + begin * OUTPUTS, OUTPUTS, begin + tl.arange(0, ROWS) < n,
        tl.program_id(1) * _OUTPUTS, INPUTS, OUTPUTS, ACTIVATION, SLOPE,
    )  # fmt: skip


def latent_mlp(
    seed: Tensor,
    sample_ids: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    activations: Sequence[int],
    slopes: Sequence[float],
) -> Tensor:
    """As the op ``gmkern::latent_mlp``."""
    n = sample_ids.shape[0]
    widths = (weights[0].shape[1], *(len(weight) for weight in weights))
    tiles = triton.cdiv(n, ROWS.value)
    with torch.cuda.device_of(weights[0]):
        if tiles < _FULL and max(widths) > _NARROW:
            x = noise.noise(seed, sample_ids, torch.zeros_like(sample_ids[:1]), widths[0], LATENT, _NORMAL, False)
            for weight, bias, activation, slope in zip(weights, biases, activations, slopes, strict=True):
                to = x.new_empty((n, len(weight)))
                if to.numel():
                    layer_kernel[(tiles, triton.cdiv(len(weight), _OUTPUTS.value))](
                        x, weight, bias, to, n, INPUTS=x.shape[1], OUTPUTS=len(weight), ACTIVATION=activation,
                        SLOPE=slope, num_warps=WARPS, enable_fp_fusion=False,
                    )  # fmt: skip
                x = to
            return x
        out = weights[0].new_empty((n, widths[-1]))
        programs = min(tiles, _FULL)
        width = triton.cdiv(max(widths), 32) * 32
        if out.numel():
            network_kernel[(programs,)](
                seed, sample_ids, tuple(weights), tuple(biases), out.new_empty((programs, 2, ROWS.value, width)), out,
                n, width, int(seed.numel() > 1), WIDTHS=widths, ACTIVATIONS=tuple(activations), SLOPES=tuple(slopes),
                DEPTH=len(weights), num_warps=WARPS, enable_fp_fusion=False,
            )  # fmt: skip
        return out
