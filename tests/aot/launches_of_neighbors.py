"""Launches of searches, sums, sets, networks and attention, as tests/aot/launches.py has those of decode and noise.

Sizes of 1 are there, which Triton makes constants, and larger ones.
"""

from __future__ import annotations

import contextlib
import itertools

import torch
from triton.runtime import driver
from triton.runtime.jit import JITFunction

from gmkern.context.draw import triton_kernels as draw
from gmkern.decode.attention import triton_kernels as attention
from gmkern.latent.sample import triton_kernels as latent
from gmkern.neighbors.count_within import triton_kernels as counts
from gmkern.neighbors.count_within import triton_screen as count_screen
from gmkern.neighbors.kernel_sum import triton_kernels as sums
from gmkern.neighbors.knn import triton_kernels as knn
from gmkern.neighbors.knn import triton_screen as knn_screen
from tests.aot.launches import NoGPU


def searches(batch: int, n: int, m: int, dim: int) -> None:
    for dtype, k in ((torch.float32, 1), (torch.float32, min(m, 9)), (torch.bfloat16, 1), (torch.float64, 1)):
        x, y = torch.zeros(batch, n, dim, dtype=dtype), torch.zeros(batch, m, dim, dtype=dtype)
        knn.knn(x, y, k, 0, False, 0, 1)
        wide = torch.float64 if dtype == torch.float64 else torch.float32
        counts.count_within(x, y, torch.ones(batch, n, dtype=wide), False, False, False, 1)
    x, y = torch.zeros(n, dim), torch.zeros(m, dim)
    knn_screen.screened(x, y, 1, 0, False)
    count_screen.screened(x, y, torch.ones(n), False, False, False)


def summed(batch: int, n: int, m: int, dim: int) -> None:
    x, y, ones = torch.zeros(batch, n, dim), torch.zeros(batch, m, dim), torch.ones(batch, m)
    for log, kernel, degree in ((None, 0, 1), (ones, 0, 1), (None, 4, 3)):
        of = (ones, ones, log, kernel, 1.0, 0.0, degree, False)
        sums.kernel_sum(x, y, *of)
        made = torch.ones(batch, n)
        sums.kernel_sum_backward(made, made, x, y, *of, True, True)


def attended(batch: int, asked: int, held: int, heads: int, group: int, dim: int, **given: torch.Tensor) -> None:
    q, cache = torch.zeros(batch, asked, heads * group, dim), torch.zeros(batch, held, heads, dim)
    cache = cache.to(torch.int8 if "scale" in given else torch.float32)
    lengths = torch.full((batch,), held, dtype=torch.int32)
    scale = given.get("scale")
    for window, softcap in ((0, 0.0), (1, 5.0)):
        rest = given.get("table"), scale, scale, given.get("slopes"), window, softcap, 1.0
        attention.attention(q, cache, cache, lengths, *rest)


def main() -> None:
    driver.set_active(NoGPU())
    torch.cuda.device_of = lambda tensor: contextlib.nullcontext()
    launch, compiled = JITFunction.run, set()

    def run(self, *args, grid, warmup, **options):
        assert launch(self, *args, grid=grid, warmup=True, **options) is not None
        compiled.add(self.__name__)

    JITFunction.run = run
    for shape in ((1, 1, 1, 1), (2, 40, 300, 17)):
        searches(*shape)
        summed(*shape)
    for shape in ((1, 1, 1, 1, 1, 1), (1, 1, 600, 1, 1, 16), (2, 3, 600, 2, 4, 64)):
        attended(*shape)
    attended(1, 1, 300, 1, 1, 16, scale=torch.ones(1, 300, 1))
    attended(1, 1, 16, 1, 1, 16, table=torch.zeros(1, 1, dtype=torch.int32), slopes=torch.ones(1))
    seed = torch.tensor(3)
    for sets, size, width in ((1, 1, 1), (9, 5, 700)):
        draw.draw_sets(torch.zeros(size, width), seed, torch.arange(sets), size)
    for n, widths in ((1, (1, 1)), (1, (40, 600, 3)), (5000, (8, 16, 3))):
        weights = [torch.zeros(b, a) for a, b in itertools.pairwise(widths)]
        biases = [torch.zeros(len(weight)) for weight in weights]
        latent.latent_mlp(seed, torch.arange(n), weights, biases, [4] * len(weights), [0.0] * len(weights))
    print(*sorted(compiled))


if __name__ == "__main__":
    main()
