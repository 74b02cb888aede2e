"""Public function: the k nearest neighbours."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from gmkern import _backend, _validate
from gmkern._validate import ArrayLike
from gmkern.neighbors import _points
from gmkern.neighbors.knn import ops, reference
from gmkern.neighbors.knn.ops import METRICS


class KNN(NamedTuple):
    """Neighbours in the order (distance, index): ``distances`` [N, k] and ``indices`` [N, k] int64."""

    distances: Tensor
    indices: Tensor


def knn(
    queries: ArrayLike,
    references: ArrayLike | None = None,
    k: int = 1,
    *,
    metric: str = "euclidean",
    exclude_self: bool = False,
    block_rows: int | None = None,
    backend: str | None = None,
) -> KNN:
    """The k nearest references of each query: exact, a copy at distance exactly 0.

    Parameters
    ----------
    queries : [N, D] or [B, N, D]; float32, float64, bfloat16 or float16; finite.
    references : [M, D] or [B, M, D] of the same dtype; None searches within the queries, where each point is its own
        nearest unless ``exclude_self``.
    k : 1 to M (to M - 1 with ``exclude_self``).
    metric : "euclidean", or "sqeuclidean" for its square.
    exclude_self : whether reference i is query i and no neighbour of it. It goes by index: another copy of the point
        stays its neighbour. N and M must be equal.
    block_rows : references that are packed at a time; bounds scratch memory, changes no result. None: 512 KB of them.
    backend : None, "cpu" (C++) or "reference" (plain PyTorch, any device): the same bits.

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
    operations, and never of ``|q|^2 + |r|^2 - 2 q r``. From 17 coordinates on, where M is large and k small, candidates
    are screened by integer dot products under a proven bound, then computed as above: the same bits. The result does
    not depend on threads, blocks, batch, k, instruction set or backend, to the bit. Squares that overflow give infinite
    distances, in the order of their index.

    Differentiable in both sides, any number of times: gradients are gathered in a fixed order, and are 0 at distance
    0 for "euclidean". Works under ``torch.compile(fullgraph=True)``; allocates, so not in a captured CUDA graph. Memory
    beyond inputs and outputs: about 64 MB (docs/neighbors.md), and [N, k] more for gradients.

    Examples
    --------
    >>> import torch, gmkern
    >>> train = torch.tensor([[0.0, 0.0], [3.0, 4.0], [0.0, 0.0]])
    >>> gmkern.neighbors.knn(torch.zeros(1, 2), train, k=3)
    KNN(distances=tensor([[0., 0., 5.]]), indices=tensor([[0, 2, 1]]))
    """
    x, y = _points.pair(queries, references)
    batched = (queries if references is None else references).ndim == 3
    _points.check_excludes(exclude_self, x.shape[1], y.shape[1])
    k = _validate.integer("k", k, low=1)
    if k > y.shape[1] - bool(exclude_self):
        left = ", and a query is not its own neighbour" if exclude_self else ""
        raise _validate.bad(
            "k",
            str(k),
            f"an int >= 1 and <= {y.shape[1] - bool(exclude_self)}: there are {y.shape[1]} references{left}",
        )
    metric = _validate.one_of("metric", metric, METRICS)
    rows = 0 if block_rows is None else _validate.integer("block_rows", block_rows, low=1)
    chosen = _backend.choose("neighbors.knn", backend, [("cpu", _backend.on_cpu(x.device)), ("reference", None)])
    if chosen == "cpu":
        found = KNN(*_points.called(ops.knn, x, y, k, METRICS.index(metric), bool(exclude_self), rows, 0))
    else:
        found = KNN(
            *reference.knn(x, y, k, root=metric == "euclidean", exclude_self=bool(exclude_self), block_rows=rows)
        )
    return found if batched else KNN(found.distances[0], found.indices[0])
