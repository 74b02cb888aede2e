"""What the commands share: results go to standard output, all else to standard error; bars vanish when piped."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn


def out() -> Console:
    """Standard output, made at each use: tests and pipes swap it. Piped, a table keeps its full width."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=100)


def print_json(value: Any) -> None:
    """``value`` as JSON on standard output, for programs."""
    click.echo(json.dumps(value, indent=2, allow_nan=False))


@contextmanager
def stage(name: str, steps: int) -> Iterator[Callable[[int], None]]:
    """A stage of long work: a bar while it runs, on a terminal alone; one line with its time when it is done."""
    console = Console(stderr=True, highlight=False)
    start = time.perf_counter()
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeRemainingColumn(compact=True, elapsed_when_finished=True),
    )
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(name, total=steps)
        yield lambda done: progress.advance(task, done)
    console.print(f"{name:<40} [dim]{time.perf_counter() - start:6.1f} s[/dim]")
