"""decode.attention beside torch's scaled_dot_product_attention.

python benchmarks/bench_attention.py                           a table of ratios, in turns, results checked
pytest benchmarks/bench_attention.py --benchmark-enable        the same cases under pytest-benchmark
"""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from _compare import Run, circumstances, interleaved, measured
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


def runs(case: str, dtype: torch.dtype) -> tuple[dict[str, Run], int]:
    """Ours and torch's, and the bytes of the cache that both read."""
    rows, heads, key_heads, dim, room = CASES[case]
    q = torch.randn(rows, heads, dim).to(dtype)
    k, v = torch.randn(2, rows, room, key_heads, dim).to(dtype)
    k_first, v_first = (x.transpose(1, 2).contiguous() for x in (k, v))
    ours = partial(attention, q, k, v, torch.full((rows,), room))
    return {"gmkern": ours, "torch": partial(rival, q.unsqueeze(2), k_first, v_first)}, k.nbytes + v.nbytes


@torch.no_grad()
def main() -> None:
    for key, value in circumstances().items():
        print(f"{key}: {value}")
    for name in CASES:
        for dtype in DTYPES:
            rivals, size = runs(name, dtype)
            row = interleaved(f"{name}, {dtype}", rivals.pop("gmkern"), rivals, check, rounds=15)
            print(row, f"  {size / row.ours / 1e9:.1f} GB/s")


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype).removeprefix("torch."))
@pytest.mark.parametrize("tool", ["gmkern", "torch"])
@torch.no_grad()
def test_attention(benchmark: Any, case: str, dtype: torch.dtype, tool: str) -> None:
    tools, _ = runs(case, dtype)
    check("torch", tools["gmkern"](), tools["torch"]())
    measured(benchmark, tool, tools, lambda *_: None, rounds=9)


if __name__ == "__main__":
    main()
