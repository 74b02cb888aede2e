"""Kernel sums over references that are spread over ranks.

On CPUs the lanes of a query's sum travel from rank to rank; on GPUs each rank's sum goes to the owner of the query.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable

from gmkern import _backend, _validate
from gmkern._validate import ArrayLike
from gmkern.distributed._asked import asked
from gmkern.distributed._group import Group, device_of, one_number, points_asked, points_of, starts
from gmkern.neighbors import _points
from gmkern.neighbors.kernel_sum.api import (
    KERNELS,
    SCALED,
    Shape,
    compiled,
    gradients,
    mixture_of,
    no_terms,
    sum_of,
    with_terms,
)
from gmkern.neighbors.kernel_sum.reference import check_numbers

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
    backend: str | None = None,
) -> Tensor:
    """The sum over all ranks' references of ``weights[j] * K(queries[i], references[j])``, for this rank's queries.

    As :func:`gmkern.neighbors.kernel_sum` on the whole, with the sharding of :func:`knn`.

    Parameters
    ----------
    queries : [N, D], this rank's own.
    references : [M, D], this rank's shard; None: its queries.
    kernel, alpha, degree, gamma, coef0 : as for :func:`gmkern.neighbors.kernel_sum`, one of all ranks.
    bandwidth, weights : one number of all ranks, or [M] of this rank's references.
    exclude_self : reference i of this rank is its query i, and not counted.
    group : None takes the default group.
    backend : None, "cpu" (C++) or "triton" (CUDA).

    Returns
    -------
    Tensor [N]: float64 for float64 points, else float32.

    Raises
    ------
    TypeError, ValueError, RuntimeError : as for :func:`knn`.

    Notes
    -----
    "cpu": lanes of a sum pass through the ranks in the order of the references, so that the bits are those of one
    process for any number of ranks and on every instruction set where shards (but the last) are multiples of 16 rows;
    in other places a float64 sum is rounded in another order. "triton": each rank's sum is rounded to the result's
    dtype, and these are added in float64 in the order of ranks: one result for one division into shards, but other
    divisions differ by roundings. Differentiable (once) in queries, references, bandwidth and weights, where each
    requires a gradient on every rank or on none: the backward pass is a collective as well. Queries get the gradient of
    their own rank's sums; references, bandwidths and weights of all ranks' sums (docs/scaling.md has what that is
    under DDP and FSDP).

    Examples
    --------
    >>> import torch
    >>> from gmkern import distributed  # in a group, here of one rank
    >>> distributed.kernel_sum(torch.zeros(1, 2), torch.zeros(3, 2), kernel="rbf", bandwidth=1.0)
    tensor([3.])
    """
    return _sum(
        "distributed.kernel_sum", False, queries, references, kernel, bandwidth, weights, None, alpha, degree, gamma,
        coef0, exclude_self, group, backend,
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
    backend: str | None = None,
) -> Tensor:
    """The logarithm of :func:`kernel_sum`: :func:`gmkern.neighbors.log_kernel_sum` over all ranks' references.

    Parameters
    ----------
    queries, references, bandwidth, weights, alpha, exclude_self, group, backend : as for :func:`kernel_sum`.
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

    Examples
    --------
    >>> import torch
    >>> from gmkern import distributed  # in a group, here of one rank
    >>> distributed.log_kernel_sum(torch.zeros(1, 2), torch.zeros(3, 2), kernel="rbf", bandwidth=1.0).exp()
    tensor([3.])
    """
    return _sum(
        "distributed.log_kernel_sum", True, queries, references, kernel, bandwidth, weights, log_weights, alpha, 1,
        None, 0.0, exclude_self, group, backend,
    )  # fmt: skip


def _sum(
    name: str,
    log: bool,
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
    backend: str | None,
) -> Tensor:
    def check() -> tuple[tuple[Tensor, Tensor, list[Any], Shape, str], dict[str, str]]:
        _validate.one_of("kernel", kernel, SCALED if log else KERNELS)
        if weights is not None and log_weights is not None:
            raise _validate.bad("log_weights", "them beside weights", "one of the two")
        x, y = points_of(queries, references, exclude_self)
        logs = 0.0 if log and log_weights is None else log_weights
        mixture, shape = mixture_of(
            x[None], (1, len(y)), False, kernel, bandwidth, weights, logs, alpha, degree, gamma, coef0
        )
        numbers: list[Any] = [None if t is None else t.expand(1, len(y)).contiguous() for t in mixture]
        given = [t for t in (x, y, *numbers) if t is not None]
        check_numbers(x[None], y[None], *numbers)
        served = [("cpu", _backend.on_cpu(x.device)), ("triton", _points.on_triton(x[None], y[None], *given))]
        chosen = _backend.choose(name, backend, served)
        wanted = [torch.is_grad_enabled() and t is not None and t.requires_grad for t in (x, y, *numbers)]
        told = asked(
            kernel=kernel, bandwidth=one_number(bandwidth), weights=one_number(weights),
            log_weights=one_number(log_weights), alpha=alpha, degree=degree, gamma=gamma, coef0=coef0,
            exclude_self=exclude_self, backend=chosen,
        )  # fmt: skip
        wants = {"gradients of (queries, references, bandwidth, weights, log_weights)": f"{wanted}"}
        return (x, y, numbers, shape, chosen), told | points_asked(x) | wants

    at = Group(name, group, device_of(queries))
    x, y, numbers, shape, chosen = at.agree(check, same_bits=False)
    work = _Work(at, chosen, shape, bool(exclude_self), at.numbers(len(x), len(y)))
    return _Sums.apply(x, y, *numbers, work)


class _Work(NamedTuple):
    """What the ranks agreed on."""

    at: Group
    chosen: str
    shape: Shape
    exclude_self: bool
    counts: list[list[int]]
    """Of each rank: queries and references."""

    @property
    def sizes(self) -> list[int]:
        return [queries for queries, _ in self.counts]

    def of_each(self, *mine: Tensor) -> list[tuple[int, bool, list[Tensor]]]:
        """For each rank: its number, whether reference i is query i of its and left out, its rows [1, n, ...]."""
        rows = zip(*(self.at.rows_of_all(t, self.sizes) for t in mine), strict=True)
        return [
            (owner, self.exclude_self and owner == self.at.rank, [t[None].contiguous() for t in theirs])
            for owner, theirs in enumerate(rows)
        ]


class _Sums(torch.autograd.Function):
    """Gradients of each shard's terms, at the owner of their query or reference."""

    @staticmethod
    def forward(ctx, x, y, rates, weights, log_weights, work):  # type: ignore[no-untyped-def]
        total = (_chained if work.chosen == "cpu" else _merged)(work, x, y, [rates, weights, log_weights])
        ctx.save_for_backward(x, y, rates, weights, log_weights, total)
        ctx.work = work
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):  # type: ignore[no-untyped-def]
        x, y, rates, weights, log_weights, total = ctx.saved_tensors
        work = ctx.work
        to_y = torch.zeros_like(y, dtype=grad.dtype)
        to_rates, to_weights = torch.zeros_like(rates), torch.zeros_like(weights)
        to_queries = []
        for _, own, (q, sums, incoming) in work.of_each(x, total, grad.contiguous()):
            to_q = torch.zeros_like(q, dtype=grad.dtype)
            if len(y) and q.shape[1]:
                to_q, *of_references = gradients(
                    incoming, sums, q, y[None].contiguous(), rates, weights, log_weights, work.shape, own
                )
                for into, more in zip((to_y[None], to_weights, to_rates), of_references, strict=True):
                    into += more
            to_queries.append(to_q[0])
        to_x = work.at.to_owners(torch.cat(to_queries), work.sizes).sum(0).to(x.dtype)
        # log_weights enter beside the logarithms of the weights
        to_log_weights = None if log_weights is None else weights * to_weights
        return to_x, to_y.to(y.dtype), to_rates, to_weights, to_log_weights, None


