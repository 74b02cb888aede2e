"""Public function: how a search for neighbours went, and how much of it was certified."""

from __future__ import annotations

from typing import NamedTuple

from gmkern import _validate
from gmkern._validate import ArrayLike
from gmkern.neighbors import _points
from gmkern.neighbors.knn import ops
from gmkern.neighbors.knn.api import check_k

_METHODS = {1: "direct", 2: "screened by bytes", 3: "tree", 4: "screened by words", 5: "screened by halves"}


class Certificate(NamedTuple):
    """How :func:`knn` searches: ``method``, and its rows.

    ``method`` is "direct" (the distances of all pairs), "tree", "screened by bytes" or "screened by words", on a GPU
    "screened by halves" (several are joined by " + " where batches differ). ``screened`` of ``rows`` were screened; the
    bound certified ``certified`` of them, and the others were done over directly. ``candidates`` exact distances were
    computed for a certified row, on average: k at least, and few more where the bound is tight.
    """

    method: str
    rows: int
    screened: int
    certified: int
    candidates: float

    @property
    def share(self) -> float:
        """Certified rows as a share of the screened; 1 where none was screened, for the other methods are exact."""
        return self.certified / self.screened if self.screened else 1.0


def knn_certificate(
    queries: ArrayLike,
    references: ArrayLike | None = None,
    k: int = 1,
    *,
    metric: str = "euclidean",
    exclude_self: bool = False,
) -> Certificate:
    """How :func:`knn` finds these neighbours: the method, and the share of rows that its bound certified.

    Parameters
    ----------
    queries, references, k, exclude_self : as for :func:`knn`; points in memory.
    metric : "euclidean" or "sqeuclidean".

    Returns
    -------
    Certificate : method, rows, screened, certified, candidates.

    Raises
    ------
    TypeError, ValueError : as :func:`knn`; also for points on a device without these methods.

    Notes
    -----
    Runs the search once more, for its tally. Neighbours are exact with or without a certificate: it tells about speed
    alone. Tallies of a screened search depend on the processor (bytes need AVX-512 VNNI; a GPU's are its own), never on
    threads.

    Examples
    --------
    >>> import torch, gmkern
    >>> gmkern.neighbors.knn_certificate(torch.eye(3), k=2).method
    'direct'
    """
    x, y = _points.pair(queries, references)
    _points.check_excludes(exclude_self, x.shape[1], y.shape[1])
    k = _validate.integer("k", k, low=1)
    check_k(k, y.shape[1], exclude_self)
    metric = _validate.one_of("metric", metric, ("euclidean", "sqeuclidean"))
    if x.device.type != "cpu" and (reason := _points.on_triton(x, y)) is not None:
        raise ValueError(f"queries: got a tensor on {x.device}; takes one where these methods are (triton: {reason})")
    courses = _points.called(ops.knn_course, x, y, k, ops.METRICS.index(metric), bool(exclude_self), 0).tolist()
    method = " + ".join(sorted({_METHODS[course[0]] for course in courses}))
    screened, certified, candidates = (sum(course[i] for course in courses) for i in (1, 2, 3))
    return Certificate(
        method, x.shape[0] * x.shape[1], screened, certified, candidates / certified if certified else 0.0
    )
