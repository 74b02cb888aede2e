"""The machine of a run: what it is, and the two ceilings that a kernel is held against."""

from __future__ import annotations

import functools
import os
import platform
import subprocess
from pathlib import Path

import numpy as np
import torch
from timing import matrix_rate, read_bandwidth

import gmkern


@functools.cache
def ceilings(quick: bool) -> dict[str, float]:
    """Bytes a second of the fastest plain read, and operations a second of a float32 matrix product.

    Measured once a process, on all threads, before anything else.
    """
    cpu, size, budget = torch.device("cpu"), 1 << (26 if quick else 29), 0.3 if quick else 2.0
    return {
        "read": read_bandwidth(cpu, size=size, budget=budget),
        "fp32": matrix_rate(cpu, n=512 if quick else 2048, dtype=torch.float32, budget=budget),
    }


@functools.cache
def circumstances() -> dict[str, str]:
    """Machine, versions and commit, which each row carries."""
    root = Path(gmkern.__file__).parents[1]
    told = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=root, capture_output=True, text=True, check=False
    )
    return {
        "machine": f"{_processor()}, {torch.get_num_threads()} threads of {os.cpu_count()} processors",
        "isa": gmkern.info().isa,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "gmkern": gmkern.__version__,
        "commit": told.stdout.strip() or "unknown",
        "load before": f"{os.getloadavg()[0]:.1f}",
    }


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
