"""generate beside Hugging Face's generate, CTranslate2 and a plain PyTorch loop: the same GPT-2 weights, greedy tokens.

    python benchmarks/bench_generate.py [--case small] [--rounds 5] [--json FILE]
    pytest benchmarks/bench_generate.py --benchmark-enable         the same cases, all on torch's threads

First the ceilings of the machine: the bandwidth of the fastest plain read, and the rates of PyTorch's matrix products.
From them each case's floor: the weights read once a step where they do not fit a cache, or the multiply-adds, whichever
takes longer. Then the measurement: interleaved, each rival (and gmkern) at the thread count, 1 or all, at which it was
fastest before; medians. A ratio is printed only where a rival's tokens were ours in this run (near ties may part: 98%
of rows agree to their last token). A package that is not installed is named as absent.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from _compare import circumstances, measured
from _generate_rivals import FOUND, Run, _in_torch, rivals
from timing import matrix_rate, read_bandwidth
from torch import Tensor

import gmkern
from gmkern.decode import Generation, SamplingParams, Transformer, TransformerConfig, generate
from gmkern.decode.transformer import ops, packed

GREEDY = SamplingParams(temperature=0.0)
BYTES = {"float32": 4, "bfloat16": 2, "int8": 1}
LEAST = 0.98
"""Of a rival's rows, the share whose tokens have to be ours."""
NEAR = 32 << 20  # bytes of weights that some cache holds
GPT2: dict[str, Any] = {
    "norm": "layernorm", "activation": "gelu_tanh", "position": "learned", "qkv_bias": True, "bias": True, "bos_id": 0,
}  # fmt: skip
MODELS = {
    "small": TransformerConfig(512, 4, 4, 128, 512, **GPT2),
    "124M": TransformerConfig(50257, 12, 12, 768, 1024, **GPT2),
}


class Case(NamedTuple):
    """What to measure, and the marks: times faster than a rival or another format, or the share of the floor."""

    model: str
    rows: int
    length: int
    marks: dict[str, float]
    shortest: int = 0  # rows end after lengths spread from here to ``length``; 0: all have one length

    def __str__(self) -> str:
        spread = f" ragged (from {self.shortest})" if self.shortest else ""
        return f"{self.model} B={self.rows} T={self.length}{spread}"


CASES = {
    "small": [
        Case("small", 1, 128, {"transformers": 15, "ctranslate2": 1.3}),
        Case("small", 16, 128, {"transformers": 8, "ctranslate2": 1.3, "floor": 0.6}),
        Case("small", 256, 64, {"transformers": 4, "ctranslate2": 1.3, "floor": 0.6}),
    ],
    "ragged": [Case("small", 256, 256, {"transformers": 8}, 8)],
    "124M": [
        Case("124M", 1, 48, {"transformers": 2.2, "ctranslate2": 1, "floor": 0.85, "bfloat16": 1.6, "int8": 2.5}),
        Case("124M", 16, 12, {"floor": 0.6, "ctranslate2": 1.3}),
        Case("124M", 256, 2, {"floor": 0.6, "ctranslate2": 1.3}),
    ],
}


def clock(run: Run) -> float:
    begin = time.perf_counter()
    run()
    return time.perf_counter() - begin


def linear_weights(model: Transformer) -> int:
    blocks = sum(p.numel() for p in model.blocks.parameters() if p.ndim == 2)
    return blocks + model.head_weight.numel()


def floor(model: Transformer, lengths: Tensor, width: int, ceilings: dict[str, float]) -> dict[str, float]:
    """Seconds a case takes at least, by format of the weights: of reading, and of multiplying, the larger."""
    c, weights = model.config, linear_weights(model)
    tokens, steps = float(lengths.sum()), float(lengths.max())
    seen = float((lengths * (lengths + 1) / 2).sum())  # pairs of a query and a position
    cache = 2 * c.n_layers * c.n_kv_heads * c.head_dim
    flops = 2 * weights * tokens + 2 * cache * seen * c.n_heads / c.n_kv_heads
    out = {}
    for format, size in BYTES.items():
        streamed = weights * size if weights * size > NEAR else 0
        read = (streamed * steps + 4 * cache * seen * (4 * cache * width * steps > NEAR)) / ceilings["read"]
        out[format] = max(read, flops / ceilings["fp32"])
    return out


def agreement(done: Generation, tokens: Tensor) -> float:
    """The share of rows whose tokens are ours to their end."""
    same = torch.zeros_like(done.tokens)
    same[:, : tokens.shape[1]] = tokens
    return float(((same == done.tokens) | ~done.mask).all(1).double().mean())


