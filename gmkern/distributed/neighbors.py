"""Neighbours among references that are spread over ranks: each rank searches its own, the owner of a query merges."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor

from gmkern import _validate, neighbors
from gmkern._validate import ArrayLike
from gmkern.distributed._group import Group, device_of, points_of, starts
from gmkern.neighbors import KNN, _points
from gmkern.neighbors.knn.api import METRICS

_DIFFERENTIABLE = ("euclidean", "sqeuclidean")


def knn(
    queries: ArrayLike,
    references: ArrayLike | None = None,
    k: int = 1,
    *,
    metric: str = "euclidean",
    exclude_self: bool = False,
    group: dist.ProcessGroup | None = None,
    backend: str | None = None,
) -> KNN:
    """The k nearest of all ranks' references, for this rank's queries: as :func:`gmkern.neighbors.knn` on the whole.

    Parameters
    ----------
    queries : [N, D], this rank's own; ranks may hold different numbers, none included.
    references : [M, D], this rank's shard, of the same dtype; None: its queries. References are numbered through, in
        the order of ranks.
    k : 1 to the number of all references (less one with ``exclude_self``).
    metric, backend : as for :func:`gmkern.neighbors.knn`.
    exclude_self : reference i of this rank is its query i, and no neighbour of it; N = M on every rank.
    group : None takes the default group.

    Returns
    -------
    KNN : distances [N, k] and indices [N, k] of this rank's queries; indices in the whole.

    Raises
    ------
    TypeError, ValueError : naming the argument, on the rank that gave it; RuntimeError on the others, with its text,
        and where ranks disagree (metric, k, dtype, D, version, kind of device).

    Notes
    -----
    The bits of one process for any number of ranks. Each rank holds all ranks' queries at once, and for one rank's
    queries at a time k candidates of every rank. Differentiable in queries and references for "euclidean" and
    "sqeuclidean", where every rank's inputs require a gradient or none's do: the backward pass is a collective as well,
    references get the gradient of all ranks' distances, and DDP averages over ranks as it does any loss.

    Examples
    --------
    On each of two ranks, ``gmkern.distributed.knn(generated_here, train_here, k=5)``.
    """

    def check() -> tuple[tuple[Tensor, Tensor], str]:
        _validate.integer("k", k, low=1)
        _validate.one_of("metric", metric, METRICS)
        x, y = points_of(queries, references, exclude_self)
        wanted = x.requires_grad, y.requires_grad
        if any(wanted) and metric not in _DIFFERENTIABLE:
            raise _validate.bad("metric", repr(metric), f"one of {_DIFFERENTIABLE} where gradients are wanted")
        asks = f"k={k}, metric={metric}, exclude_self={exclude_self}, D={x.shape[1]}, {x.dtype}"
        return (x, y), f"{asks}, gradients of (queries, references): {wanted}"

    at = Group("distributed.knn", group, device_of(queries))
    x, y = at.agree(check, same_bits=False)
    counts = at.numbers(x.shape[0], y.shape[0])
    total = sum(m for _, m in counts)
    if k > total - exclude_self:
        raise _validate.bad("k", str(k), f"an int >= 1 and <= {total - exclude_self}: there are {total} references")
    return KNN(*_Nearest.apply(x, y, at, counts, k, metric, exclude_self, backend))


def count_within(
    queries: ArrayLike,
    references: ArrayLike,
    radii: ArrayLike | float,
    *,
    per: str = "query",
    strict: bool = False,
    exclude_self: bool = False,
    group: dist.ProcessGroup | None = None,
    backend: str | None = None,
) -> Tensor:
    """How many of all ranks' references lie within a radius, for this rank's queries.

    As :func:`gmkern.neighbors.count_within` on the whole, with the sharding of :func:`knn`.

    Parameters
    ----------
    queries : [N, D], this rank's own.
    references : [M, D], this rank's shard.
    radii : one number, or [N] of this rank's queries (``per="query"``), or [M] of its references (``per="reference"``).
    per, strict, backend : as for :func:`gmkern.neighbors.count_within`.
    exclude_self : reference i of this rank is its query i, and not counted.
    group : None takes the default group.

    Returns
    -------
    Tensor [N] int64.

    Raises
    ------
    TypeError, ValueError, RuntimeError : as for :func:`knn`.

    Notes
    -----
    The same counts for any number of ranks. No gradient.
    """

    def check() -> tuple[tuple[Tensor, Tensor, Tensor], str]:
        x, y = (t.detach() for t in points_of(queries, references, exclude_self))
        rows = y.shape[0] if per == "reference" else x.shape[0]
        wide = _points.accumulated(x.dtype)
        if isinstance(radii, (int, float)) and not isinstance(radii, bool):
            r = x.new_full((rows,), float(radii), dtype=wide)
        else:
            r = _validate.tensor("radii", radii, ndim=1, dtypes=(wide,), device=x.device)
        if r.shape[0] != rows or bool(r.isnan().any()):
            raise _validate.bad("radii", radii, f"shape [{rows}], one a {per}, or one number, and no NaN")
        _validate.one_of("per", per, ("query", "reference"))
        return (x, y, r), f"per={per}, strict={strict}, exclude_self={exclude_self}, D={x.shape[1]}, {x.dtype}"

    at = Group("distributed.count_within", group, device_of(queries))
    x, y, r = at.agree(check, same_bits=False)
    counts = at.numbers(x.shape[0])
    sizes = [n for (n,) in counts]
    theirs = at.rows_of_all(x, sizes)
    radii_of = at.rows_of_all(r, sizes) if per == "query" else [r] * at.size
    found = torch.zeros(x.shape[0], dtype=torch.int64, device=x.device)
    for owner, (q, limit) in enumerate(zip(theirs, radii_of, strict=True)):
        mine = torch.zeros(q.shape[0], dtype=torch.int64, device=x.device)
        if q.shape[0] and y.shape[0]:
            own = exclude_self and owner == at.rank
            mine = neighbors.count_within(q, y, limit, per=per, strict=strict, exclude_self=own, backend=backend)
        parts = at.to_owner(owner, mine)
        if parts is not None:
            found = torch.stack(parts).sum(0)
    return found


class _Nearest(torch.autograd.Function):
    """Candidates of every shard, merged where their queries are; gradients go the way back."""

    @staticmethod
    def forward(ctx, x, y, at, counts, k, metric, exclude_self, backend):  # type: ignore[no-untyped-def]
        sizes, first = [n for n, _ in counts], starts([m for _, m in counts])[at.rank]
        theirs = at.rows_of_all(x, sizes)
        wide = _points.accumulated(x.dtype)
        distances, indices = x.new_zeros((x.shape[0], k), dtype=wide), x.new_zeros((x.shape[0], k), dtype=torch.int64)
        for owner, q in enumerate(theirs):
            own = exclude_self and owner == at.rank
            held = min(k, y.shape[0] - own)
            near = torch.full((q.shape[0], k), torch.inf, dtype=wide, device=x.device)
            index = torch.full((q.shape[0], k), -1, dtype=torch.int64, device=x.device)  # no candidate
            if held > 0 and q.shape[0]:
                found = neighbors.knn(q, y, held, metric=metric, exclude_self=own, backend=backend)
                near[:, :held], index[:, :held] = found.distances, found.indices + first
            parts, numbers = at.to_owner(owner, near), at.to_owner(owner, index)
            if parts is not None and numbers is not None:
                # Ranks hold references in the order of their index, so a stable sort keeps (distance, index); where
                # distances overflow, a missing candidate comes behind the infinite ones.
                all_near, all_index = torch.cat(parts, 1), torch.cat(numbers, 1)
                order = (all_index < 0).to(torch.int8).sort(dim=1, stable=True).indices
                all_near, all_index = all_near.gather(1, order), all_index.gather(1, order)
                distances, order = all_near.sort(dim=1, stable=True)
                distances, indices = distances[:, :k].contiguous(), all_index.gather(1, order)[:, :k].contiguous()
        ctx.save_for_backward(x, y, distances, indices)
        ctx.rest = at, sizes, first, metric
        ctx.mark_non_differentiable(indices)
        return distances, indices

    @staticmethod
    def backward(ctx, grad, _):  # type: ignore[no-untyped-def]
        x, y, distances, indices = ctx.saved_tensors
        at, sizes, first, metric = ctx.rest
        # d distance = weight (q - r): 2 for the square, 1 / distance for the root, 0 at distance 0.
        grad = torch.where(distances > 0, grad / distances, 0.0) if metric == "euclidean" else 2 * grad
        to_x, to_y = torch.zeros_like(x), torch.zeros_like(y, dtype=grad.dtype)
        edges = zip(at.rows_of_all(x, sizes), at.rows_of_all(indices, sizes), at.rows_of_all(grad, sizes), strict=True)
        for owner, (q, index, weight) in enumerate(edges):
            row, column = ((index >= first) & (index < first + y.shape[0])).nonzero(as_tuple=True)
            j = index[row, column] - first
            pull = weight[row, column, None] * (q[row] - y[j]).to(grad.dtype)
            parts = at.to_owner(owner, torch.zeros(q.shape, dtype=grad.dtype, device=q.device).index_add_(0, row, pull))
            to_y.index_add_(0, j, -pull)
            if parts is not None:
                to_x = torch.stack(parts).sum(0).to(x.dtype)
        return to_x, to_y.to(y.dtype), None, None, None, None, None, None
