"""decode.attention beside torch's scaled_dot_product_attention."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from _case import Case, Point, Run, across
from torch import Tensor

from gmkern.decode import attention


class Shape(NamedTuple):
    rows: int
    heads: int
    key_heads: int
    dim: int
    room: int


class Cache(NamedTuple):
    q: Tensor  # [rows, heads, dim]
    k: Tensor  # [rows, room, key_heads, dim]
    v: Tensor


SHAPES = {
    "long, one row": Shape(1, 8, 8, 64, 16_384),
    "a batch": Shape(32, 12, 12, 64, 1024),
    "grouped": Shape(16, 32, 8, 128, 1024),
}


def cache(shape: Shape, dtype: torch.dtype) -> Cache:
    torch.manual_seed(0)
    q = torch.randn(shape.rows, shape.heads, shape.dim).to(dtype)
    return Cache(q, *torch.randn(2, shape.rows, shape.room, shape.key_heads, shape.dim).to(dtype))


def ours(given: Cache) -> Run:
    lengths = torch.full((len(given.q),), given.k.shape[1])
    return lambda _: attention(*given, lengths).out


def by_torch(given: Cache) -> Run:
    """Heads first, as a user of torch would keep them; key heads repeated by torch."""
    q, k, v = given.q.unsqueeze(2), *(x.transpose(1, 2).contiguous() for x in (given.k, given.v))
    return lambda _: F.scaled_dot_product_attention(q, k, v, enable_gqa=True).squeeze(2)


def check(given: Cache, tool: str, ours: Tensor, theirs: Tensor) -> None:
    if tool == "gmkern":  # the truth: softmax in float64, of the first row
        q, k, v = (
            given.q[0].double(),
            *(x[0].double().repeat_interleave(given.q.shape[1] // x.shape[2], 1) for x in given[1:]),
        )
        theirs = torch.einsum("ht,thd->hd", (torch.einsum("hd,thd->ht", q, k) * q.shape[-1] ** -0.5).softmax(1), v)
        ours = ours[0].double()
    tolerance = 1e-4 if given.q.dtype == torch.float32 else 2e-2
    torch.testing.assert_close(ours.to(theirs.dtype), theirs, rtol=tolerance, atol=tolerance)


def case(kind: str, shape: Shape, dtype: torch.dtype, point: Point | None = None) -> Case:
    name = f"attention, {kind} {str(dtype).removeprefix('torch.')}"
    cached = shape.rows * shape.room * shape.key_heads * shape.dim
    moved = 2.0 * dtype.itemsize * (cached + shape.rows * shape.heads * shape.dim)
    flop = 4.0 * shape.rows * shape.room * shape.heads * shape.dim
    return Case(
        name, partial(cache, shape, dtype), {"gmkern": ours, "torch": by_torch}, check, moved, flop, point=point
    )


CASES = [case(kind, shape, dtype) for kind, shape in SHAPES.items() for dtype in (torch.float32, torch.bfloat16)]
CURVES = [
    case(f"16 rows of {room}", Shape(16, 12, 12, 64, room), torch.float32, Point("attention", "T", room))
    for room in (256, 1024, 4096)
]


@across(CASES)
def test_attention(case, tool, raced):
    raced(case, tool)


@across(CURVES)
def test_attention_grows(case, tool, raced):
    raced(case, tool)
