"""An EGNN's step beside eager PyTorch, in one process, in turns: medians, peak memory, no ratio before results agree.

    python benchmarks/bench_egnn.py
    pytest benchmarks/bench_egnn.py --benchmark-enable

A step is the velocity at every atom and the gradients of a loss of it in positions and parameters; a look is the
velocity alone. "pairs" is PyTorch with all pairs of a batch at once, [S, N, N, H], the first product split between the
two atoms (gmkern's own reference); "edges" is the list of edges of the published code, [E, 2 H + 1], summed by
index_add. Each tool has the number of threads at which it is fastest. Memory is what a process's peak grows by.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # threads that spin on busy cores slow eager PyTorch tenfold

import pytest
import torch
from _compare import Row, circumstances, interleaved, measured
from timing import matrix_rate
from torch import Tensor
from torch.nn.functional import silu

from gmkern.dynamics import EGNN

WIDTH, LAYERS = 64, 4
CASES = {"256 x 32": (256, 32), "1,024 x 13": (1024, 13), "16 x 128": (16, 128)}
TOOLS = ("gmkern", "pairs", "edges")
MESSAGE_FLOP = 2 * 2 * WIDTH * WIDTH  # of the two products of a message, forward


def made(systems: int, atoms: int) -> tuple[EGNN, Tensor, Tensor]:
    torch.manual_seed(0)
    network = EGNN(WIDTH, LAYERS, neighbors=atoms - 1)
    for layer in network.layers:  # a field of order 1, as after training
        torch.nn.init.normal_(layer.move_out.weight, std=0.5)
    return network, 2.0 * torch.randn(systems, atoms, 3), torch.rand(systems)


def by_edges(network: EGNN, x: Tensor, t: Tensor) -> Tensor:
    """The layers as the published code has them: gathered edges, concatenated inputs, index_add."""
    systems, atoms, _ = x.shape
    assert network.of_time is not None
    i, j = (~torch.eye(atoms, dtype=torch.bool)).nonzero().unbind(1)
    first = atoms * torch.arange(systems)[:, None]
    i, j = (first + i).reshape(-1), (first + j).reshape(-1)
    start = x.reshape(-1, 3)
    place, h = start, network.of_type.weight + t.repeat_interleave(atoms)[:, None] * network.of_time
    for layer in network.layers:
        r = place[i] - place[j]
        square = (r * r).sum(1, keepdim=True)
        m = silu(layer.message_out(silu(layer.message_in(torch.cat([h[i], h[j], square], 1)))))
        sums = torch.zeros_like(h).index_add(0, i, m) / network.neighbors
        pull = layer.move_out(silu(layer.move_in(m))) / (1.0 + square.sqrt())
        place = place + torch.zeros_like(place).index_add(0, i, pull * r) / network.neighbors
        h = h + layer.update_out(silu(layer.update_in(torch.cat([h, sums], 1))))
    return (place - start).reshape(x.shape)


def velocity(tool: str, network: EGNN, x: Tensor, t: Tensor) -> Tensor:
    if tool == "edges":
        return by_edges(network, x, t)
    return network(x, t, backend="cpu" if tool == "gmkern" else "reference")


def look(tool: str, systems: int, atoms: int, threads: int) -> Callable[[], list[Tensor]]:
    network, x, t = made(systems, atoms)

    def run() -> list[Tensor]:
        torch.set_num_threads(threads)
        with torch.no_grad():
            return [velocity(tool, network, x, t)]

    return run


def step(tool: str, systems: int, atoms: int, threads: int) -> Callable[[], list[Tensor]]:
    network, x, t = made(systems, atoms)
    x.requires_grad_()

    def run() -> list[Tensor]:
        torch.set_num_threads(threads)
        wanted = [x, *(p for p in network.parameters())]
        loss = velocity(tool, network, x, t).square().sum()
        return list(torch.autograd.grad(loss, wanted, allow_unused=True, materialize_grads=True))

    return run


KINDS = {"look": look, "step": step}


def agree(name: str, ours: list[Tensor], theirs: list[Tensor]) -> None:
    for a, b in zip(ours, theirs, strict=True):  # float32 sums over up to a million messages, in different orders
        assert (a - b).abs().max() <= 1e-3 * b.abs().max(), name


def fastest_threads(make: Callable[[int], Callable[[], list[Tensor]]]) -> int:
    counts = sorted({1, os.cpu_count() or 1})
    best = interleaved("", make(counts[0]), {str(n): make(n) for n in counts}, lambda *_: None, rounds=1)
    return min(counts, key=lambda n: best.rivals[str(n)])


def compare(kind: str, case: str, rounds: int) -> Row:
    makes = {tool: partial(KINDS[kind], tool, *CASES[case]) for tool in TOOLS}
    runs = {tool: make(fastest_threads(make)) for tool, make in makes.items()}
    return interleaved(f"{kind} {case}", runs.pop("gmkern"), runs, agree, rounds=rounds)


def peak(tool: str, kind: str, case: str) -> float:
    """MiB by which a process's peak grows over the first run of a small case and one of this."""
    told = subprocess.run(
        [sys.executable, __file__, "--peak", tool, kind, case], capture_output=True, text=True, check=True
    )
    return float(told.stdout)


def grown(tool: str, kind: str, case: str) -> float:
    KINDS[kind](tool, 2, 4, 1)()
    run = KINDS[kind](tool, *CASES[case], os.cpu_count() or 1)
    before = high_water()
    run()
    return (high_water() - before) / 1024


def high_water() -> int:
    """KiB of this process at its largest; getrusage would begin with the parent's."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", help="write the rows here")
    parser.add_argument("--peak", nargs=3, metavar=("TOOL", "KIND", "CASE"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.peak:
        print(grown(*given.peak))
        return
    head = circumstances()
    ceiling = matrix_rate(torch.device("cpu"), n=1536, dtype=torch.float32, budget=2.0)
    head["ceiling"] = f"{ceiling / 1e9:.0f} Gflop/s, a matrix product's"
    for key, value in head.items():
        print(f"{key}: {value}")
    rows = []
    for kind in KINDS:
        for case, (systems, atoms) in CASES.items():
            row = compare(kind, case, given.rounds)
            memory = {tool: peak(tool, kind, case) for tool in TOOLS}
            flop = systems * atoms * (atoms - 1) * LAYERS * MESSAGE_FLOP
            share = f"{flop / row.ours / ceiling:.0%} of the ceiling" if kind == "look" else ""
            told = ", ".join(f"{tool} {mib:.0f}" for tool, mib in memory.items())
            print(f"{row}  {share}  MiB: {told}", flush=True)
            rows.append({"case": row.case, "seconds": {"gmkern": row.ours, **row.rivals}, "MiB": memory})
    print(f"load after: {os.getloadavg()[0]:.1f}")
    if given.json:
        with open(given.json, "w") as file:
            json.dump({"about": head, "rows": rows}, file, indent=1)


@pytest.mark.parametrize("tool", TOOLS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("case", CASES)
def test_speed(benchmark, case, kind, tool):
    threads = os.cpu_count() or 1
    runs = {name: KINDS[kind](name, *CASES[case], threads) for name in {tool, "gmkern"}}
    measured(benchmark, tool, runs, agree)


if __name__ == "__main__":
    main()
