"""knn on a CPU beside torch.cdist + topk, scikit-learn, SciPy's cKDTree and faiss.

    python benchmarks/bench_neighbors.py [--rounds 5] [--from-dim 1] [--to-dim 4096]   a table of ratios, in turns,
                                                            and how time grows with N M
    pytest benchmarks/bench_neighbors.py --benchmark-enable            the same cases under pytest-benchmark

Every tool searches from the arrays, building what index it wants. scikit-learn takes its best algorithm
(kd_tree up to 3 dimensions, brute above); cKDTree runs up to 3 dimensions, on all threads.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from _compare import Row, circumstances, fitted_exponent, interleaved

from gmkern.neighbors import knn


class Case(NamedTuple):
    """Queries against references, or (within) the queries against themselves."""

    dim: int
    queries: int
    references: int
    k: int
    within: bool = False

    def __str__(self) -> str:
        against = "itself" if self.within else str(self.references)
        return f"D={self.dim} N={self.queries} M={against} k={self.k}"


SIZES = {2: (20_000, 20_000), 3: (20_000, 20_000), 16: (4000, 20_000), 64: (4000, 20_000), 512: (2000, 20_000)}
SIZES[2048] = (2000, 20_000)
CASES = [Case(dim, *sizes, k) for dim, sizes in SIZES.items() for k in (1, 5, 100)]
CASES += [Case(dim, n, n, 5, True) for dim, n in ((2, 20_000), (3, 20_000), (16, 8000), (64, 8000), (512, 8000))]
SMALL = Case(3, 500, 500, 5)
Run = Callable[[], tuple[Any, Any]]


def points(case: Case) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    x, y = (rng.normal(size=(rows, case.dim)).astype(np.float32) for rows in (case.queries, case.references))
    return x, x if case.within else y


def runs(case: Case) -> dict[str, Run]:
    """Each tool by name, ours first, but those that are not installed or take no part in this dimension.

    Within one set the others are asked for one neighbour more, and the first, the point itself, is left out.
    """
    dim, k = case.dim, case.k + case.within
    x, y = points(case)
    xt = torch.from_numpy(x)
    yt = xt if case.within else torch.from_numpy(y)
    threads = torch.get_num_threads()

    def cdist() -> tuple[Any, Any]:
        parts = [torch.cdist(part, yt).topk(k, largest=False) for part in xt.split(1000)]
        return torch.cat([p.values for p in parts])[:, case.within :], torch.cat([p.indices for p in parts])

    ours: Run = lambda: knn(xt, yt, case.k, exclude_self=case.within)  # noqa: E731
    found: dict[str, Run] = {"gmkern": ours, "torch.cdist": cdist}
    if importlib.util.find_spec("sklearn"):
        from sklearn.neighbors import NearestNeighbors

        algorithm = "kd_tree" if dim <= 3 else "brute"

        def sklearn() -> tuple[Any, Any]:
            fitted = NearestNeighbors(n_neighbors=case.k, algorithm=algorithm, n_jobs=threads).fit(y)
            return fitted.kneighbors(None if case.within else x)

        found["sklearn"] = sklearn
    if importlib.util.find_spec("scipy") and dim <= 3:
        from scipy.spatial import cKDTree

        def tree() -> tuple[Any, Any]:
            distances, indices = cKDTree(y).query(x, k, workers=threads)
            return distances.reshape(len(x), k)[:, case.within :], indices

        found["cKDTree"] = tree
    if importlib.util.find_spec("faiss"):
        import faiss

        faiss.omp_set_num_threads(threads)

        def flat() -> tuple[Any, Any]:
            index = faiss.IndexFlatL2(dim)
            index.add(y)
            squares, indices = index.search(x, k)
            return np.sqrt(np.maximum(squares[:, case.within :], 0)), indices

        found["faiss"] = flat
    return found


def check_truth(case: Case, ours: Any) -> None:
    """Ours beside float64, for 32 of the queries."""
    x, y = (points_.astype(np.float64) for points_ in points(case))
    for row in range(0, case.queries, -(-case.queries // 32)):
        squares = ((x[row] - y) ** 2).sum(1)
        if case.within:
            squares[row] = np.inf
        want = np.sqrt(np.sort(squares)[: case.k])
        # Terms of one sign: a difference (twice), a product and at most D / 16 + 5 sums of u each; half of that for
        # the root, and its own rounding.
        bound = (case.dim / 16 + 10) * 2.0**-24
        np.testing.assert_allclose(ours[0][row].numpy(), want, rtol=bound, err_msg=f"{case}, query {row}")


def check(name: str, ours: Any, rival: Any) -> None:
    """The rival's distances are ours within its own error; ours are exact."""
    got, want = (np.asarray(r[0], dtype=np.float64).reshape(len(ours[0]), -1) for r in (rival, ours))
    # The Gram form in float32 errs by a few hundred u of squares of size 2 D; all data here are centred normals.
    bound = 1e-3 * np.sqrt(want.max())
    worst = np.abs(got - want).max()
    assert worst <= bound, f"{name}: distances differ from ours by {worst:.2e}"


