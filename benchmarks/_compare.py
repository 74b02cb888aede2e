"""One kernel beside its rivals: in one process, in turns, medians, and no ratio before its result is checked."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

Run = Callable[[], Any]


class Row(NamedTuple):
    """Median seconds of ours and of each rival for one case."""

    case: str
    ours: float
    rivals: dict[str, float]

    def ratios(self) -> dict[str, float]:
        """How many times longer each rival took."""
        return {name: taken / self.ours for name, taken in self.rivals.items()}

    def __str__(self) -> str:
        told = "  ".join(f"{n} {t * 1e3:.1f} ms ({t / self.ours:.2f}x)" for n, t in self.rivals.items())
        return f"{self.case:<34} gmkern {self.ours * 1e3:8.1f} ms  {told}"


def interleaved(
    case: str,
    ours: Callable[[], Any],
    rivals: dict[str, Callable[[], Any]],
    check: Callable[[str, Any, Any], None],
    *,
    rounds: int = 5,
) -> Row:
    """Checks every rival's result against ours (``check(name, ours, rival)`` raises), then times them in turns."""
    result = ours()
    for name, run in rivals.items():
        check(name, result, run())
    times: dict[str, list[float]] = {name: [] for name in ("gmkern", *rivals)}
    for _ in range(rounds):
        for name, run in (("gmkern", ours), *rivals.items()):
            begin = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - begin)
    medians = {name: statistics.median(taken) for name, taken in times.items()}
    return Row(case, medians.pop("gmkern"), medians)


def measured(
    benchmark: Any, tool: str, tools: dict[str, Run], check: Callable[[str, Any, Any], None], *, rounds: int = 5
) -> None:
    """One tool's case under pytest-benchmark, its result checked against that of ``tools["gmkern"]`` before."""
    check(tool, tools["gmkern"](), tools[tool]())
    benchmark.extra_info.update(circumstances())
    benchmark.pedantic(tools[tool], rounds=rounds, warmup_rounds=1)


def fitted_exponent(sizes: Sequence[float], times: Sequence[float]) -> float:
    """The slope of log(time) against log(size), by least squares: 1 where time grows with the size."""
    return float(np.polynomial.Polynomial.fit(np.log(sizes), np.log(times), 1).convert().coef[1])


def circumstances(*packages: str) -> dict[str, str]:
    """Machine, versions and commit, for the head of a table. An absent package is named as absent."""
    told = {"machine": f"{_processor()}, {torch.get_num_threads()} threads of {os.cpu_count()} processors"}
    for package in ("torch", "gmkern", *packages):
        try:
            told[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            told[package] = "absent" if package != "gmkern" else "this checkout"
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    )
    told["commit"] = commit.stdout.strip() or "unknown"
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else float("nan")
    told["load before"] = f"{load:.1f}"
    return told


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
