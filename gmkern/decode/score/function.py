"""Scores as one differentiable function of hidden states and the head, in blocks: nothing of size Q x V is held."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from gmkern import _backend
from gmkern.decode.generate.guidance import blend
from gmkern.decode.sample import ops, reference
from gmkern.decode.score.job import ScoreJob
from gmkern.decode.transformer import Transformer
from gmkern.decode.transformer.module import soft_cap

_BLOCK = 1 << 22  # logits in memory at once
Four = tuple[Tensor, Tensor, Tensor, Tensor]


@dataclass(frozen=True)
class Logits:
    """Logits of scored tokens begin to end: of each sequence (two where guided) as the model caps them, and of both."""

    parts: Callable[[int, int], list[Tensor]]
    job: ScoreJob
    cap: float | None

    def of(self, parts: list[Tensor], begin: int, end: int) -> Tensor:
        if len(parts) == 1:
            return parts[0]
        return blend(parts[0], parts[1], self.job.scale(begin, end).to(parts[0].device))

    def __call__(self, begin: int, end: int) -> Tensor:
        return self.of(self.parts(begin, end), begin, end)


def engine_logits(head: Callable[[Tensor], Tensor], hidden: list[Tensor], job: ScoreJob, cap: float | None) -> Logits:
    """To generate's bits, from an engine's hidden states and its head."""

    def parts(begin: int, end: int) -> list[Tensor]:
        return [head(h[begin:end]) for h in hidden]

    return Logits(parts, job, cap)


def module_logits(hidden: list[Tensor], model: Transformer, job: ScoreJob) -> Logits:
    """The same in plain PyTorch."""
    weight, cap = model.head_weight.detach(), model.config.logit_softcap

    def parts(begin: int, end: int) -> list[Tensor]:
        return [soft_cap(h[begin:end].detach() @ weight.t(), cap) for h in hidden]

    return Logits(parts, job, cap)


def _blocks(job: ScoreJob, vocab: int) -> Iterator[tuple[int, int]]:
    size = max(1, _BLOCK // vocab)
    for begin in range(0, job.row.shape[0], size):
        yield begin, min(begin + size, job.row.shape[0])


def _rows_on(device: torch.device) -> ModuleType:
    """Who scores rows there: the compiled ops, or, for models of other devices, PyTorch."""
    compiled = device.type == "cpu" or (device.type == "cuda" and _backend.has_triton())
    return ops if compiled else reference


def values(
    job: ScoreJob, logits: Callable[[int, int], Tensor], vocab: int, dtype: torch.dtype, device: torch.device
) -> Four:
    """(logprobs, raw_logprobs, log_kept_mass, entropy), each [Q] in ``dtype``."""
    module = _rows_on(device)
    parts = [
        module.score_tokens(logits(begin, end), *job.rows(begin, end, device, vocab), job.entropy)
        for begin, end in _blocks(job, vocab)
    ]
    if not parts:
        a, b, c, d = (torch.empty(0, dtype=dtype, device=device) for _ in range(4))
        return a, b, c, d
    a, b, c, d = (torch.cat(column) for column in zip(*parts, strict=True))
    return a, b, c, d


class Scores(torch.autograd.Function):
    """``values`` with the gradient of the head and of the hidden states (one [Q, D], or two where guided).

    Forward logits may come from elsewhere (the engine); they are taken again in backward, so that the kept set is
    theirs, and the chain rule goes on through ``hidden`` and ``weight``.
    """

    @staticmethod
    def forward(ctx: Any, job: ScoreJob, logits: Logits, weight: Tensor, *hidden: Tensor) -> Four:  # type: ignore[override]
        ctx.job, ctx.logits = job, logits
        ctx.save_for_backward(weight, *hidden)
        real = torch.float64 if weight.dtype == torch.float64 else torch.float32
        out = values(job, logits, weight.shape[0], real, weight.device)
        ctx.mark_non_differentiable(out[2])
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        weight, *hidden = ctx.saved_tensors
        job: ScoreJob = ctx.job
        logits: Logits = ctx.logits
        module = _rows_on(weight.device)
        logprob, raw, _, entropy = (grad.contiguous() for grad in grads)
        real = logprob.dtype
        to_weight = torch.zeros(weight.shape, dtype=real, device=weight.device) if ctx.needs_input_grad[2] else None
        to_hidden = [torch.empty_like(h) for h in hidden]
        head = weight.detach().to(real)
        for begin, end in _blocks(job, weight.shape[0]):
            part, parts = slice(begin, end), logits.parts(begin, end)
            by_logits = module.score_tokens_backward(
                logprob[part],
                raw[part],
                entropy[part],
                logits.of(parts, begin, end),
                *job.rows(begin, end, weight.device, weight.shape[0]),
            )
            shares = [by_logits]
            if len(hidden) == 2:  # unconditional + scale (conditional - unconditional)
                scale = job.scale(begin, end).to(by_logits).unsqueeze(1)
                shares = [scale * by_logits, (1 - scale) * by_logits]
            for share, capped, h, out in zip(shares, parts, hidden, to_hidden, strict=True):
                if logits.cap is not None:  # the slope of c tanh(x / c)
                    share = share * (1 - (capped.to(real) / logits.cap).square())
                out[part] = (share @ head).to(h.dtype)
                if to_weight is not None:
                    to_weight.addmm_(share.t(), h[part].detach().to(real))
        return None, None, None if to_weight is None else to_weight.to(weight.dtype), *to_hidden


class SameValue(torch.autograd.Function):
    """The value of one tensor with the gradient of another."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, differentiable: Tensor) -> Tensor:  # type: ignore[override]
        ctx.dtype = differentiable.dtype
        return value.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor]:  # type: ignore[override]
        return None, grad.to(ctx.dtype)


class FromLogits(torch.autograd.Function):
    """``values`` of logits [Q, V] that are there already: those of callable models."""

    @staticmethod
    def forward(ctx: Any, job: ScoreJob, logits: Tensor) -> Four:  # type: ignore[override]
        ctx.job = job
        ctx.save_for_backward(logits)
        real = torch.float64 if logits.dtype == torch.float64 else torch.float32
        out = values(job, lambda begin, end: logits[begin:end].detach(), logits.shape[1], real, logits.device)
        ctx.mark_non_differentiable(out[2])
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        (logits,) = ctx.saved_tensors
        module = _rows_on(logits.device)
        logprob, raw, _, entropy = (grad.contiguous() for grad in grads)
        out = torch.empty_like(logits)
        for begin, end in _blocks(ctx.job, logits.shape[1]):
            part = slice(begin, end)
            rows = ctx.job.rows(begin, end, logits.device, logits.shape[1])
            given = (logprob[part], raw[part], entropy[part], logits[part].detach())
            out[part] = module.score_tokens_backward(*given, *rows).to(logits.dtype)
        return None, out
