"""Elementary functions for Triton kernels, to a few ulp of float32 also where the plain formula cancels.

Not the noise contract's: those are bit for bit the same everywhere, and are in ``random/triton_kernels.py``.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def row_sum(x):
    """The sums of rows x [..., rows, N], rows and N at least 16, as tensor cores add: products with ones.

    ``tl.sum`` adds in the order of the threads that hold a tile, which is another in another kernel.
    """
    if len(x.shape) == 2:
        ones = tl.full([x.shape[1], 8], 1.0, tl.float32)
    else:
        ones = tl.full([x.shape[0], x.shape[2], 8], 1.0, tl.float32)
    return tl.max(tl.dot(x, ones, input_precision="tf32x3"), -1)  # of eight that are the same


@triton.jit
def expm1(x):
    """exp(x) - 1, by its series where that would cancel."""
    p = 1.0 + x * (1.0 / 8.0) * (1.0 + x * (1.0 / 9.0))
    p = 1.0 + x * (1.0 / 6.0) * (1.0 + x * (1.0 / 7.0) * p)
    p = 1.0 + x * (1.0 / 4.0) * (1.0 + x * (1.0 / 5.0) * p)
    near = x * (1.0 + x * (1.0 / 2.0) * (1.0 + x * (1.0 / 3.0) * p))
    return tl.where(tl.abs(x) < 0.5, near, tl.exp(x) - 1.0)


@triton.jit
def tanh(x):
    m = expm1(-2.0 * tl.abs(x))
    size = -m / (2.0 + m)
    return tl.where(x < 0.0, -size, size)


@triton.jit
def sigmoid(x):
    e = tl.exp(-tl.abs(x))  # at most 1, so that nothing overflows
    return tl.where(x < 0.0, e, 1.0) / (1.0 + e)


@triton.jit
def gelu(x):
    return 0.5 * x * (1.0 + tl.erf(x * 0.7071067811865476))


@triton.jit
def gelu_tanh(x):
    return 0.5 * x * (1.0 + tanh(0.7978845608028654 * (x + 0.044715 * x * x * x)))


@triton.jit
def silu(x):
    return x * sigmoid(x)
