"""knn on a CPU beside torch.cdist + topk, scikit-learn, SciPy's cKDTree and faiss.

    python benchmarks/bench_neighbors.py [--rounds 5] [--from-dim 1]   a table of ratios, in turns, results checked
    pytest benchmarks/bench_neighbors.py --benchmark-enable            the same cases under pytest-benchmark

Every tool searches from the arrays, building what index it wants. scikit-learn takes its best algorithm
(kd_tree up to 3 dimensions, brute above); cKDTree runs up to 3 dimensions, on all threads.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from _compare import Row, circumstances, interleaved

from gmkern.neighbors import knn

# D, queries, references, k
CASES = [
    (2, 20_000, 20_000, 1),
    (2, 20_000, 20_000, 100),
    (3, 20_000, 20_000, 5),
    (16, 4000, 20_000, 1),
    (16, 4000, 20_000, 100),
    (64, 4000, 20_000, 1),
    (64, 4000, 20_000, 5),
    (64, 4000, 20_000, 100),
    (512, 2000, 20_000, 1),
    (512, 2000, 20_000, 5),
    (512, 2000, 20_000, 100),
    (2048, 1000, 10_000, 5),
]
Run = Callable[[], tuple[Any, Any]]


def runs(dim: int, n: int, m: int, k: int) -> dict[str, Run]:
    """Each tool by name, ours first, but those that are not installed or take no part in this dimension."""
    rng = np.random.default_rng(0)
    x, y = (rng.normal(size=(rows, dim)).astype(np.float32) for rows in (n, m))
    xt, yt = torch.from_numpy(x), torch.from_numpy(y)
    threads = torch.get_num_threads()

    def cdist() -> tuple[Any, Any]:
        parts = [torch.cdist(part, yt).topk(k, largest=False) for part in xt.split(1000)]
        return torch.cat([p.values for p in parts]), torch.cat([p.indices for p in parts])

    found: dict[str, Run] = {"gmkern": lambda: knn(xt, yt, k), "torch.cdist": cdist}
    if importlib.util.find_spec("sklearn"):
        from sklearn.neighbors import NearestNeighbors

        algorithm = "kd_tree" if dim <= 3 else "brute"
        found["sklearn"] = lambda: (
            NearestNeighbors(n_neighbors=k, algorithm=algorithm, n_jobs=threads).fit(y).kneighbors(x)
        )
    if importlib.util.find_spec("scipy") and dim <= 3:
        from scipy.spatial import cKDTree

        found["cKDTree"] = lambda: cKDTree(y).query(x, k, workers=threads)
    if importlib.util.find_spec("faiss"):
        import faiss

        faiss.omp_set_num_threads(threads)

        def flat() -> tuple[Any, Any]:
            index = faiss.IndexFlatL2(dim)
            index.add(y)
            squares, indices = index.search(x, k)
            return np.sqrt(np.maximum(squares, 0)), indices

        found["faiss"] = flat
    return found


def check(name: str, ours: Any, rival: Any) -> None:
    """The rival's distances are ours within its own error; ours are exact."""
    got, want = (np.asarray(r[0], dtype=np.float64).reshape(len(ours[0]), -1) for r in (rival, ours))
    # The Gram form in float32 errs by a few hundred u of squares of size 2 D; all data here are centred normals.
    bound = 1e-3 * np.sqrt(want.max())
    worst = np.abs(got - want).max()
    assert worst <= bound, f"{name}: distances differ from ours by {worst:.2e}"


def table(cases: list[tuple[int, int, int, int]], rounds: int) -> list[Row]:
    """A row for each case, printed as it comes."""
    rows = []
    for dim, n, m, k in cases:
        tools = runs(dim, n, m, k)
        ours = tools.pop("gmkern")
        rows.append(interleaved(f"D={dim} N={n} M={m} k={k}", ours, tools, check, rounds=rounds))
        print(rows[-1], flush=True)
    return rows


@pytest.mark.parametrize("case", CASES, ids=lambda c: "D{}-N{}-M{}-k{}".format(*c))
@pytest.mark.parametrize("tool", ["gmkern", "torch.cdist", "sklearn", "cKDTree", "faiss"])
def test_knn(benchmark: Any, case: tuple[int, int, int, int], tool: str) -> None:
    tools = runs(*case)
    if tool not in tools:
        pytest.skip(f"{tool} is not installed, or takes no part in dimension {case[0]}")
    check(tool, tools["gmkern"](), tools[tool]())
    benchmark.extra_info.update(circumstances("scikit-learn", "scipy", "faiss-cpu"))
    benchmark.pedantic(tools[tool], rounds=5, warmup_rounds=1)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="times each tool is run in a case")
    parser.add_argument("--from-dim", type=int, default=1, help="leave out the cases of fewer dimensions")
    given = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", torch.get_num_threads())))
    for key, value in circumstances("scikit-learn", "scipy", "faiss-cpu").items():
        print(f"{key}: {value}")
    table([case for case in CASES if case[0] >= given.from_dim], given.rounds)
