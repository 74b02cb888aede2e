"""Runs a hot path's benchmarks under pytest, in a process of its own."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import click

from gmkern.cli import console
from gmkern.cli.bench.rows import Missed, missing

PATHS = {
    "neighbors": ("bench_neighbors.py", "bench_kernel_sum.py"),
    "decode": ("bench_sample.py", "bench_attention.py", "bench_generate.py", "bench_linear.py"),
    "dynamics": ("bench_dynamics.py", "bench_egnn.py", "bench_neighbor_list.py"),
    "metrics": ("bench_metrics.py",),
    "latent": ("bench_latent.py", "bench_context.py"),
}
ENVIRONMENT = {"dynamics": {"OMP_WAIT_POLICY": "PASSIVE"}}
"""Of a path's process: threads that spin on busy cores slow thousands of small steps in eager PyTorch tenfold."""
_PERCENT = 100
_TOLD = re.compile(r"::.*(PASSED|SKIPPED|FAILED|ERROR)")


def run(
    path: str, folder: Path, package: Path, options: Sequence[str] = (), name: str = ""
) -> tuple[list[dict[str, Any]], list[Missed]]:
    """pytest-benchmark's entries and what was missed, with the benchmarks in ``folder`` and gmkern from ``package``."""
    with tempfile.TemporaryDirectory() as temporary:
        numbers, tests = Path(temporary, "numbers.json"), Path(temporary, "tests.xml")
        command = [sys.executable, "-m", "pytest", *PATHS[path], "-v", "--color=no", "-p", "no:xdist"]
        command += ["--import-mode=importlib", "--continue-on-collection-errors"]
        command += ["--benchmark-enable", "--benchmark-columns=median"]
        command += [f"--benchmark-json={numbers}", f"--junitxml={tests}", *options]
        # Without the settings of a pytest that calls this: in a worker of pytest-xdist nothing is timed.
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, (str(package), environment.get("PYTHONPATH"))))
        with (
            console.stage(f"bench {path} {name}".strip(), _PERCENT) as advance,
            subprocess.Popen(
                command,
                cwd=folder,
                env=ENVIRONMENT.get(path, {}) | environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            ) as process,
        ):
            assert process.stdout is not None  # a pipe was asked for
            said = _watched(process.stdout, advance)
        if process.returncode not in (0, 1):  # all tests passed, or some did not
            raise click.ClickException(f"{path}: pytest ended with {process.returncode}: {said}")
        entries = json.loads(numbers.read_text())["benchmarks"] if numbers.exists() and numbers.stat().st_size else []
        return entries, missing(path, ElementTree.parse(tests).getroot())


def _watched(output: Iterable[str], advance: Callable[[int], None]) -> str:
    """Reads pytest's output to its end, in percent of its tests, and gives the line that says what went wrong."""
    said, total, done, shown = "it said nothing", 1, 0, 0
    died = False
    for line in output:
        count = re.match(r"collected (\d+) items?(?:.*?(\d+) selected)?", line)
        if count:
            total = max(1, int(count[2] or count[1]))
        elif _TOLD.search(line):
            done += 1
            advance(_PERCENT * done // total - shown)
            shown = _PERCENT * done // total
        if died:  # the stack follows, from where it died
            said += f": {line.strip()}" * (line.startswith("  File") and ": File" not in said)
        elif line.strip() and not said.startswith("ERROR"):
            said, died = line.strip(), "Fatal Python error" in line
    return said
