"""decode.sample beside what one would write instead, in one process, interleaved, medians.

    python benchmarks/bench_sample.py [--rows 8] [--repeats 15]
    pytest benchmarks/bench_sample.py --benchmark-enable           eight rows under pytest-benchmark

Rivals: torch.multinomial of a softmax (unfiltered), and sort, cumulative sum, mask, softmax, multinomial (filtered),
each followed by the log-probability that sample returns as well. Before a ratio is printed, the drawn tokens are
checked against the reference, and the rival's log-probabilities of them against sample's. The last column is the share
of the bandwidth of a plain read (torch.sum of the logits) that one reading of the logits in sample's time comes to. On
a busy machine give OMP_NUM_THREADS=1: torch's threads wait for one another by spinning.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
from collections.abc import Callable
from typing import Any

import pytest
import torch
from _compare import measured

import gmkern
from gmkern.decode import SamplingParams, sample, token_logprobs

VOCABULARIES = (17, 1024, 50_257, 128_256)
CASES = {
    "none": SamplingParams(),
    "T=0.8": SamplingParams(0.8),
    "top_k=50": SamplingParams(top_k=50),
    "top_p=0.9": SamplingParams(top_p=0.9),
    "T=0.8 k=50 p=0.95": SamplingParams(0.8, 50, 0.95),
    "min_p=0.05": SamplingParams(min_p=0.05),
}


def multinomial(logits: torch.Tensor, params: SamplingParams) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens and log-probabilities with PyTorch alone."""
    z = logits.float() / params.temperature
    if params.top_k:
        z = z.masked_fill(z < z.topk(min(params.top_k, z.shape[1])).values[:, -1:], float("-inf"))
    if params.top_p < 1:
        ordered, index = z.sort(dim=-1, descending=True)
        p = ordered.softmax(-1)
        dropped = p.cumsum(-1) - p >= params.top_p
        z = z.masked_fill(torch.zeros_like(dropped).scatter_(1, index, dropped), float("-inf"))
    if params.min_p > 0:
        p = z.softmax(-1)
        z = z.masked_fill(p < params.min_p * p.amax(-1, keepdim=True), float("-inf"))
    logprobs = z.log_softmax(-1)
    tokens = torch.multinomial(logprobs.exp(), 1)
    return tokens[:, 0], logprobs


def medians(calls: list[Callable[[], object]], repeats: int) -> list[float]:
    for call in calls:
        call()
    taken: list[list[float]] = [[] for _ in calls]
    for _ in range(repeats):
        for times, call in zip(taken, calls, strict=True):
            start = time.perf_counter()
            call()
            times.append(time.perf_counter() - start)
    return [statistics.median(times) for times in taken]


def check(logits: torch.Tensor, params: SamplingParams, ids: torch.Tensor) -> None:
    ours = sample(logits, params, seed=1, sample_ids=ids, step=0)
    truth = sample(logits, params, seed=1, sample_ids=ids, step=0, backend="reference")
    assert all(torch.equal(a, b) for a, b in zip(ours, truth, strict=True))
    rival = multinomial(logits, params)[1].gather(1, ours.tokens[:, None])[:, 0]
    near = torch.isclose(rival, ours.logprobs, rtol=1e-4, atol=1e-3)
    # at a boundary the rival's own rounding may keep one token more or fewer, which moves every value by little
    assert near.all(), (rival, ours.logprobs)
    assert torch.equal(token_logprobs(logits, ours.tokens, params), ours.logprobs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--vocab", type=int, nargs="+", default=VOCABULARIES)
    given = parser.parse_args()
    torch.manual_seed(0)
    print(
        f"gmkern {gmkern.__version__}, torch {torch.__version__}, {platform.machine()} "
        f"{gmkern.info().isa}, {torch.get_num_threads()} threads, {given.rows} rows"
    )
    print(
        f"{'vocabulary':>10} {'spread':>6}  {'filters':<22} {'sample':>10} {'PyTorch':>10} {'ratio':>7} {'of read':>8}"
    )
    for vocab in given.vocab:
        for spread in (1.0, 4.0):
            logits = spread * torch.randn(given.rows, vocab)
            ids = torch.arange(given.rows)
            for name, params in CASES.items():
                check(logits, params, ids)
                ours, rival, read = medians(
                    [
                        lambda x=logits, p=params, i=ids: sample(x, p, seed=1, sample_ids=i, step=0),
                        lambda x=logits, p=params: multinomial(x, p),
                        lambda x=logits: x.sum(),
                    ],
                    given.repeats,
                )
                print(
                    f"{vocab:>10} {spread:>6}  {name:<22} {ours * 1e3:>8.3f}ms {rival * 1e3:>8.3f}ms "
                    f"{rival / ours:>6.1f}x {read / ours:>7.0%}"
                )


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("vocab", VOCABULARIES)
@pytest.mark.parametrize("tool", ["gmkern", "PyTorch"])
def test_sample(benchmark: Any, case: str, vocab: int, tool: str) -> None:
    torch.manual_seed(0)
    logits, ids, params = 4 * torch.randn(8, vocab), torch.arange(8), CASES[case]
    check(logits, params, ids)
    tools: dict[str, Callable[[], Any]] = {
        "gmkern": lambda: sample(logits, params, seed=1, sample_ids=ids, step=0),
        "PyTorch": lambda: multinomial(logits, params),
    }
    measured(benchmark, tool, tools, lambda *_: None, rounds=15)


if __name__ == "__main__":
    main()
