"""Kernel sums over references that are spread over ranks: the lanes of a query's sum travel from rank to rank."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable

from gmkern import _validate
from gmkern._validate import ArrayLike
from gmkern.distributed._group import Group, device_of, points_of, starts
from gmkern.neighbors.kernel_sum.api import (
    KERNELS,
    SCALED,
    Shape,
    gradients,
    mixture_of,
    no_terms,
    sum_of,
    with_terms,
)

_LANES = 16


def kernel_sum(
    queries: ArrayLike,
    references: ArrayLike | None = None,
    *,
    kernel: str = "rbf",
    bandwidth: ArrayLike | float | None = None,
    weights: ArrayLike | None = None,
    alpha: float = 1.0,
    degree: int = 3,
    gamma: float | None = None,
    coef0: float = 1.0,
    exclude_self: bool = False,
    group: dist.ProcessGroup | None = None,
) -> Tensor:
    """The sum over all ranks' references of ``weights[j] * K(queries[i], references[j])``, for this rank's queries.

    As :func:`gmkern.neighbors.kernel_sum` on the whole, on a CPU, with the sharding of :func:`knn`.

    Parameters
    ----------
    queries : [N, D], this rank's own.
    references : [M, D], this rank's shard; None: its queries.
    kernel, alpha, degree, gamma, coef0 : as for :func:`gmkern.neighbors.kernel_sum`, one of all ranks.
    bandwidth, weights : one number, or [M] of this rank's references.
    exclude_self : reference i of this rank is its query i, and not counted.
    group : None takes the default group.

    Returns
    -------
    Tensor [N]: float64 for float64 points, else float32.

    Raises
    ------
    TypeError, ValueError, RuntimeError : as for :func:`knn`.

    Notes
    -----
    Lanes of a sum pass through the ranks in the order of the references, so that the bits are those of one process for
    any number of ranks where shards (but the last) are multiples of 16 rows; in other places a float64 sum is rounded
    in another order. All ranks must run one instruction set. Differentiable (once) in queries, references, bandwidth
    and weights, where each requires a gradient on every rank or on none: the backward pass is a collective as well.
    Queries get the gradient of their own rank's sums; references, bandwidths and weights of all ranks' sums.
    """
    _validate.one_of("kernel", kernel, KERNELS)
    return _chained(
        "distributed.kernel_sum", queries, references, kernel, bandwidth, weights, None, alpha, degree, gamma, coef0,
        exclude_self, group,
    )  # fmt: skip


def log_kernel_sum(
    queries: ArrayLike,
    references: ArrayLike | None = None,
    *,
    kernel: str = "rbf",
    bandwidth: ArrayLike | float,
    weights: ArrayLike | None = None,
    log_weights: ArrayLike | None = None,
    alpha: float = 1.0,
    exclude_self: bool = False,
    group: dist.ProcessGroup | None = None,
) -> Tensor:
    """The logarithm of :func:`kernel_sum`: :func:`gmkern.neighbors.log_kernel_sum` over all ranks' references.

    Parameters
    ----------
    queries, references, bandwidth, weights, alpha, exclude_self, group : as for :func:`kernel_sum`.
    kernel, log_weights : as for :func:`gmkern.neighbors.log_kernel_sum`; ``log_weights`` [M] of this rank's references.

    Returns
    -------
    Tensor [N]: float64 for float64 points, else float32; minus infinity where no mass is.

    Raises
    ------
    TypeError, ValueError, RuntimeError : as for :func:`kernel_sum`.

    Notes
    -----
    As for :func:`kernel_sum`.
    """
    _validate.one_of("kernel", kernel, SCALED)
    if weights is not None and log_weights is not None:
        raise _validate.bad("log_weights", "them beside weights", "one of the two")
    return _chained(
        "distributed.log_kernel_sum", queries, references, kernel, bandwidth, weights,
        0.0 if log_weights is None else log_weights, alpha, 1, None, 0.0, exclude_self, group,
    )  # fmt: skip


def _chained(
    name: str,
    queries: ArrayLike,
    references: ArrayLike | None,
    kernel: str,
    bandwidth: ArrayLike | float | None,
    weights: ArrayLike | None,
    log_weights: ArrayLike | float | None,
    alpha: float,
    degree: int,
    gamma: float | None,
    coef0: float,
    exclude_self: bool,
    group: dist.ProcessGroup | None,
) -> Tensor:
    def check() -> tuple[tuple[Tensor, Tensor, list[Tensor | None], Shape], str]:
        x, y = points_of(queries, references, exclude_self)
        if x.device.type != "cpu":
            raise _validate.bad("queries", f"a tensor on {x.device}", "one on the CPU, where sums are resumed")
        mixture, shape = mixture_of(
            x[None], (1, y.shape[0]), False, kernel, bandwidth, weights, log_weights, alpha, degree, gamma, coef0
        )
        numbers = [None if t is None else t.expand(1, y.shape[0]).contiguous() for t in mixture]
        wanted = [torch.is_grad_enabled() and t is not None and t.requires_grad for t in (x, y, *numbers)]
        asks = f"kernel {tuple(shape)}, log={mixture[2] is not None}, exclude_self={exclude_self}"
        names = "queries, references, bandwidth, weights, log_weights"
        return (x, y, numbers, shape), f"{asks}, D={x.shape[1]}, {x.dtype}, gradients of ({names}): {wanted}"

    at = Group(name, group, device_of(queries))
    x, y, numbers, shape = at.agree(check, same_bits=True)
    return _Chain.apply(x, y, *numbers, at, at.numbers(x.shape[0], y.shape[0]), shape, bool(exclude_self))


class _Chain(torch.autograd.Function):
    """Sums that pass from rank to rank; gradients of each shard's terms, at the owner of their query or reference."""

    @staticmethod
    def forward(ctx, x, y, rates, weights, log_weights, at, counts, shape, exclude_self):  # type: ignore[no-untyped-def]
        shift = starts([m for _, m in counts])[at.rank] % _LANES
        result = no_terms(x[None])
        sent = []
        # Rank r adds its terms to the sums of rank 0's queries, then of rank 1's, ..., as rank r - 1 passes them on.
        for owner, q in enumerate(at.rows_of_all(x, [n for n, _ in counts])):
            sums = no_terms(q[None])
            if at.rank > 0:
                sums = at.receive(at.rank - 1, sums)
            if y.shape[0] and q.shape[0]:
                # Reference j belongs to lane j % 16 of the whole; here lanes are counted from this rank's first.
                sums = _rolled(sums, -shift)
                own = exclude_self and owner == at.rank
                part = [rates, weights, log_weights]
                sums = with_terms(sums, q[None].contiguous(), y[None].contiguous(), part, shape, own, 0)
                sums = _rolled(sums, shift)
            if at.rank + 1 < at.size:
                sent.append(at.send(at.rank + 1, sums))
            elif owner != at.rank:
                sent.append(at.send(owner, sums))
            else:
                result = sums
        if at.rank + 1 < at.size:
            result = at.receive(at.size - 1, result)
        for wait in sent:
            wait()
        total = sum_of(result, x, log_weights is not None)
        ctx.save_for_backward(x, y, rates, weights, log_weights, total)
        ctx.rest = at, [n for n, _ in counts], shape, exclude_self
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):  # type: ignore[no-untyped-def]
        x, y, rates, weights, log_weights, total = ctx.saved_tensors
        at, sizes, shape, exclude_self = ctx.rest
        to_x, to_y = torch.zeros_like(x), torch.zeros_like(y, dtype=grad.dtype)
        to_rates, to_weights = torch.zeros_like(rates), torch.zeros_like(weights)
        of_all = zip(*(at.rows_of_all(t, sizes) for t in (x, total, grad.contiguous())), strict=True)
        for owner, (q, sums, incoming) in enumerate(of_all):
            to_q = torch.zeros_like(q, dtype=grad.dtype)
            if y.shape[0] and q.shape[0]:
                own = exclude_self and owner == at.rank
                of_queries, *of_references = gradients(
                    incoming[None].contiguous(), sums[None].contiguous(), q[None].contiguous(), y[None].contiguous(),
                    rates, weights, log_weights, shape, own,
                )  # fmt: skip
                to_q = of_queries[0]
                for into, more in zip((to_y[None], to_weights, to_rates), of_references, strict=True):
                    into += more
            parts = at.to_owner(owner, to_q)
            if parts is not None:
                to_x = torch.stack(parts).sum(0).to(x.dtype)
        # log_weights enter beside the logarithms of the weights
        to_log_weights = None if log_weights is None else weights * to_weights
        return to_x, to_y.to(y.dtype), to_rates, to_weights, to_log_weights, None, None, None, None


def _rolled(sums: Tensor, by: int) -> Tensor:
    return torch.cat([sums[..., :_LANES].roll(by, -1), sums[..., _LANES:]], -1)
