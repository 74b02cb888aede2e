"""Public function: how many points lie within a radius."""

from __future__ import annotations

from torch import Tensor

from gmkern import _backend, _validate
from gmkern._validate import ArrayLike
from gmkern.neighbors import _points
from gmkern.neighbors.count_within import ops, reference


def count_within(
    queries: ArrayLike,
    references: ArrayLike,
    radii: ArrayLike | float,
    *,
    per: str = "query",
    strict: bool = False,
    exclude_self: bool = False,
    backend: str | None = None,
) -> Tensor:
    """How many references lie within a radius of each query.

    Parameters
    ----------
    queries : [N, D] or [B, N, D]; float32, float64, bfloat16 or float16; finite.
    references : [M, D] or [B, M, D] of the same dtype.
    radii : euclidean radii in the dtype of :func:`knn`'s distances (float64 for float64 points, else float32): [N] or
        [B, N] with ``per="query"``, [M] or [B, M] with ``per="reference"``, or one number for all. Infinity counts
        everything; a negative radius counts nothing; NaN is an error.
    per : whose radius decides: "query" counts the references in the ball around the query; "reference" counts the
        references whose own ball holds the query.
    strict : count distance < radius (True) or distance <= radius (False).
    exclude_self : reference i is query i and is not counted; N and M must be equal.
    backend : None, "cpu" (C++) or "reference" (plain PyTorch, any device): the same counts.

    Returns
    -------
    Tensor [N] or [B, N], int64.

    Raises
    ------
    TypeError, ValueError : naming the argument; NaN and infinities among the points by their first position.

    Notes
    -----
    Decisions are exact in this sense: the distance of a pair is the one that :func:`knn` returns, to the bit, so the
    k-th distance of a point counts k neighbours or more, and with ``strict`` fewer than k or the ties less.
    No [N, M] matrix is held; the result does not depend on threads or instruction set. Counts have no gradient. Works
    under ``torch.compile(fullgraph=True)``.

    Examples
    --------
    >>> import torch, gmkern
    >>> line = torch.tensor([[0.0], [1.0], [3.0]])
    >>> gmkern.neighbors.count_within(line, line, 2.0)
    tensor([2, 3, 2])
    """
    x, y = _points.pair(queries, references)
    batched = references.ndim == 3
    _points.check_excludes(exclude_self, x.shape[1], y.shape[1])
    per_reference = _validate.one_of("per", per, ("query", "reference")) == "reference"
    wide = _points.accumulated(x.dtype)
    shape = (x.shape[0], y.shape[1] if per_reference else x.shape[1])
    if isinstance(radii, (int, float)) and not isinstance(radii, bool):
        bounds = x.new_full(shape, float(radii), dtype=wide)
    else:
        bounds = _validate.tensor("radii", radii, ndim=2 if batched else 1, dtypes=(wide,), device=x.device)
        bounds = (bounds if batched else bounds.unsqueeze(0)).contiguous()
    if bounds.shape != shape:
        want = list(shape) if batched else [shape[1]]
        raise _validate.bad("radii", radii, f"shape {want}, one a {per}, or one number")
    chosen = _backend.choose(
        "neighbors.count_within", backend, [("cpu", _backend.on_cpu(x.device)), ("reference", None)]
    )
    if chosen == "cpu":
        counts = _points.called(ops.count_within, x, y, bounds, per_reference, bool(strict), bool(exclude_self))
    else:
        counts = reference.count_within(
            x, y, bounds, per_reference=per_reference, strict=bool(strict), exclude_self=bool(exclude_self)
        )
    return counts if batched else counts[0]
