"""The op ``gmkern::kernel_sum``: fake kernels and first derivatives."""

from __future__ import annotations

from typing import Any, NoReturn

import torch
from torch import Tensor

from gmkern._interrupt import audible
from gmkern._library import ops
from gmkern.neighbors._points import accumulated

kernel_sum = audible(ops.kernel_sum.default)
kernel_sum_backward = audible(ops.kernel_sum_backward.default)
kernel_sum_resume = audible(ops.kernel_sum_resume.default)
kernel_sum_total = audible(ops.kernel_sum_total.default)


@torch.library.register_fake("gmkern::kernel_sum")
def _(queries: Tensor, references: Tensor, rates: Tensor, weights: Tensor, *_: Any) -> Tensor:
    torch._check(references.shape[0] == queries.shape[0])
    torch._check(references.shape[2] == queries.shape[2])
    return queries.new_empty(queries.shape[:2], dtype=accumulated(queries.dtype))


@torch.library.register_fake("gmkern::kernel_sum_backward")
def _(
    incoming: Tensor,
    sums: Tensor,
    queries: Tensor,
    references: Tensor,
    rates: Tensor,
    weights: Tensor,
    log_weights: Tensor | None,
    kernel: int,
    exponent: float,
    offset: float,
    degree: int,
    exclude_self: bool,
    of_queries: bool,
    of_references: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    batch, n, dim = queries.shape
    m = references.shape[1] if of_references else 0
    return (
        sums.new_empty((batch, n if of_queries else 0, dim)),
        sums.new_empty((batch, m, dim)),
        sums.new_empty((batch, m)),
        sums.new_empty((batch, m)),
    )


@torch.library.register_fake("gmkern::kernel_sum_resume")
def _(state: Tensor, *_: Any) -> Tensor:
    return torch.empty_like(state)


@torch.library.register_fake("gmkern::kernel_sum_total")
def _(state: Tensor, log: bool) -> Tensor:
    return state.new_empty(state.shape[:2])


@torch.library.register_kernel("gmkern::kernel_sum", "cuda")
def _(*args: Any) -> Tensor:
    from gmkern.neighbors.kernel_sum import triton_kernels  # Triton is optional, and slow to import

    return triton_kernels.kernel_sum(*args)


@torch.library.register_kernel("gmkern::kernel_sum_backward", "cuda")
def _(*args: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    from gmkern.neighbors.kernel_sum import triton_kernels

    return triton_kernels.kernel_sum_backward(*args)


def _context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:5], output)
    ctx.rest = inputs[5:]


def _backward(ctx: Any, incoming: Tensor) -> tuple[Any, ...]:
    queries, references, rates, weights, log_weights, sums = ctx.saved_tensors
    of_queries, of_references = ctx.needs_input_grad[0], any(ctx.needs_input_grad[1:5])
    to_queries, to_references, to_weights, to_rates = kernel_sum_backward(
        incoming.contiguous(), sums, queries, references, rates, weights, log_weights, *ctx.rest,
        of_queries, of_references,
    )  # fmt: skip
    return (
        to_queries.to(queries.dtype) if of_queries else None,
        to_references.to(queries.dtype) if of_references else None,
        to_rates if of_references else None,
        to_weights if of_references else None,
        # log_weights enter beside the logarithms of the weights
        weights * to_weights if of_references and log_weights is not None else None,
        *(None,) * 5,
    )


def _no_second_derivative(ctx: Any, *_: Any) -> NoReturn:
    raise RuntimeError(
        "kernel_sum: the compiled kernel has first derivatives alone; backend='reference' has them of any order"
    )


torch.library.register_autograd("gmkern::kernel_sum", _backward, setup_context=_context)
torch.library.register_autograd(
    "gmkern::kernel_sum_backward", _no_second_derivative, setup_context=lambda ctx, inputs, output: None
)
