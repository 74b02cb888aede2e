"""Takes a case's tools in turns, in one process, so that all meet the same machine.

pytest-benchmark times one tool in one test. So the first of a case's tests runs the race of all its tools, and each
test replays its own tool's rounds to pytest-benchmark, whose statistics and JSON are kept: its timer is :data:`CLOCK`,
which moves when a round is replayed.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from threadpoolctl import threadpool_limits

if TYPE_CHECKING:
    from _case import Case, Run

LONG = 1.0  # seconds of a run that is not repeated to choose a number of threads
LEAST = 3  # rounds


class Clock:
    """A timer that stands still but for the rounds that it is given."""

    __name__ = "rounds in turns"

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def replay(self, benchmark: Any, seconds: Sequence[float]) -> None:
        """Hands ``seconds`` to the fixture as its rounds."""
        left = iter(seconds)

        def one_round() -> None:
            self.now += next(left)

        benchmark.pedantic(one_round, rounds=len(seconds))


CLOCK = Clock()


@dataclass
class Raced:
    """What a tool did in a case."""

    seconds: list[float]
    threads: int
    memory: int | None
    """Bytes by which the process's resident size grew, at its peak, in the first run; None where nobody tells."""


def race(case: Case, names: Sequence[str], *, rounds: int, budget: float) -> dict[str, Raced | BaseException]:
    """Runs gmkern and then the other ``names`` once, checks them, chooses their threads, and times them in turns.

    A round is one run of each tool. There are as many as ``budget`` seconds hold, at least 3 and at most ``rounds``. A
    tool that fails, or whose result is another than gmkern's, has its error in the place of its times, and is not
    timed.
    """
    inputs, every = case.inputs(), torch.get_num_threads()
    found: dict[str, Raced | BaseException] = {}
    runs: dict[str, Run] = {}
    ours = None
    for name in names:
        try:
            run = case.tools[name](inputs)
            seconds, (memory, result) = _timed(lambda run=run: grown(lambda: run(every)), every)
            ours = result if ours is None else ours
            case.check(inputs, name, ours, result)
            del result
            found[name] = Raced([], every if seconds > LONG else _fastest(run, every), memory)
            runs[name] = run
        except (Exception, SystemExit) as error:
            if not found:
                raise  # gmkern itself: there is nothing to hold the others to
            found[name] = error
    del ours
    begin = time.perf_counter()
    for done in range(rounds):
        if done >= LEAST and time.perf_counter() - begin > budget:
            break
        for name, run in runs.items():
            told = found[name]
            assert isinstance(told, Raced)
            told.seconds.append(_timed(lambda run=run, n=told.threads: run(n), told.threads)[0])
    torch.set_num_threads(every)
    return found


def _fastest(run: Run, every: int) -> int:
    """One thread or all, whichever is faster: the least of two runs each."""
    if every == 1:
        return 1
    return min((1, every), key=lambda n: min(_timed(lambda: run(n), n)[0] for _ in range(2)))


def _timed(call: Callable[[], Any], threads: int) -> tuple[float, Any]:
    """Seconds and result of a call on so many threads: torch's, and those of every OpenMP and BLAS that is loaded."""
    torch.set_num_threads(threads)
    with threadpool_limits(threads):
        begin = time.perf_counter()
        result = call()
        return time.perf_counter() - begin, result


def grown(call: Callable[[], Any]) -> tuple[int | None, Any]:
    """Bytes by which the resident size grows, at its peak, in ``call``; and its result. Linux alone tells.

    What the allocator has kept of earlier work is given back first, and the kernel's high-water mark is set back.
    """
    try:
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")
        before = _status("VmRSS")
    except (OSError, AttributeError):
        return None, call()
    result = call()
    return max(0, _status("VmHWM") - before), result


def _status(name: str) -> int:
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) * 1024
