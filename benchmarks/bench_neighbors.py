"""knn beside torch.cdist and topk, scikit-learn, SciPy's cKDTree, faiss and KeOps.

Every tool searches from the arrays, building what index it wants. scikit-learn takes its best algorithm (kd_tree up to
3 dimensions, brute above); cKDTree runs up to 3 dimensions; KeOps, which compiles each formula, in two cases.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from _case import OURS, Case, Point, Run, Tool, across
from _rivals import lazy_tensor
from torch import Tensor

from gmkern.neighbors import knn


class Search(NamedTuple):
    """Queries against references, or (within) the queries against themselves."""

    dim: int
    queries: int
    references: int
    k: int
    within: bool = False

    def __str__(self) -> str:
        against = "itself" if self.within else str(self.references)
        return f"D={self.dim} N={self.queries} M={against} k={self.k}"

    @property
    def asked(self) -> int:
        """Within one set others are asked for one neighbour more, and the first, the point itself, is left out."""
        return self.k + self.within


class Points(NamedTuple):
    search: Search
    x: np.ndarray
    y: np.ndarray

    @property
    def tensors(self) -> tuple[Tensor, Tensor]:
        x = torch.from_numpy(self.x)
        return x, x if self.search.within else torch.from_numpy(self.y)


def points(search: Search) -> Points:
    rng = np.random.default_rng(0)
    x, y = (rng.normal(size=(n, search.dim)).astype(np.float32) for n in (search.queries, search.references))
    return Points(search, x, x if search.within else y)


# --- the tools: each gives distances [N, k] ---------------------------------------------------------------------------


def ours(given: Points) -> Run:
    x, y = given.tensors
    return lambda _: knn(x, y, given.search.k, exclude_self=given.search.within).distances


def cdist(given: Points) -> Run:
    x, y = given.tensors
    s = given.search

    def run(_: int) -> Tensor:
        parts = [torch.cdist(part, y).topk(s.asked, largest=False) for part in x.split(1000)]
        return torch.cat([part.values for part in parts])[:, s.within :]

    return run


def scikit_learn(given: Points) -> Run:
    from sklearn.neighbors import NearestNeighbors

    algorithm = "kd_tree" if given.search.dim <= 3 else "brute"

    def run(threads: int) -> np.ndarray:
        fitted = NearestNeighbors(n_neighbors=given.search.k, algorithm=algorithm, n_jobs=threads).fit(given.y)
        return fitted.kneighbors(None if given.search.within else given.x)[0]

    return run


def tree(given: Points) -> Run:
    from scipy.spatial import cKDTree

    def run(threads: int) -> np.ndarray:
        distances = cKDTree(given.y).query(given.x, given.search.asked, workers=threads)[0]
        return distances.reshape(len(given.x), -1)[:, given.search.within :]

    return run


def faiss(given: Points) -> Run:
    import faiss

    def run(threads: int) -> np.ndarray:
        faiss.omp_set_num_threads(threads)
        index = faiss.IndexFlatL2(given.search.dim)
        index.add(given.y)
        squares = index.search(given.x, given.search.asked)[0]
        return np.sqrt(np.maximum(squares[:, given.search.within :], 0))

    return run


def keops(given: Points) -> Run:
    lazy, (x, y), s = lazy_tensor(), given.tensors, given.search
    squares = ((lazy(x[:, None]) - lazy(y[None])) ** 2).sum(-1)
    return lambda _: squares.Kmin_argKmin(s.asked, dim=1)[0].sqrt()[:, s.within :]


def check(given: Points, tool: str, ours: Any, theirs: Any) -> None:
    """Ours is the truth in float64, for 32 of the queries; a rival is ours within its own error."""
    if tool == OURS:
        return check_truth(given, ours.numpy())
    got, want = (np.asarray(one, dtype=np.float64) for one in (theirs, ours))
    # The Gram form in float32 errs by a few hundred u of squares of size 2 D; all data here are centred normals.
    bound = 1e-3 * np.sqrt(want.max())
    worst = np.abs(got - want).max()
    assert worst <= bound, f"{tool}: distances differ from ours by {worst:.2e}"


def check_truth(given: Points, ours: np.ndarray) -> None:
    x, y = given.x.astype(np.float64), given.y.astype(np.float64)
    for row in range(0, len(x), -(-len(x) // 32)):
        squares = ((x[row] - y) ** 2).sum(1)
        if given.search.within:
            squares[row] = np.inf
        want = np.sqrt(np.sort(squares)[: given.search.k])
        # Terms of one sign: a difference (twice), a product and at most D / 16 + 5 sums of u each; half of that for
        # the root, and its own rounding.
        bound = (given.search.dim / 16 + 10) * 2.0**-24
        np.testing.assert_allclose(ours[row], want, rtol=bound, err_msg=f"{given.search}, query {row}")


# --- the cases --------------------------------------------------------------------------------------------------------


def case(search: Search, *, point: Point | None = None, compiled: bool = False) -> Case:
    tools: dict[str, Tool] = {OURS: ours, "torch.cdist": cdist, "scikit-learn": scikit_learn, "faiss": faiss}
    if search.dim <= 3:
        tools["SciPy"] = tree
    if compiled:
        tools["pykeops"] = keops
    n, m = search.queries, search.queries if search.within else search.references
    moved = 4.0 * search.dim * (n + (not search.within) * m) + 12.0 * n * search.k
    flop = 3.0 * search.dim * n * m  # a difference, a product and a sum
    return Case(f"knn, {search}", partial(points, search), tools, check, moved, flop, point=point)


CASES = [
    case(Search(3, 2000, 5000, 5), compiled=True),
    *(case(Search(dim, 20_000, 20_000, k)) for dim in (2, 3) for k in (1, 5)),
    case(Search(3, 20_000, 20_000, 100)),
    case(Search(16, 4000, 20_000, 5)),
    case(Search(64, 4000, 20_000, 1)),
    case(Search(64, 4000, 20_000, 5), compiled=True),
    case(Search(64, 4000, 20_000, 100)),
    case(Search(512, 2000, 20_000, 5)),
    case(Search(2048, 2000, 20_000, 5)),
    *(case(Search(dim, n, n, 5, True)) for dim, n in ((3, 20_000), (64, 8000), (512, 8000))),
]

BASE = Search(64, 2000, 10_000, 5)
GROWING = {
    "N": [(n, BASE._replace(queries=n)) for n in (1000, 2000, 4000, 8000)],
    "M": [(m, BASE._replace(references=m)) for m in (5000, 10_000, 20_000, 40_000)],
    "D": [(dim, BASE._replace(dim=dim)) for dim in (32, 128, 512, 2048)],
    "k": [(k, BASE._replace(k=k)) for k in (1, 8, 64, 512)],
}
CURVES = [case(search, point=Point("knn", letter, size)) for letter, sizes in GROWING.items() for size, search in sizes]


@across(CASES)
def test_knn(case, tool, raced):
    raced(case, tool)


@across(CURVES)
def test_knn_grows(case, tool, raced):
    raced(case, tool)
