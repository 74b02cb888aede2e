"""Elementary functions for Triton kernels, to a few ulp of float32 also where the plain formula cancels.

Not the noise contract's: those are bit for bit the same everywhere, and are in ``random/triton_kernels.py``.
"""

from __future__ import annotations

import triton
import triton.language as tl

from gmkern import _backend

_COMPILED = tl.constexpr(not _backend.triton_interprets())


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


@triton.jit
def brief_silu(x):
    """``silu`` of float32 in five instructions: exp2 overflows to inf, whose reciprocal is 0 as it should be. Division
    and exp, here by the hardware's estimates too, look for ranges besides that do not come up."""
    return x * _reciprocal(1.0 + tl.exp2(x * -1.4426950408889634))


@triton.jit
def _reciprocal(x):
    """1 / x within an ulp, 0 where that is below the normal numbers."""
    if _COMPILED:
        return tl.inline_asm_elementwise(
            "rcp.approx.ftz.f32 $0, $1;", "=f,f", [x], dtype=tl.float32, is_pure=True, pack=1
        )
    return 1.0 / x  # the interpreter knows no assembler
