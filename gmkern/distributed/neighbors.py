"""Neighbours among references that are spread over ranks: each rank searches its own, the owner of a query merges."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable

from gmkern import _validate, neighbors
from gmkern._validate import ArrayLike
from gmkern.distributed._asked import asked
from gmkern.distributed._group import Group, device_of, one_number, points_asked, points_of, starts
from gmkern.neighbors import KNN, _points
from gmkern.neighbors.knn.api import METRICS, check_k
from gmkern.neighbors.knn.ops import DIFFERENCE, edge_pull

_DIFFERENTIABLE = ("euclidean", "sqeuclidean")


def knn(
    queries: ArrayLike,
    references: ArrayLike | None = None,
    k: int = 1,
    *,
    metric: str = "euclidean",
    exclude_self: bool = False,
    block_rows: int | None = None,
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
    metric, block_rows, backend : as for :func:`gmkern.neighbors.knn`.
    exclude_self : reference i of this rank is its query i, and no neighbour of it; N = M on every rank.
    group : None takes the default group.

    Returns
    -------
    KNN : distances [N, k] and indices [N, k] of this rank's queries; indices in the whole.

    Raises
    ------
    TypeError, ValueError : naming the argument, on the rank that gave it; RuntimeError on the others, with its text.
        Where ranks differ, on all of them: ValueError naming the argument (k, metric, D, dtype) and the values of two
        ranks, RuntimeError for the version or the kind of device.

    Notes
    -----
    The bits of one process for any number of ranks, on every instruction set and device. Each rank holds all ranks'
    queries, and k candidates for each of them. Differentiable once in queries and references for "euclidean" and
    "sqeuclidean", where every rank's inputs require a gradient or none's do: the backward pass is a collective as well.
    Queries get the gradient of their own rank's distances, references that of all ranks' (docs/scaling.md has what that
    is under DDP and FSDP).

    Examples
    --------
    On each of two ranks, ``gmkern.distributed.knn(generated_here, train_here, k=5)``.

    >>> import torch
    >>> from gmkern import distributed  # in a group, here of one rank
    >>> queries, shard = torch.zeros(1, 2), torch.tensor([[3.0, 4.0], [0.0, 0.0]])
    >>> distributed.knn(queries, shard, k=2).distances
    tensor([[0., 5.]])
    """

    def check() -> tuple[tuple[Tensor, Tensor], dict[str, str]]:
        _validate.integer("k", k, low=1)
        _validate.one_of("metric", metric, METRICS)
        x, y = points_of(queries, references, exclude_self)
        wanted = [torch.is_grad_enabled() and t.requires_grad for t in (x, y)]
        if any(wanted) and metric not in _DIFFERENTIABLE:
            raise _validate.bad("metric", repr(metric), f"one of {_DIFFERENTIABLE} where gradients are wanted")
        told = asked(k=k, metric=metric, exclude_self=exclude_self)
        return (x, y), told | points_asked(x) | {"gradients of (queries, references)": f"{wanted}"}

    at = Group("distributed.knn", group, device_of(queries))
    x, y = at.agree(check, same_bits=False)
    counts = at.numbers(x.shape[0], y.shape[0])
    check_k(k, sum(m for _, m in counts), exclude_self)
    return KNN(*_Nearest.apply(x, y, at, counts, k, metric, exclude_self, block_rows, backend))


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
    radii : one number of all ranks, or [N] of this rank's queries (``per="query"``), or [M] of its references
        (``per="reference"``).
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

    Examples
    --------
    >>> import torch
    >>> from gmkern import distributed  # in a group, here of one rank
    >>> distributed.count_within(torch.zeros(1, 2), torch.tensor([[3.0, 4.0], [0.0, 0.0]]), torch.tensor([5.0]))
    tensor([2])
    """

    def check() -> tuple[tuple[Tensor, Tensor, Tensor], dict[str, str]]:
        _validate.one_of("per", per, ("query", "reference"))
        _validate.flag("strict", strict)
        x, y = (t.detach() for t in points_of(queries, references, exclude_self))
        rows = y.shape[0] if per == "reference" else x.shape[0]
        wide = _points.accumulated(x.dtype)
        if _validate.is_number(radii):
            r = x.new_full((rows,), _validate.as_float(radii), dtype=torch.float64).to(wide)
        else:
            r = _validate.tensor("radii", radii, ndim=(0, 1), dtypes=(wide,), device=x.device)
            r = r.expand(rows) if r.ndim == 0 else r
        if r.shape[0] != rows or bool(r.isnan().any()):
            raise _validate.bad("radii", radii, f"shape [{rows}], one a {per}, or one number, and no NaN")
        told = asked(per=per, strict=strict, exclude_self=exclude_self, radii=one_number(radii))
        return (x, y, r), told | points_asked(x)

    at = Group("distributed.count_within", group, device_of(queries))
    x, y, r = at.agree(check, same_bits=False)
    sizes = [n for (n,) in at.numbers(x.shape[0])]
    every = torch.cat(at.rows_of_all(x, sizes))
    limits = torch.cat(at.rows_of_all(r, sizes)) if per == "query" else r

    def count() -> Tensor:
        if not (len(every) and len(y)):
            return torch.zeros(len(every), dtype=torch.int64, device=x.device)
        return neighbors.count_within(every, y, limits, per=per, strict=strict, backend=backend)

    found = at.to_owners(at.settled(count), sizes).sum(0)
    if exclude_self:  # a point is at distance 0 from itself
        found -= (r > 0 if strict else r >= 0).to(found.dtype)
    return found


class _Nearest(torch.autograd.Function):
    """Candidates of every shard, merged where their queries are; gradients go the way back."""

    @staticmethod
    def forward(ctx, x, y, at, counts, k, metric, exclude_self, block_rows, backend):  # type: ignore[no-untyped-def]
        sizes, first = [n for n, _ in counts], starts([m for _, m in counts])[at.rank]
        every = torch.cat(at.rows_of_all(x, sizes))
        columns = k + exclude_self  # a query may find itself
        held = min(columns, len(y))

        def search() -> tuple[Tensor, Tensor]:
            near = torch.full((len(every), columns), torch.inf, dtype=_points.accumulated(x.dtype), device=x.device)
            index = torch.full((len(every), columns), -1, dtype=torch.int64, device=x.device)  # no candidate
            if held and len(every):
                found = neighbors.knn(every, y, held, metric=metric, block_rows=block_rows, backend=backend)
                near[:, :held], index[:, :held] = found.distances, found.indices + first
            return near, index

        near, index = (at.to_owners(part, sizes).transpose(0, 1).flatten(1) for part in at.settled(search))
        if exclude_self:
            itself = first + torch.arange(len(x), device=x.device)
            index = index.masked_fill(index == itself[:, None], -1)
        # Ranks hold references in the order of their index, so a stable sort keeps (distance, index); where distances
        # overflow, a missing candidate comes behind the infinite ones.
        order = (index < 0).to(torch.int8).sort(dim=1, stable=True).indices
        near = near.gather(1, order).masked_fill(index.gather(1, order) < 0, torch.inf)
        near, nearest = near.sort(dim=1, stable=True)
        distances = near[:, :k].contiguous()
        indices = index.gather(1, order.gather(1, nearest[:, :k]))
        ctx.save_for_backward(x, y, distances, indices)
        ctx.rest = at, sizes, first, metric
        ctx.mark_non_differentiable(indices)
        return distances, indices

    @staticmethod
    @once_differentiable
    def backward(ctx, grad, _):  # type: ignore[no-untyped-def]
        x, y, distances, indices = ctx.saved_tensors
        at, sizes, first, metric = ctx.rest
        # d distance = weight (q - r): 2 for the square, 1 / distance for the root, 0 at distance 0.
        weights = torch.where(distances > 0, grad / distances, 0.0) if metric == "euclidean" else 2 * grad
        every, index, weight = (torch.cat(at.rows_of_all(t, sizes)) for t in (x, indices, weights))
        here = (index >= first) & (index < first + len(y))
        # Edges that end on other ranks pull with weight 0 at a row beyond this rank's.
        index, weight = torch.where(here, index - first, len(y)), torch.where(here, weight, 0.0)
        shard = torch.cat([y.to(grad.dtype), y.new_zeros((1, y.shape[1]), dtype=grad.dtype)])
        edges = every.to(grad.dtype), shard, index, weight
        to_every, to_shard = (t[0] for t in edge_pull(*(t[None] for t in edges), DIFFERENCE))
        to_x = at.to_owners(to_every, sizes).sum(0)
        return to_x.to(x.dtype), to_shard[:-1].to(y.dtype), *(None,) * 7
