"""The ops ``gmkern::sample`` and ``gmkern::token_logprobs``: C++ on CPU, Triton on CUDA; fake kernels and autograd."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from gmkern._interrupt import audible
from gmkern._library import ops

sample = audible(ops.sample.default)
token_logprobs = audible(ops.token_logprobs.default)
token_logprobs_backward = audible(ops.token_logprobs_backward.default)
score_tokens = audible(ops.score_tokens.default)  # no gradient of its own: gmkern.decode.score has one in blocks
score_tokens_backward = audible(ops.score_tokens_backward.default)

_SECOND = "token_logprobs: second derivatives are not served; differentiate log_softmax of the kept logits for them"


def _real(logits: Tensor) -> torch.dtype:
    return torch.float64 if logits.dtype == torch.float64 else torch.float32


@torch.library.register_fake("gmkern::sample")
def _(
    logits: Tensor,
    params: Tensor,
    mask: Tensor | None,
    history: Tensor | None,
    seed: Tensor,
    sample_ids: Tensor,
    step: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    rows = logits.shape[:1]
    real = _real(logits)
    return (
        logits.new_empty(rows, dtype=torch.int64),
        logits.new_empty(rows, dtype=real),
        logits.new_empty(rows, dtype=real),
        logits.new_empty(rows, dtype=real),
    )


@torch.library.register_fake("gmkern::token_logprobs")
def _(logits: Tensor, tokens: Tensor, params: Tensor, mask: Tensor | None, history: Tensor | None) -> Tensor:
    return logits.new_empty(logits.shape[:1], dtype=_real(logits))


@torch.library.register_fake("gmkern::token_logprobs_backward")
def _(
    grad: Tensor, logits: Tensor, tokens: Tensor, params: Tensor, mask: Tensor | None, history: Tensor | None
) -> Tensor:
    return logits.new_empty(logits.shape, dtype=_real(logits))


@torch.library.register_fake("gmkern::score_tokens")
def _(
    logits: Tensor, tokens: Tensor, params: Tensor, mask: Tensor | None, history: Tensor | None, entropy: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    a, b, c, d = (logits.new_empty(logits.shape[:1], dtype=_real(logits)) for _ in range(4))
    return a, b, c, d


@torch.library.register_fake("gmkern::score_tokens_backward")
def _(
    grad_logprobs: Tensor,
    grad_raw: Tensor,
    grad_entropy: Tensor,
    logits: Tensor,
    tokens: Tensor,
    params: Tensor,
    mask: Tensor | None,
    history: Tensor | None,
) -> Tensor:
    return logits.new_empty(logits.shape, dtype=_real(logits))


@torch.library.register_kernel("gmkern::sample", "cuda")
def _(*args: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    from gmkern.decode.sample import triton_kernels  # Triton is optional, and slow to import

    return triton_kernels.sample(*args)


@torch.library.register_kernel("gmkern::token_logprobs", "cuda")
def _(*args: Any) -> Tensor:
    from gmkern.decode.sample import triton_kernels

    return triton_kernels.token_logprobs(*args)


@torch.library.register_kernel("gmkern::token_logprobs_backward", "cuda")
def _(*args: Any) -> Tensor:
    from gmkern.decode.sample import triton_kernels

    return triton_kernels.token_logprobs_backward(*args)


@torch.library.register_kernel("gmkern::score_tokens", "cuda")
def _(*args: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    from gmkern.decode.sample import triton_kernels

    return triton_kernels.score_tokens(*args)


@torch.library.register_kernel("gmkern::score_tokens_backward", "cuda")
def _(*args: Any) -> Tensor:
    from gmkern.decode.sample import triton_kernels

    return triton_kernels.score_tokens_backward(*args)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    ctx.save_for_backward(*inputs)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    logits = ctx.saved_tensors[0]
    # the op by its name, so that its own autograd entry is seen by a second derivative
    given = token_logprobs_backward(grad.contiguous(), *ctx.saved_tensors)
    return given.to(logits.dtype), None, None, None, None


def _no_second(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    raise RuntimeError(_SECOND)


torch.library.register_autograd("gmkern::token_logprobs", _backward, setup_context=_save)
torch.library.register_autograd("gmkern::token_logprobs_backward", _no_second, setup_context=_save)


class Composed(torch.autograd.Function):
    """``token_logprobs`` of a module with Python functions of the ops' names: the reference, or Triton interpreted."""

    @staticmethod
    def forward(ctx: Any, module: ModuleType, *inputs: Tensor | None) -> Tensor:  # type: ignore[override]
        ctx.module = module
        ctx.save_for_backward(*inputs)
        return module.token_logprobs(*inputs)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        given = _ComposedBackward.apply(ctx.module, grad.contiguous(), *ctx.saved_tensors)
        return None, given.to(ctx.saved_tensors[0].dtype), None, None, None, None


class _ComposedBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, module: ModuleType, *inputs: Tensor | None) -> Tensor:  # type: ignore[override]
        return module.token_logprobs_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        raise RuntimeError(_SECOND)
