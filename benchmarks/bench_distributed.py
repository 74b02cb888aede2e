"""What a rank computes and moves, measured here, and what a billion references cost by it (docs/scaling.md).

    python benchmarks/bench_distributed.py --json benchmarks/results/distributed.json --page docs/scaling.md

Ranks are processes of one thread on this machine, joined by gloo over its loopback; two cores are enough. Every result
is compared with one process before it is timed. The page's tables are written between its two marks; with --from JSON
they are written again and nothing is measured.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from _machine import circumstances

from gmkern import distributed, neighbors
from gmkern.distributed._group import Group

BEGIN, END = "<!-- bench_distributed.py: begin -->", "<!-- bench_distributed.py: end -->"
DIMS, K, RANKS = (16, 64, 512), 10, (1, 2)
QUERIES, REFERENCES = 1000, 50_000  # of each rank
MOVED = 1 << 25  # bytes that a rank sends, to time the links
COLLECTIVES = 6  # of one knn: two agreements, sizes, queries, distances, indices


class Job(NamedTuple):
    """A search for the k nearest: queries and references of all ranks."""

    queries: float
    references: float
    dim: int
    k: int
    ranks: int


class Rank(NamedTuple):
    """A rank: pairs a second, bytes a second of its link (each way), seconds of one small collective."""

    pairs: float
    link: float
    latency: float


def bytes_received(job: Job) -> float:
    """By each rank: the others' queries, and k candidates (a distance and an index) of each other rank for its own."""
    return (4 * job.dim + 12 * job.k) * job.queries * (job.ranks - 1) / job.ranks


def memory(job: Job) -> dict[str, float]:
    """Bytes on each rank in float32."""
    return {
        "references": 4 * job.dim * job.references / job.ranks,
        "queries": 4 * job.dim * job.queries,
        "candidates": 2 * 12 * job.k * job.queries,  # for the queries of all, and of all for its own
    }


def cost(job: Job, rank: Rank) -> dict[str, float]:
    """Seconds of a search, by what takes them."""
    return {
        "search": job.queries * job.references / job.ranks / rank.pairs,
        "links": bytes_received(job) / rank.link,
        "latency": COLLECTIVES * rank.latency * max(1, math.ceil(math.log2(job.ranks))),
    }


def measure(rounds: int) -> dict[str, Any]:
    """Rows of searches and of links, by the number of ranks."""
    found: dict[str, Any] = {"about": circumstances(), "searches": [], "links": []}
    context = multiprocessing.get_context("spawn")
    for ranks in RANKS:
        with tempfile.TemporaryDirectory() as folder:
            started = [context.Process(target=_rank, args=(r, ranks, folder, rounds)) for r in range(ranks)]
            for process in started:
                process.start()
            for process in started:
                process.join()
            assert all(process.exitcode == 0 for process in started)
            told = json.loads((Path(folder) / "found.json").read_text())
        found["searches"] += told["searches"]
        found["links"].append(told["links"])
    return found


