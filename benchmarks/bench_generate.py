"""generate beside Hugging Face's generate and a plain PyTorch loop with a key-value cache: same weights, same tokens.

    python benchmarks/bench_generate.py [--case small] [--rounds 5] [--json FILE]

Rivals run interleaved, each at the thread count (1, or all) at which it was fastest before; times are medians.
Hugging Face needs the package transformers; without it that column is left out, and said to be. A ratio is printed
only where the rival's greedy tokens were ours in this run (near ties may part: 98% of rows agree to their last token).
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import platform
import statistics
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import gmkern
from gmkern.decode import SamplingParams, Transformer, TransformerConfig, generate

GREEDY = SamplingParams(temperature=0.0)
HAVE_HF = importlib.util.find_spec("transformers") is not None

MODELS = {
    "small": TransformerConfig(512, 4, 4, 128, 512, d_ff=341, bos_id=0),
    "gpt2": TransformerConfig(50257, 12, 12, 768, 1024, d_ff=2048, bos_id=0),  # 124M parameters, Llama's parts
}
# model, rows, new tokens, end tokens (none: a fixed length)
CASES = {
    "small": [("small", 1, 128, 0), ("small", 16, 128, 0), ("small", 256, 64, 0)],
    "ragged": [("small", 256, 128, 16)],
    "gpt2": [("gpt2", 1, 24, 0), ("gpt2", 16, 12, 0)],
}


def hugging_face(model: Transformer) -> Any:
    """A LlamaForCausalLM with the model's weights."""
    from transformers import LlamaConfig, LlamaForCausalLM

    c = model.config
    llama = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=c.vocab_size,
            hidden_size=c.d_model,
            intermediate_size=c.d_ff,
            num_hidden_layers=c.n_layers,
            num_attention_heads=c.n_heads,
            num_key_value_heads=c.n_kv_heads,
            head_dim=c.head_dim,
            max_position_embeddings=c.max_seq_len,
            rms_norm_eps=c.norm_eps,
            rope_theta=c.rope_theta,
            tie_word_embeddings=True,
            bos_token_id=0,
            eos_token_id=None,
            pad_token_id=0,
        )
    )
    names = {
        "embedding": "model.embed_tokens",
        "norm": "model.norm",
        "attention_norm": "input_layernorm",
        "mlp_norm": "post_attention_layernorm",
    }
    state = {}
    for name, value in model.state_dict().items():
        parts = name.split(".")
        if parts[0] == "blocks":
            inner = {"attention": "self_attn", "mlp": "mlp"}.get(parts[2])
            tail = f"{inner}.{parts[3]}_proj" if inner else names[parts[2]]
            state[f"model.layers.{parts[1]}.{tail}.weight"] = value
        else:
            state[f"{names[parts[0]]}.weight"] = value
    left = llama.load_state_dict(state, strict=False)
    assert set(left.missing_keys) <= {"lm_head.weight"}, left
    assert not left.unexpected_keys, left
    llama.tie_weights()
    return llama.eval()


def torch_loop(model: Transformer, rows: int, length: int, ends: list[int]) -> Tensor:
    """The loop one writes by hand: one cached forward a token; greedy, or drawn where there are end tokens."""
    tokens = torch.zeros(rows, 1, dtype=torch.int64)
    cache, out = model.new_cache(rows, length + 1), []
    stop, going = torch.tensor(ends, dtype=torch.int64), torch.ones(rows, dtype=torch.bool)
    for i in range(length):
        logits = model(tokens, torch.full((rows, 1), i), cache)[:, -1]
        tokens = logits.softmax(-1).multinomial(1) if ends else logits.argmax(-1, keepdim=True)
        out.append(tokens)
        if ends:
            going &= ~torch.isin(tokens[:, 0], stop)
            if not going.any():
                break
    return torch.cat(out, 1)


