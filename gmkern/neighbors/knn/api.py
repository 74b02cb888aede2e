"""Public function: the k nearest neighbours."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from gmkern import _backend, _validate
from gmkern._validate import ArrayLike
from gmkern.neighbors import _points, _stream
from gmkern.neighbors.knn import ops, reference
from gmkern.neighbors.reference import directions

if TYPE_CHECKING:
    import torch.distributed as dist

METRICS = (*ops.METRICS, "cosine")


class KNN(NamedTuple):
    """Neighbours in the order (distance, index): ``distances`` [N, k] and ``indices`` [N, k] int64."""

    distances: Tensor
    indices: Tensor


def knn(
    queries: ArrayLike,
    references: ArrayLike | Iterable[ArrayLike] | None = None,
    k: int = 1,
    *,
    metric: str = "euclidean",
    exclude_self: bool = False,
    block_rows: int | None = None,
    progress: bool = False,
    group: dist.ProcessGroup | None = None,
    backend: str | None = None,
) -> KNN:
    """The k nearest references of each query: exact, a copy at distance exactly 0.

    Parameters
    ----------
    queries : [N, D] or [B, N, D]; float32, float64, bfloat16 or float16; finite.
    references : [M, D] or [B, M, D] of the same dtype; None searches within the queries, where each point is its own
        nearest unless ``exclude_self``. Larger than memory: an ``np.memmap`` [M, D], or an iterable of blocks [m_i, D],
        whose rows are numbered on; they are read in turn, with the same result as in one piece, without gradients.
    k : 1 to M (to M - 1 with ``exclude_self``).
    metric : "euclidean"; "sqeuclidean", its square; "manhattan", the sum of absolute differences; "chebyshev", the
        largest of them; "cosine", 1 - cos, which is half the squared distance of the normalised points: rows of zeros
        are an error; "inner_product", -<q, r>, so that the largest product comes first.
    exclude_self : whether reference i is query i and no neighbour of it. It goes by index: another copy of the point
        stays its neighbour. N and M must be equal.
    block_rows : references that are packed at a time; bounds scratch memory, changes no result. None: up to 64 MB
        of them (docs/neighbors.md).
    progress : draw a progress bar on a terminal's standard error, for references that are read in turn.
    group : a group of ``torch.distributed`` whose ranks each hold a shard of the references, and each make the call:
        :func:`gmkern.distributed.knn` serves it, for points [N, D] in memory. None: this process alone.
    backend : None, "cpu" (C++), "triton" (CUDA) or "reference" (plain PyTorch, any device): the same bits.

    Returns
    -------
    KNN : distances [N, k] (or [B, N, k]), float64 for float64 points, else float32; indices int64. Rows are in the
        order (distance, index): ties go to the lower index.

    Raises
    ------
    TypeError, ValueError : naming the argument; NaN and infinities by their first position. Under ``torch.compile``
        the values are checked by the kernel, which raises RuntimeError with the same text.

    Notes
    -----
    Distances are those of the differences, ``sqrt(sum (q_d - r_d)^2)``, summed in one written order without fused
    operations, and never of ``|q|^2 + |r|^2 - 2 q r``. From 9 coordinates on, where M is large and k small, candidates
    are screened by dot products (of integers; on a GPU of float16 numbers) under a proven bound, then computed as
    above: the same bits. The result does
    not depend on threads, blocks, batch, k, instruction set or backend, to the bit. Squares that overflow give infinite
    distances, in the order of their index.

    Differentiable in both sides, any number of times: gradients are gathered in a fixed order, and are 0 at distance
    0 for "euclidean". Works under ``torch.compile(fullgraph=True)`` and in CUDA graphs. Memory
    beyond inputs and outputs: about 128 MB (docs/neighbors.md), and [N, k] more for gradients; on a GPU k integers
    a query and part of the references, up to 2^26 distances, and where screened the points in float16. A GPU is waited
    for once, for rows to be done over and to look for NaN; not while a graph is captured: there points that are not
    finite, and rows of zeros for "cosine", make all distances NaN and all indices 0.

    Examples
    --------
    >>> import torch, gmkern
    >>> train = torch.tensor([[0.0, 0.0], [3.0, 4.0], [0.0, 0.0]])
    >>> gmkern.neighbors.knn(torch.zeros(1, 2), train, k=3)
    KNN(distances=tensor([[0., 0., 5.]]), indices=tensor([[0, 2, 1]]))
    """
    if group is not None:
        from gmkern.distributed.neighbors import (
            knn as knn_of_ranks,
        )  # built on this function, so imported when asked for

        shards: Any = references
        return knn_of_ranks(
            queries, shards, k, metric=metric, exclude_self=exclude_self, block_rows=block_rows, group=group,
            backend=backend,
        )  # fmt: skip
    k = _validate.integer("k", k, low=1)
    metric = _validate.one_of("metric", metric, METRICS)
    exclude_self = _validate.flag("exclude_self", exclude_self)
    rows = 0 if block_rows is None else _validate.integer("block_rows", block_rows, low=1)
    if _stream.is_streamed(references):
        return _streamed(queries, references, k, metric, exclude_self, rows, progress, backend)
    x, y = _points.pair(queries, references)
    batched = queries.ndim == 3
    _points.check_excludes(exclude_self, x.shape[1], y.shape[1])
    check_k(k, y.shape[1], exclude_self)
    found = _search(x, y, k, metric, exclude_self, rows, backend)
    return found if batched else KNN(found.distances[0], found.indices[0])


def check_k(k: int, references: int, exclude_self: bool) -> None:
    """Refuses more neighbours than there are."""
    others = references - (1 if exclude_self else 0)  # torch 2.11 takes no bool from a size that is a symbol
    if k > others:
        left = ", and a query is not its own neighbour" if exclude_self else ""
        takes = f"an int >= 1 and <= {others}: there are {references} references{left}"
        raise _validate.bad("k", str(k), takes)


def _search(x: Tensor, y: Tensor, k: int, metric: str, exclude_self: bool, rows: int, backend: str | None) -> KNN:
    """Points [B, N, D] and [B, M, D], in memory."""
    if metric == "cosine":
        same = x is y
        x = directions("queries", x)
        y = x if same else directions("references", y)
        found = _search(x, y, k, "sqeuclidean", exclude_self, rows, backend)
        return KNN(0.5 * found.distances, found.indices)
    chosen = _backend.choose(
        "neighbors.knn",
        backend,
        [("cpu", _backend.on_cpu(x.device)), ("triton", _points.on_triton(x, y)), ("reference", None)],
    )
    if chosen != "reference":
        _validate.no_tangents("neighbors.knn", x, y)
        op: Callable[..., Any] = ops.knn
        if chosen == "triton" and x.device.type == "cpu":
            from gmkern.neighbors.knn import triton_kernels  # in the interpreter

            op = triton_kernels.knn
        return KNN(*_points.called(op, x, y, k, ops.METRICS.index(metric), exclude_self, rows, 0))
    return KNN(*reference.knn(x, y, k, metric=metric, exclude_self=exclude_self, block_rows=rows))


def _streamed(
    queries: ArrayLike,
    references: ArrayLike | Iterable[ArrayLike] | None,
    k: int,
    metric: str,
    exclude_self: bool,
    rows: int,
    progress: bool,
    backend: str | None,
) -> KNN:
    """Chunks come in the order of their references, so that a stable sort by distance keeps (distance, index)."""
    x = _stream.queries(queries, _points.DTYPES)
    own = torch.arange(x.shape[1], device=x.device)[:, None]
    best = x.new_empty((x.shape[1], 0), dtype=_points.accumulated(x.dtype))
    indices = torch.empty_like(best, dtype=torch.int64)
    total = 0

    def search(y: Tensor, first: int) -> KNN:
        return _search(x, y, min(k + exclude_self, y.shape[1]), metric, False, rows, backend)

    for found, first, count in _stream.each_chunk(references, x, "nearest neighbours", progress, search):
        index = found.indices[0] + first
        distances = found.distances[0]
        if exclude_self:
            distances = torch.where(index == own, torch.nan, distances)  # behind everything
        best, order = torch.cat([best, distances], 1).sort(dim=1, stable=True)
        best, indices = best[:, :k], torch.cat([indices, index], 1).gather(1, order)[:, :k]
        total = first + count
    _stream.check_self(exclude_self, x.shape[1], total)
    check_k(k, total, exclude_self)
    return KNN(best.contiguous(), indices.contiguous())
