"""decode.attention beside torch's scaled_dot_product_attention: python benchmarks/bench_attention.py"""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from _compare import circumstances, interleaved
from torch import Tensor

from gmkern.decode import Attention, attention

# rows, query heads, key heads, head_dim, positions
CASES = {"long, one row": (1, 8, 8, 64, 16_384), "a batch": (32, 12, 12, 64, 1024), "grouped": (16, 32, 8, 128, 1024)}
DTYPES = (torch.float32, torch.bfloat16)


def rival(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Heads first, as a user of torch would keep them; key heads repeated by torch."""
    return F.scaled_dot_product_attention(q, k, v, enable_gqa=True)


def check(name: str, ours: Attention, theirs: Tensor) -> None:
    tolerance = 1e-4 if theirs.dtype == torch.float32 else 2e-2
    torch.testing.assert_close(ours.out, theirs.squeeze(2).to(ours.out.dtype), rtol=tolerance, atol=tolerance)


@torch.no_grad()
def main() -> None:
    for key, value in circumstances().items():
        print(f"{key}: {value}")
    for name, (rows, heads, key_heads, dim, room) in CASES.items():
        for dtype in DTYPES:
            q = torch.randn(rows, heads, dim).to(dtype)
            k, v = torch.randn(2, rows, room, key_heads, dim).to(dtype)
            lengths = torch.full((rows,), room)
            k_first, v_first = (x.transpose(1, 2).contiguous() for x in (k, v))
            rivals = {"torch": partial(rival, q.unsqueeze(2), k_first, v_first)}
            row = interleaved(f"{name}, {dtype}", partial(attention, q, k, v, lengths), rivals, check, rounds=15)
            print(row, f"  {(k.nbytes + v.nbytes) / row.ours / 1e9:.1f} GB/s")


if __name__ == "__main__":
    main()
