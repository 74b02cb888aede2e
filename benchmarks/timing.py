"""Timing on a CPU or a GPU, and the ceilings that a kernel is held against."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch


def seconds(
    run: Callable[[], object], device: torch.device, *, budget: float, least: int = 5, most: int = 200
) -> list[float]:
    """Seconds of each call of ``run``, after one unmeasured call: from device events on a GPU, else the clock.

    Stops after ``most`` calls, or after ``budget`` seconds once there are ``least``.
    """
    run()
    _wait(device)
    times: list[float] = []
    begin = time.perf_counter()
    while len(times) < most and (len(times) < least or time.perf_counter() - begin < budget):
        if device.type == "cuda":
            start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            start.record()
            run()
            end.record()
            end.synchronize()
            times.append(start.elapsed_time(end) / 1e3)
        else:
            at = time.perf_counter()
            run()
            times.append(time.perf_counter() - at)
    return times


def side_by_side(
    runs: dict[str, Callable[[], object]], device: torch.device, *, budget: float, rounds: int = 3
) -> dict[str, float]:
    """Median seconds of each of ``runs``, measured in turns so that all meet the same machine."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            times[name] += seconds(run, device, budget=budget / (rounds * len(runs)), least=3)
    return {name: statistics.median(taken) for name, taken in times.items()}


def in_a_graph(run: Callable[[], object], calls: int) -> Callable[[], object]:
    """A CUDA graph of ``calls`` runs, which the host launches as one: raises where a run waits for the device."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        run()  # on the stream of the capture: what is made at a first run there is made
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        for _ in range(calls):
            run()
    return graph.replay


def copy_bandwidth(device: torch.device, *, size: int, budget: float) -> float:
    """Bytes a second of a copy of ``size`` bytes within the device, bytes read and bytes written both counted."""
    source = torch.randint(0, 256, (size,), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * size / statistics.median(seconds(lambda: target.copy_(source), device, budget=budget))


def read_bandwidth(device: torch.device, *, size: int, budget: float) -> float:
    """Bytes a second of the fastest plain read of ``size`` bytes: a sum, or a product of a matrix and a vector."""
    x = torch.rand(size // 4, device=device)
    rows, vector = x.view(-1, 8192), torch.rand(8192, device=device)
    runs = {"sum": lambda: x.sum(), "product": lambda: rows @ vector}
    return size / min(side_by_side(runs, device, budget=budget).values())


def matrix_rate(device: torch.device, *, n: int, dtype: torch.dtype, budget: float) -> float:
    """Floating-point operations a second of an n x n x n product of random matrices."""
    a, b = (torch.randn(n, n, device=device).to(dtype) for _ in range(2))
    out = torch.empty(n, n, dtype=dtype, device=device)
    return 2 * n**3 / statistics.median(seconds(lambda: torch.mm(a, b, out=out), device, budget=budget))


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