def prepared(case: Case) -> tuple[Transformer, Tensor, list[int]]:
    """The model of a case, its prompts [rows, 1] and its end tokens.

    Where rows end, the model counts: its head's row of token t is the embedding of token t - 1, so that the likeliest
    token is the next number, and 0, the end token, comes after as many tokens as the prompt says. The work is that of
    any model of its shape, and every rival draws the same lengths from the same weights.
    """
    torch.manual_seed(0)
    config = MODELS[case.model]
    model = Transformer(config if not case.shortest else dataclasses.replace(config, tie_embeddings=False)).eval()
    with torch.no_grad():
        model.embedding.weight *= 5  # logits far enough apart that greedy tokens are not near ties
        if case.shortest:
            model.head_weight.copy_(model.embedding.weight.roll(1, 0))
            for weight in (model.position_embedding.weight, *(p for p in model.blocks.parameters() if p.ndim == 2)):
                weight *= 0.05  # the stream keeps its token
    if not case.shortest:
        return model, torch.arange(case.rows).unsqueeze(1) * 7 % config.vocab_size, []
    return model, (config.vocab_size - wanted_lengths(case)).unsqueeze(1), [0]


def wanted_lengths(case: Case) -> Tensor:
    """Of a ragged case's rows, evenly spread and shuffled: [rows]."""
    spread = torch.linspace(case.shortest, case.length, case.rows).round().long()
    return spread[torch.randperm(case.rows, generator=torch.Generator().manual_seed(1))]


def measure(case: Case, rounds: int, ceilings: dict[str, float]) -> dict[str, Any]:
    model, prompts, ends = prepared(case)
    cpus = torch.get_num_threads()

    def ours(format: str) -> Generation:
        return generate(
            model, prompts, max_new_tokens=case.length, params=GREEDY, end_token=ends or None, weights=format
        )

    formats = [f for f in BYTES if f == "float32" or f in case.marks]
    done = {format: ours(format) for format in formats}
    if case.shortest:
        assert torch.equal(done["float32"].lengths, wanted_lengths(case)), "the rows do not end where they should"
    runs = {format: _in_torch(lambda format=format: ours(format).tokens, cpus) for format in formats}
    runs |= rivals(model, prompts, case.length, ends, cpus)
    agree = {name: agreement(done["float32"], run[1]()) for name, run in runs.items() if name not in BYTES}
    best = {
        name: min(run, key=lambda threads: min(clock(run[threads]) for _ in range(2))) for name, run in runs.items()
    }
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            times[name].append(clock(run[best[name]]))
    torch.set_num_threads(cpus)
    return {
        "case": str(case),
        "mean length": float(done["float32"].lengths.double().mean()),
        "seconds": {name: statistics.median(taken) for name, taken in times.items()},
        "threads": best,
        "rows_that_agree": agree,
        "floor": floor(model, done["float32"].lengths.double(), case.rows, ceilings),
        "marks": case.marks,
    }


def judged(value: float, mark: float | None) -> str:
    return "" if mark is None else f" (mark {mark:g}: {'met' if value >= mark else 'missed'})"


def show(row: dict[str, Any]) -> None:
    seconds, marks, own = row["seconds"], row["marks"], row["seconds"]["float32"]
    print(f"{row['case']}, mean length {row['mean length']:.1f}")
    for name, taken in seconds.items():
        line = f"  {name:<13} {taken * 1e3:9.1f} ms  threads {row['threads'][name]}"
        if name in BYTES:
            share = row["floor"][name] / taken
            line += f"  floor {row['floor'][name] * 1e3:8.2f} ms, {share:.0%} of its speed"
            line += judged(share, marks.get("floor") if name == "float32" else None)
            if name != "float32":
                line += f"; {own / taken:.2f}x float32" + judged(own / taken, marks.get(name))
        else:
            agree = row["rows_that_agree"][name]
            told = f"  gmkern is {taken / own:.2f}x faster" + judged(taken / own, marks.get(name))
            line += (told if agree >= LEAST else "") + f"  (rows that agree: {agree:.0%})"
        print(line, flush=True)


