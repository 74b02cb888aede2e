"""Sets of distinct points in Triton: words, shuffle and gathering in one launch; the indices of every other backend."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from gmkern.random.streams import CONTEXT
from gmkern.random.triton_kernels import noise_block, noise_key

_STREAM = tl.constexpr(CONTEXT)
_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


@triton.jit
def _content(place, at, held, move, count):
    """What the first ``count`` of the moves [K] left at ``place``; the last of them wins."""
    last = tl.max(tl.where((at == place) & (move < count), move, -1), 0)
    return tl.where(last >= 0, tl.sum(tl.where(move == last, held, 0), 0), place)


@triton.jit
def draw_kernel(
    train, seeds, sample_ids, points, indices, count, size, width, seed_stride,
    K: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """One program a set: points [n, size, width] and indices [n, size] from train [count, width]; K >= size."""
    row = tl.program_id(0).to(tl.int64)
    k0, k1 = noise_key(tl.load(seeds + row * seed_stride), _STREAM)
    sample = tl.load(sample_ids + row)
    move = tl.arange(0, K)
    at = tl.zeros([K], tl.int64)  # step i swapped places i and at[i] ...
    held = tl.zeros([K], tl.int64)  # ... and left this at at[i]
    for i in range(size):
        w0, w1, w2, w3 = noise_block(k0, k1, sample, sample * 0, (sample * 0 + i // 2).to(tl.uint32))
        low = tl.where(i % 2 == 0, w0, w2).to(tl.int64)
        high = tl.where(i % 2 == 0, w1, w3).to(tl.int64)
        left = tl.cast(count - i, tl.int64)
        place = i + ((high * left + (low * left >> 32)) >> 32)  # floor(word left / 2^64)
        index = _content(place, at, held, move, i)
        mine = _content(place * 0 + i, at, held, move, i)
        held = tl.where(move == i, mine, held)
        at = tl.where(move == i, place, at)
        to = row * size + i
        tl.store(indices + to, index)
        for start in range(0, width, WIDTH):
            column = start + tl.arange(0, WIDTH)
            value = tl.load(train + index * width + column, mask=column < width)
            tl.store(points + to * width + column, value, mask=column < width)


def draw_sets(train: Tensor, seed: Tensor, sample_ids: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """As the op ``gmkern::draw_sets``, for sets of up to ``ops.MOST_ON_TRITON`` points."""
    sets, count = sample_ids.shape[0], train.shape[0]
    indices = torch.empty((sets, size), dtype=torch.int64, device=train.device)
    points = train.new_empty((sets, size, *train.shape[1:]))
    if sets:
        integers = _INTEGERS[train.element_size()]  # rows are copied bit by bit, whatever they mean
        width = train.numel() // count
        with torch.cuda.device_of(train):
            draw_kernel[(sets,)](
                train.detach().view(integers), seed, sample_ids, points.view(integers), indices,
                count, size, width, int(seed.numel() > 1), enable_fp_fusion=False, **shape(size, width),
            )  # fmt: skip
    return points, indices


def shape(size: int, width: int) -> dict[str, int]:
    """The tiles and warps of one set: a warp, and more where moves or rows fill them."""
    warps = 4 if size > 64 or width >= 1024 else 1
    return {"K": triton.next_power_of_2(size), "WIDTH": 256 * warps, "num_warps": warps}
