"""Measures one case: a row that says more and more, so that a rival that never ends takes its own figures alone."""

from __future__ import annotations

import gc
import statistics
from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import Any

import torch
from timing import copy_bandwidth, in_a_graph, matrix_rate, read_bandwidth, seconds, side_by_side

from gmkern import _backend
from gmkern._owners import OWNERS
from gpu_cases.case import Case

OURS = "gmkern"
SHORT = 2e-3  # seconds: below, what Python takes to launch is a large part of a run
CALLS = 20  # of a graph
Row = dict[str, Any]


def ceilings(device: torch.device, tiny: bool, budget: float) -> Row:
    """What the machine can do: a copy, a read of everything once, a product of bf16 matrices."""
    size, n = (1 << 20, 64) if tiny else (1 << 32, 8192)
    return {
        "copy, bytes a second": copy_bandwidth(device, size=size, budget=budget / 3),
        "read, bytes a second": read_bandwidth(device, size=size, budget=budget / 3),
        "bf16 matrix, flop a second": matrix_rate(device, n=n, dtype=torch.bfloat16, budget=budget / 3),
    }


def rows_of(
    make: Callable[[torch.device, bool], Case], device: torch.device, tiny: bool, budget: float
) -> Iterator[Row]:
    """The case's row: after its check and its own time, then with each rival's, then with those in graphs."""
    case = make(device, tiny)
    case.check()
    rivals = {name: run for name, run in case.rivals.items() if not isinstance(run, str)}
    each = budget / (1 + 2 * len(rivals))
    own = seconds(case.run, device, budget=each)
    row: Row = {
        "shape": case.shape,
        "seconds": {OURS: statistics.median(own)},
        "ours beside": {},  # medians of runs in turns with each rival
        "in a graph": {},
        "absent": {name: why for name, why in case.rivals.items() if isinstance(why, str)},
        "not measured": dict.fromkeys(rivals, "not finished in its time"),
        "rival scale": case.rival_scale,
        "moved": case.moved,
        "read": case.read,
        "flop": case.flop,
        "work": case.work,
        "unit": case.unit,
        "marks": [asdict(mark) for mark in case.marks],
        "doing": OURS,  # whose fault it is if no other row follows
    }
    yield row
    graphs: dict[str, Callable[[], object]] = {}
    if device.type == "cuda" and case.captures and row["seconds"][OURS] < SHORT:
        graphs[OURS] = in_a_graph(case.run, CALLS)  # ours must survive it
        row["in a graph"][OURS] = statistics.median(seconds(graphs[OURS], device, budget=each)) / CALLS
        yield row
    for name, run in rivals.items():
        yield row | {"doing": name}
        try:
            times = side_by_side({OURS: case.run, name: run}, device, budget=2 * each)
        except Exception as error:  # a rival's: ours have a row of their own
            row["not measured"][name] = f"failed: {_short(error)}"
        else:
            del row["not measured"][name]
            row["seconds"][name], row["ours beside"][name] = times[name], times[OURS]
    if graphs:
        yield from _captured(case, row, graphs, device, each)
    yield row


def give_back(device: torch.device) -> None:
    """What the last case held."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def _captured(
    case: Case, row: Row, graphs: dict[str, Callable[[], object]], device: torch.device, budget: float
) -> Iterator[Row]:
    """Seconds of a run on the device alone: graphs of CALLS runs, those of rivals that have one, replayed in turns."""
    for name in row["ours beside"]:
        yield row | {"doing": name}
        run = case.rivals[name]
        assert not isinstance(run, str)
        try:
            graphs[name] = in_a_graph(run, CALLS)
        except Exception as error:  # it waits for the device; what is left of the capture may spoil another
            row["not captured"] = {name: _short(error)}
            break
    times = side_by_side(graphs, device, budget=budget * len(graphs))
    row["in a graph"] = {name: taken / CALLS for name, taken in times.items()}


def check_owner(name: str, device: torch.device) -> None:
    """Refuses a case whose kernels are not here, where plain PyTorch would serve and be measured instead."""
    if device.type != "cuda":
        return
    op = name.split(" ")[0].replace("noise.", "random.")
    owner = {owner.op: owner.cuda for owner in OWNERS}[op]
    missing = {"cuda": _backend.on_cuda, "triton": _backend.on_triton}[owner](device)
    if missing:
        raise RuntimeError(missing)


def _short(error: Exception) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()] or ["no message"]
    return f"{type(error).__name__}: {lines[0][:200]}"
