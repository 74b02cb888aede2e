"""``gmkern generate``."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gmkern.cli import console

if TYPE_CHECKING:
    from gmkern.cli.checkpoint import Checkpoint
    from gmkern.decode import Generation

_MOST_SAMPLES = 1_000_000  # a prompt: all are held until they are printed

EXAMPLES = """\b
Examples:
  gmkern generate --model gpt2/ --prompt "Once upon a time"
  gmkern generate --model llama/ --prompt "2 + 2 =" -n 8 --temperature 0.7 --top-p 0.95
  gmkern generate --model llama/ --prompts prompts.txt --json > samples.jsonl
"""


@click.command(epilog=EXAMPLES)
@click.option(
    "--model",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    required=True,
    help="Folder with config.json, *.safetensors and a tokenizer, as save_pretrained writes it.",
)
@click.option("--prompt", "given", metavar="TEXT", multiple=True, help="What to continue; may be given several times.")
@click.option(
    "--prompts",
    "listed",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A file of prompts, one a line.",
)
@click.option(
    "-n", "--num-samples", type=click.IntRange(1, _MOST_SAMPLES), default=1, show_default=True, help="Samples a prompt."
)
@click.option("--max-new-tokens", type=click.IntRange(1), default=64, show_default=True, help="Where a text is cut.")
@click.option("--temperature", type=click.FloatRange(0), default=1.0, show_default=True, help="0: the likeliest token.")
@click.option("--top-k", type=click.IntRange(0), default=0, show_default=True, help="0: all.")
@click.option("--top-p", type=click.FloatRange(0, 1), default=1.0, show_default=True)
@click.option("--min-p", type=click.FloatRange(0, 1), default=0.0, show_default=True)
@click.option("--repetition-penalty", type=click.FloatRange(0, min_open=True), default=1.0, show_default=True)
@click.option("--seed", type=int, default=0, show_default=True, help="Another seed, other samples; the same, the same.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a sample and line, not text.")
@click.option(
    "-o",
    "--out",
    type=click.Path(dir_okay=False, writable=True, path_type=Path),
    help="Write the JSON lines here, too.",
)
def generate(
    model: Path,
    given: tuple[str, ...],
    listed: Path | None,
    num_samples: int,
    max_new_tokens: int,
    temperature: float,
    top_k: int,
    top_p: float,
    min_p: float,
    repetition_penalty: float,
    seed: int,
    as_json: bool,
    out: Path | None,
) -> None:
    """Draw texts from a local Hugging Face checkpoint, with the log-probability of each.

    GPT-2, GPT-NeoX, Llama, Mistral, Qwen2, Qwen3, Gemma and Gemma2 are served. Nothing is fetched, and no code of the
    folder is run. Without a prompt, texts begin from the model's first token.
    """
    from gmkern.cli.checkpoint import NotLoaded, load
    from gmkern.decode import SamplingParams
    from gmkern.decode import generate as draw

    prompts = [*given, *(_lines(listed) if listed else [])]
    sink = _opened(out)
    try:
        checkpoint = load(model)
    except NotLoaded as error:
        raise click.ClickException(f"--model {model}: {error}") from error
    try:
        params = SamplingParams(temperature, top_k, top_p, min_p, repetition_penalty=repetition_penalty)
        drawn = draw(
            checkpoint.model,
            _encoded(checkpoint, prompts or [""]),
            num_samples=num_samples,
            max_new_tokens=max_new_tokens,
            end_token=checkpoint.end_tokens or None,
            params=params,
            seed=seed,
            progress=True,
        )
    except (ValueError, TypeError) as error:
        name, colon, rest = str(error).partition(":")
        raise click.ClickException(f"--{name.replace('_', '-')}{colon}{rest}") from error
    records = list(_records(checkpoint, prompts or [""], num_samples, drawn))
    if sink is not None:
        with sink:
            sink.writelines(json.dumps(record, allow_nan=False) + "\n" for record in records)
    for record in records:
        if as_json:
            click.echo(json.dumps(record, allow_nan=False))
        else:
            _show(record)


def _lines(path: Path) -> list[str]:
    try:
        lines = [line for line in path.read_text().splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise click.ClickException(f"--prompts {path}: {error}") from error
    if not lines:
        raise click.ClickException(f"--prompts {path}: holds no prompt")
    return lines


def _opened(path: Path | None) -> Any:
    """The output, opened ahead of the work."""
    if path is None:
        return None
    try:
        return path.open("w")
    except OSError as error:
        raise click.ClickException(f"--out {path}: {error.strerror}") from error


def _encoded(checkpoint: Checkpoint, prompts: list[str]) -> list[list[int]]:
    begin = checkpoint.model.config.bos_id
    rows = []
    for prompt in prompts:
        ids = list(checkpoint.tokenizer(prompt).input_ids) or ([] if begin is None else [begin])
        if not ids:
            raise click.ClickException("--prompt: the model has no token to begin with; takes a text")
        rows.append(ids)
    return rows


def _records(checkpoint: Checkpoint, prompts: list[str], each: int, drawn: Generation) -> Iterator[dict[str, Any]]:
    for row in range(drawn.tokens.shape[0]):
        length = int(drawn.lengths[row])
        tokens = drawn.tokens[row, :length].tolist()
        yield {
            "prompt": prompts[row // each],
            "sample": row % each,
            "text": checkpoint.tokenizer.decode(tokens, skip_special_tokens=True),
            "logprob": float(drawn.logprobs[row, :length].double().sum()),
            "finished": bool(drawn.finished[row]),
            "tokens": tokens,
            "logprobs": drawn.logprobs[row, :length].tolist(),
            "raw_logprobs": drawn.raw_logprobs[row, :length].tolist(),
        }


def _show(record: dict[str, Any]) -> None:
    from rich.text import Text

    view = console.out()
    end = "ended" if record["finished"] else "cut"
    count = len(record["tokens"])
    head = f"sample {record['sample']}: log-probability {record['logprob']:.2f}, {count} tokens, {end}"
    view.print(Text(head, style="dim"))
    view.print(Text(record["prompt"], style="bold") + Text(record["text"]), soft_wrap=True)
    view.print()