def rivals(model: Transformer, rows: int, length: int, ends: list[int]) -> dict[str, Callable[[], Tensor]]:
    params = SamplingParams() if ends else GREEDY

    def ours() -> Tensor:
        # refill: a quarter of the rows at once where their lengths differ
        size = rows // 4 if ends else rows
        done = generate(
            model, n=rows, max_new_tokens=length, params=params, end_token=ends or None, seed=1, batch_size=size
        )
        return done.tokens

    found = {"gmkern": ours, "torch loop": lambda: torch_loop(model, rows, length, ends)}
    if HAVE_HF:
        llama = hugging_face(model)
        start, kind = torch.zeros(rows, 1, dtype=torch.int64), {"do_sample": bool(ends), "top_k": 0, "use_cache": True}
        if ends:
            kind |= {"eos_token_id": ends}
        else:
            kind = {"do_sample": False, "use_cache": True}
        mask = torch.ones_like(start)
        found["transformers"] = lambda: llama.generate(
            start, attention_mask=mask, max_new_tokens=length, pad_token_id=0, **kind
        )[:, 1:]
    return found


def clock(run: Callable[[], Tensor]) -> float:
    begin = time.perf_counter()
    run()
    return time.perf_counter() - begin


@torch.inference_mode()
def measure(name: str, rows: int, length: int, end_count: int, rounds: int) -> dict[str, Any]:
    torch.manual_seed(0)
    model = Transformer(MODELS[name]).eval()
    with torch.no_grad():
        model.embedding.weight *= 5  # logits far enough apart that greedy tokens are not near ties
    ends = list(range(1, end_count + 1))
    runs = rivals(model, rows, length, ends)
    agree = {}
    truth = runs["gmkern"]()
    for rival, run in runs.items():
        got = run()
        agree[rival] = None if ends else float((got == truth).all(1).double().mean())
    all_threads = torch.get_num_threads()
    best = {}
    for rival, run in runs.items():
        tried = {}
        for threads in {1, all_threads}:
            torch.set_num_threads(threads)
            tried[threads] = min(clock(run) for _ in range(2))
        best[rival] = min(tried, key=lambda threads: tried[threads])
    times: dict[str, list[float]] = {rival: [] for rival in runs}
    for _ in range(rounds):
        for rival, run in runs.items():
            torch.set_num_threads(best[rival])
            times[rival].append(clock(run))
    torch.set_num_threads(all_threads)
    median = {rival: statistics.median(t) for rival, t in times.items()}
    return {
        "case": f"{name} B={rows} T={length}" + (f" ragged ({end_count} end tokens)" if ends else ""),
        "seconds": median,
        "threads": best,
        "rows_that_agree": agree,
        "times_faster": {
            rival: median[rival] / median["gmkern"]
            for rival in runs
            if rival != "gmkern" and (ends or agree[rival] >= 0.98)
        },
    }


def commit() -> str:
    root = Path(__file__).parents[1]
    found = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=root, capture_output=True, text=True, check=False
    )
    return found.stdout.strip() or "unknown"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", choices=[*CASES, "all"], default="all")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    versions = {"gmkern": gmkern.__version__, "torch": torch.__version__}
    if HAVE_HF:
        import transformers

        versions["transformers"] = transformers.__version__
    facts = {
        "machine": platform.processor() or platform.machine(),
        "isa": gmkern.info().isa,
        "commit": commit(),
    } | versions
    print(facts, flush=True)
    if not HAVE_HF:
        print("transformers is not installed: its column is left out")
    results = []
    for case in CASES if arguments.case == "all" else [arguments.case]:
        for shape in CASES[case]:
            row = measure(*shape, arguments.rounds)
            results.append(row)
            for rival, seconds in row["seconds"].items():
                ratio = row["times_faster"].get(rival)
                same = row["rows_that_agree"][rival]
                text = f"{row['case']:<40} {rival:<13} {seconds * 1e3:9.1f} ms  threads {row['threads'][rival]}"
                text += "" if ratio is None else f"  gmkern is {ratio:.1f}x faster"
                print(text + ("" if same is None else f"  (rows that agree: {same:.0%})"), flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps({"facts": facts, "results": results}, indent=1))


if __name__ == "__main__":
    main()