def table(cases: list[Case], rounds: int) -> list[Row]:
    """A row for each case, printed as it comes."""
    rows = []
    for case in cases:
        tools = runs(case)
        ours = tools.pop("gmkern")
        check_truth(case, ours())
        rows.append(interleaved(str(case), ours, tools, check, rounds=rounds))
        print(rows[-1], flush=True)
    return rows


def growth(dim: int, rounds: int) -> str:
    """Our time for four sizes of N M up to 16 times the first, by turns growing N and M, and the fitted exponent."""
    sizes = [(n * 1000, m * 10_000) for n, m in ((4, 2), (8, 2), (8, 4), (16, 8))]
    x, y = (torch.randn(rows, dim, generator=torch.Generator().manual_seed(rows)) for rows in (16_000, 80_000))
    knn(x, y, 5)  # the threads are awake
    medians = []
    for n, m in sizes:
        taken = []
        for _ in range(rounds):
            begin = time.perf_counter()
            knn(x[:n], y[:m], 5)
            taken.append(time.perf_counter() - begin)
        medians.append(statistics.median(taken))
    products = [float(n * m) for n, m in sizes]
    told = ", ".join(f"{n} x {m} {t * 1e3:.0f} ms" for (n, m), t in zip(sizes, medians, strict=True))
    return f"D={dim} k=5: {told}: N M to the power {fitted_exponent(products, medians):.2f}"


@pytest.mark.parametrize("case", [SMALL, *CASES], ids=lambda c: str(c).replace(" ", "-"))
@pytest.mark.parametrize("tool", ["gmkern", "torch.cdist", "sklearn", "cKDTree", "faiss"])
def test_knn(benchmark: Any, case: Case, tool: str) -> None:
    tools = runs(case)
    if tool not in tools:
        pytest.skip(f"{tool} is not installed, or takes no part in dimension {case.dim}")
    ours = tools["gmkern"]()
    check_truth(case, ours)
    check(tool, ours, tools[tool]())
    benchmark.extra_info.update(circumstances("scikit-learn", "scipy", "faiss-cpu"))
    benchmark.pedantic(tools[tool], rounds=5, warmup_rounds=1)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="times each tool is run in a case")
    parser.add_argument("--from-dim", type=int, default=1, help="leave out the cases of fewer dimensions")
    parser.add_argument("--to-dim", type=int, default=4096, help="and those of more")
    given = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", torch.get_num_threads())))
    for key, value in circumstances("scikit-learn", "scipy", "faiss-cpu").items():
        print(f"{key}: {value}")
    table([case for case in CASES if given.from_dim <= case.dim <= given.to_dim], given.rounds)
    for dim in (16, 64, 512, 2048):
        if given.from_dim <= dim <= given.to_dim:
            print(growth(dim, given.rounds), flush=True)