def _chained(work: _Work, x: Tensor, y: Tensor, mixture: list[Tensor | None]) -> Tensor:
    """Sums [N] with the lanes of one process, which pass from rank to rank."""
    at = work.at
    shift = starts([references for _, references in work.counts])[at.rank] % _LANES
    result = no_terms(x[None])
    sent = []
    # Rank r adds its terms to the sums of rank 0's queries, then of rank 1's, ..., as rank r - 1 passes them on.
    for owner, own, (q,) in work.of_each(x):
        if not q.shape[1]:
            continue
        sums = no_terms(q)
        if at.rank > 0:
            sums = at.receive(at.rank - 1, sums)
        if len(y):
            # Reference j belongs to lane j % 16 of the whole; here lanes are counted from this rank's first.
            sums = with_terms(_rolled(sums, -shift), q, y[None].contiguous(), mixture, work.shape, own, 0)
            sums = _rolled(sums, shift)
        if at.rank + 1 < at.size:
            sent.append(at.send(at.rank + 1, sums))
        elif owner != at.rank:
            sent.append(at.send(owner, sums))
        else:
            result = sums
    if at.rank + 1 < at.size and len(x):
        result = at.receive(at.size - 1, result)
    for wait in sent:
        wait()
    return sum_of(result, x, mixture[2] is not None)


def _merged(work: _Work, x: Tensor, y: Tensor, mixture: list[Tensor | None]) -> Tensor:
    """Sums [N] of each rank's own, in float64 in the order of ranks."""
    theirs = work.of_each(x)

    def mine() -> Tensor:
        sums = [compiled(work.chosen, q, y[None].contiguous(), mixture, work.shape, own) for _, own, (q,) in theirs]
        return torch.cat(sums, 1)[0]

    parts = work.at.to_owners(work.at.settled(mine), work.sizes)
    total = parts.double()
    total = total.sum(0) if mixture[2] is None else total.logsumexp(0)
    return total.to(parts.dtype)


def _rolled(sums: Tensor, by: int) -> Tensor:
    return torch.cat([sums[..., :_LANES].roll(by, -1), sums[..., _LANES:]], -1)
