"""prdc on a CPU beside the package prdc and a plain PyTorch one; evaluate's time and memory.

    python benchmarks/bench_metrics.py [--rounds 5] [--evaluate 50000]   a table of ratios, in turns, results checked
    pytest benchmarks/bench_metrics.py --benchmark-enable                the same cases under pytest-benchmark

evaluate runs in a process of its own, N against N samples of 64 numbers: what it takes beyond the inputs is the
largest resident size while it runs, less that before it (Linux).
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import io
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from _compare import Row, circumstances, interleaved

from gmkern.metrics import prdc

# D, real, generated, k
CASES = [(8, 5000, 5000, 5), (64, 5000, 5000, 5), (512, 5000, 5000, 5)]
EVALUATE = """
import sys, time, torch, gmkern
def resident(name):
    return int(next(line for line in open("/proc/self/status") if line.startswith(name)).split()[1]) / 1024
n = int(sys.argv[1])
draw = torch.Generator().manual_seed(0)
generated, train = (torch.randn(n, 64, generator=draw) for _ in range(2))
open("/proc/self/clear_refs", "w").write("5")  # the peak begins here
before, begin = resident("VmRSS"), time.perf_counter()
gmkern.metrics.evaluate(generated, train)
print(f"{time.perf_counter() - begin:.1f} s, {resident('VmHWM') - before:.0f} MB beyond the inputs")
"""
Run = Callable[[], tuple[float, ...]]


def runs(dim: int, n: int, m: int, k: int) -> dict[str, Run]:
    """Each tool by name, ours first, but those that are not installed."""
    draw = torch.Generator().manual_seed(0)
    real, generated = torch.randn(n, dim, generator=draw), 0.95 * torch.randn(m, dim, generator=draw)

    def dense() -> tuple[float, ...]:
        """The whole matrices, as a user would write them."""
        across = torch.cdist(real, generated)
        r, g = (torch.cdist(one, one).kthvalue(k + 1).values for one in (real, generated))
        within = across < r[:, None]
        return (
            float(within.any(0).float().mean()),
            float((across < g[None]).any(1).float().mean()),
            float(within.sum() / (k * m)),
            float((across.amin(1) < r).float().mean()),
        )

    found: dict[str, Run] = {"gmkern": lambda: prdc(real, generated, k), "torch, dense": dense}
    if importlib.util.find_spec("prdc"):
        from prdc import compute_prdc

        def package() -> tuple[float, ...]:
            with contextlib.redirect_stdout(io.StringIO()):  # it prints sizes
                told = compute_prdc(real_features=real.numpy(), fake_features=generated.numpy(), nearest_k=k)
            return tuple(float(told[name]) for name in ("precision", "recall", "density", "coverage"))

        found["package prdc"] = package
    return found


def check(name: str, ours: Any, rival: Any) -> None:
    """Shares of 5000 and counts, but for pairs at the boundary, where the Gram form errs."""
    assert max(abs(a - b) for a, b in zip(ours, rival, strict=True)) <= 1e-3, f"{name}: {rival}, ours {ours}"


def table(rounds: int) -> list[Row]:
    """A row for each case, printed as it comes."""
    rows = []
    for case in CASES:
        tools = runs(*case)
        ours = tools.pop("gmkern")
        rows.append(interleaved("prdc D={} N={} M={} k={}".format(*case), ours, tools, check, rounds=rounds))
        print(rows[-1], flush=True)
    return rows


def evaluated(n: int) -> str:
    """Seconds and memory of one evaluate of n against n."""
    root = str(Path(__file__).parents[1])
    paths = os.pathsep.join(filter(None, (os.environ.get("PYTHONPATH"), root)))
    done = subprocess.run(
        [sys.executable, "-c", EVALUATE, str(n)],
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


@pytest.mark.parametrize("case", CASES, ids=lambda c: "D{}-N{}-M{}-k{}".format(*c))
@pytest.mark.parametrize("tool", ["gmkern", "torch, dense", "package prdc"])
def test_prdc(benchmark: Any, case: tuple[int, int, int, int], tool: str) -> None:
    tools = runs(*case)
    if tool not in tools:
        pytest.skip(f"{tool} is not installed")
    check(tool, tools["gmkern"](), tools[tool]())
    benchmark.extra_info.update(circumstances("prdc"))
    benchmark.pedantic(tools[tool], rounds=5, warmup_rounds=1)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="times each tool is run in a case")
    parser.add_argument("--evaluate", type=int, default=50_000, help="samples in each set of evaluate")
    given = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", torch.get_num_threads())))
    for key, value in circumstances("prdc").items():
        print(f"{key}: {value}")
    table(given.rounds)
    print(f"evaluate D=64 N={given.evaluate} M={given.evaluate}: {evaluated(given.evaluate)}")
