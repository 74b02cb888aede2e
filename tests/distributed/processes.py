"""Starts the ranks of a test: each runs one function of a module here, and saves what it gives."""

from __future__ import annotations

import datetime
import multiprocessing
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

FORKED = multiprocessing.get_context("forkserver")
FORKED.set_forkserver_preload(["torch", "gmkern.distributed"])
SPAWNED = multiprocessing.get_context("spawn")  # a process that has loaded nothing, for an environment of its own
Work = Callable[[Path], Any]
_LIMIT = 300  # seconds until a test says that a rank hangs: many times what any takes on a busy machine


def start(size: int, folder: Path, work: Work, *, environments: list[dict[str, str]] | None = None) -> list[Any]:
    """What ``work(folder)`` gave on each rank, None where it did not end.

    ``environments`` : what each rank's process has set before it loads anything.
    """
    context = FORKED if environments is None else SPAWNED
    started = []
    with pytest.MonkeyPatch.context() as patch:
        for rank in range(size):
            for name, value in ({} if environments is None else environments[rank]).items():
                patch.setenv(name, value)
            started.append(context.Process(target=_run, args=(rank, size, folder, work)))
            started[-1].start()
    ends = time.monotonic() + _LIMIT
    for process in started:
        process.join(max(0, ends - time.monotonic()))
    hang = [process for process in started if process.is_alive()]
    for process in hang:
        process.kill()
    assert not hang, f"{len(hang)} ranks hang"
    files = [folder / f"{rank}.pt" for rank in range(size)]
    return [torch.load(file, weights_only=True) if file.exists() else None for file in files]


def _run(rank: int, size: int, folder: Path, work: Work) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{folder}/store", datetime.timedelta(seconds=_LIMIT / 2), size, rank)
    torch.save(work(folder), folder / f"{rank}.pt")


def told(call: Callable[[], Any]) -> str:
    """The error of a call, or that there is none."""
    try:
        call()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "no error"