def products_of(outputs: int, inputs: int, rows: int) -> dict[str, Callable[[], Tensor]]:
    """x [rows, inputs] times weights [outputs, inputs]: ours, as the head of a model with little else, and PyTorch's,
    with the weights as they are and transposed in memory."""
    model = Transformer(TransformerConfig(outputs, 1, 1, inputs, 16, d_ff=16, position="none", tie_embeddings=False))
    held, weight, x = packed.pack(model), model.head_weight.detach(), torch.randn(rows, inputs)
    turned = weight.t().contiguous()
    runs: dict[str, Callable[[], Tensor]] = {
        "gmkern": lambda: ops.transformer_head(held.weights, x, held.shape, held.reals),
        "linear": lambda: torch.nn.functional.linear(x, weight),
        "product": lambda: x @ turned,
    }
    bound = 2 * inputs * 2**-24 * float((x.abs() @ turned.abs()).max())  # fp32 sums of `inputs` terms, in two orders
    assert (runs["gmkern"]() - runs["linear"]()).abs().max() <= bound
    return runs


def cost_of_one_order(rounds: int) -> None:
    """One order of sums a row, whatever its batch, beside PyTorch's products, which are free to choose: all products of
    a step of the 124M model, one shape at a time. PyTorch's is the faster of its two."""
    width, wide = MODELS["124M"].d_model, MODELS["124M"].d_ff
    shapes = {(3 * width, width): 12, (width, width): 12, (wide, width): 12, (width, wide): 12, (50257, width): 1}
    for rows in (1, 16, 256):
        total = [0.0, 0.0]
        for (outputs, inputs), count in shapes.items():
            runs = products_of(outputs, inputs, rows)
            times: dict[str, list[float]] = {name: [] for name in runs}
            for _ in range(4 * rounds):
                for name, run in runs.items():
                    times[name].append(clock(run))
            own, *free = (statistics.median(taken) * 1e3 for taken in times.values())
            told = f"  {rows:3d} rows, {inputs:4d} to {outputs:5d}: {own:8.3f} ms, PyTorch {min(free):8.3f} ms"
            print(f"{told}: {own / min(free):.2f} of its time", flush=True)
            total = [total[0] + count * own, total[1] + count * min(free)]
        told = f"  {rows:3d} rows, all of a step: {total[0]:8.2f} ms, PyTorch {total[1]:8.2f} ms"
        print(f"{told}: {total[0] / total[1]:.2f} of its time" + judged(total[1] / total[0], 1 / 1.1), flush=True)


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", choices=[*CASES, "order", "all"], default="all")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    facts = circumstances("transformers", "ctranslate2") | {"isa": gmkern.info().isa}
    for name, found in FOUND.items():
        facts[name] = facts[name] if found else "absent: its column is left out"
    print(facts, flush=True)
    cpu = torch.device("cpu")
    ceilings = {
        "read": read_bandwidth(cpu, size=1 << 29, budget=3),
        "fp32": matrix_rate(cpu, n=2048, dtype=torch.float32, budget=3),
        "bf16": matrix_rate(cpu, n=1024, dtype=torch.bfloat16, budget=3),
    }
    told = f"{ceilings['read'] / 1e9:.1f} GB/s read, {ceilings['fp32'] / 1e9:.0f} GFLOP/s in fp32"
    print(f"ceilings: {told}, {ceilings['bf16'] / 1e9:.0f} in bf16 (PyTorch's product)", flush=True)
    results = []
    for name in CASES if arguments.case == "all" else [arguments.case] if arguments.case in CASES else []:
        for case in CASES[name]:
            results.append(measure(case, arguments.rounds, ceilings))
            show(results[-1])
    if arguments.case in ("order", "all"):
        print("what one order of sums a row costs")
        cost_of_one_order(arguments.rounds)
    if arguments.json:
        given = {"facts": facts, "ceilings": ceilings, "results": results}
        arguments.json.write_text(json.dumps(given, indent=1))


@pytest.mark.parametrize("case", [case for cases in CASES.values() for case in cases], ids=str)
@pytest.mark.parametrize("tool", ["gmkern", "torch loop", *FOUND])
@torch.inference_mode()
def test_generate(benchmark: Any, case: Case, tool: str) -> None:
    model, prompts, ends = prepared(case)
    cpus = torch.get_num_threads()
    done = generate(model, prompts, max_new_tokens=case.length, params=GREEDY, end_token=ends or None)

    def ours() -> Tensor:
        return generate(model, prompts, max_new_tokens=case.length, params=GREEDY, end_token=ends or None).tokens

    tools = {"gmkern": ours} | {
        name: run[cpus] for name, run in rivals(model, prompts, case.length, ends, cpus).items()
    }
    if tool not in tools:
        pytest.skip(f"{tool} is not installed")

    def check(name: str, _: Tensor, tokens: Tensor) -> None:
        assert agreement(done, tokens) >= LEAST, f"{name}: other tokens than ours"

    measured(benchmark, tool, tools, check, rounds=3)


if __name__ == "__main__":
    main()