def _rank(rank: int, ranks: int, folder: str, rounds: int) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=ranks)
    searches = [_search(rank, ranks, dim, rounds) for dim in DIMS]
    at = Group("bench", None, torch.device("cpu"))
    block, counts = torch.zeros(MOVED, dtype=torch.uint8), [MOVED // ranks] * ranks
    links = {
        "ranks": ranks,
        "agreement": _seconds(lambda: at.settled(lambda: None), 5 * rounds),
        "gather": (ranks - 1) * MOVED / _seconds(lambda: at.rows_of_all(block, [MOVED] * ranks), rounds),
        "exchange": (ranks - 1) / ranks * MOVED / _seconds(lambda: at.to_owners(block, counts), rounds),
    }
    if rank == 0:
        (Path(folder) / "found.json").write_text(json.dumps({"searches": searches, "links": links}))
    dist.barrier()
    dist.destroy_process_group()


def _search(rank: int, ranks: int, dim: int, rounds: int) -> dict[str, Any]:
    """One row: seconds of the whole call, and of this rank's search alone for the queries of all."""
    draw = torch.Generator().manual_seed(dim)
    queries = torch.randn(ranks * QUERIES, dim, generator=draw)
    references = torch.randn(ranks * REFERENCES, dim, generator=draw)
    mine, shard = queries.chunk(ranks)[rank], references.chunk(ranks)[rank]
    found, want = distributed.knn(mine, shard, K), neighbors.knn(mine, references, K)
    assert torch.equal(found.distances, want.distances)
    assert torch.equal(found.indices, want.indices)
    whole = _seconds(lambda: distributed.knn(mine, shard, K), rounds)
    alone = _seconds(lambda: neighbors.knn(queries, shard, K), rounds)
    job = Job(ranks * QUERIES, ranks * REFERENCES, dim, K, ranks)
    return {
        **job._asdict(), "seconds": whole, "search": alone, "pairs": ranks * QUERIES * REFERENCES / alone,
        "bytes": bytes_received(job),
    }  # fmt: skip


def _seconds(run: Callable[[], object], rounds: int) -> float:
    """The median over rounds of the slowest rank's time."""
    times = []
    for _ in range(rounds):
        dist.barrier()
        begin = time.perf_counter()
        run()
        taken = torch.tensor(time.perf_counter() - begin, dtype=torch.float64)
        dist.all_reduce(taken, dist.ReduceOp.MAX)
        times.append(float(taken))
    return statistics.median(times)


# A GPU of the page's example: NVIDIA's data sheet of the H100 SXM. No gmkern kernel has been timed over ranks of them.
PRODUCTS = 989e12  # bf16 operations a second of its tensor cores, dense
DIFFERENCES = 67e12 / 2 / 3  # coordinates a second: of 67e12 a fused multiply-add counts two; a coordinate takes three
NDR = 50e9  # bytes a second each way: 400 Gb/s a GPU (NVIDIA ConnectX-7, InfiniBand NDR)


def page(found: dict[str, Any]) -> str:
    """The tables of docs/scaling.md."""
    about = ", ".join(f"{name} {told}" for name, told in found["about"].items() if name != "machine")
    lines = [f"Measured: {found['about']['machine']}; {about}. A rank is a process of one thread; medians.", ""]
    lines += [
        "| ranks | D | N a rank | M a rank | whole call | its search | pairs a second and rank | received a rank |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in found["searches"]:
        lines.append(
            f"| {row['ranks']} | {row['dim']} | {row['queries'] // row['ranks']:,} | "
            f"{row['references'] // row['ranks']:,} | {_time(row['seconds'])} | {_time(row['search'])} | "
            f"{row['pairs']:.2e} | {row['bytes'] / 1e6:.2f} MB |"
        )
    link = found["links"][-1]
    lines += [
        "",
        f"An agreement of {link['ranks']} ranks takes {_time(link['agreement'])}; a gather moves "
        f"{link['gather'] / 1e9:.2f} GB/s into a rank, an exchange {link['exchange'] / 1e9:.2f} GB/s (gloo, loopback).",
        "",
        "A million queries, k = 10, among 10⁹ references, on 64 ranks of one thread that search as the measured ones:",
        "",
        "| D | search | links at 50 GB/s | latency as here | references a rank | queries and candidates a rank |",
        "|---|---|---|---|---|---|",
    ]
    for row in found["searches"]:
        if row["ranks"] == RANKS[-1]:
            job = Job(1e6, 1e9, row["dim"], row["k"], 64)
            took, held = cost(job, Rank(row["pairs"], NDR, link["agreement"])), memory(job)
            lines.append(
                f"| {job.dim} | {_time(took['search'])} | {_time(took['links'])} | {_time(took['latency'])} | "
                f"{held['references'] / 1e9:.1f} GB | {(held['queries'] + held['candidates']) / 1e9:.2f} GB |"
            )
    return "\n".join([*lines, *_of_gpus()])


def _of_gpus() -> list[str]:
    """What no rank can do faster, of GPUs by their data sheet."""
    lines = [
        "",
        "Assumed, not measured: the least that 64 GPUs could take, at the ceilings of the H100 SXM's data sheet:",
        "",
        "| D | all pairs by differences in fp32 | by products in bf16 |",
        "|---|---|---|",
    ]
    for dim in DIMS:
        job = Job(1e6, 1e9, dim, K, 64)
        lower = [cost(job, Rank(rate, NDR, 0.0))["search"] for rate in (DIFFERENCES / dim, PRODUCTS / (2 * dim))]
        lines.append(f"| {dim} | {_time(lower[0])} | {_time(lower[1])} |")
    return lines


def _time(seconds: float) -> str:
    for least, unit in ((86400, "days"), (3600, "h"), (60, "min"), (1, "s"), (1e-3, "ms")):
        if seconds >= least:
            return f"{seconds / least:.3g} {unit}"
    return f"{seconds * 1e6:.3g} µs"


def written(text: str, table: str) -> str:
    """A page with its table between the marks."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n\n{table}\n\n{END}{after}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=7, help="times each is run")
    parser.add_argument("--json", type=Path, help="where to write what was measured")
    parser.add_argument("--page", type=Path, help="the page whose table to write")
    parser.add_argument("--from", dest="source", type=Path, help="measure nothing: take this JSON")
    given = parser.parse_args()
    found = json.loads(given.source.read_text()) if given.source else measure(given.rounds)
    print(page(found))
    if given.json:
        given.json.parent.mkdir(parents=True, exist_ok=True)
        given.json.write_text(json.dumps(found, indent=1) + "\n")
    if given.page:
        given.page.write_text(written(given.page.read_text(), page(found)))
