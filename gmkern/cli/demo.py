"""``gmkern demo``."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from gmkern.cli import console

if TYPE_CHECKING:
    from rich.table import Table

    from gmkern.demo import Result

EXAMPLES = """\b
Examples:
  gmkern demo                        # a few minutes on two cores; open report/index.html
  gmkern demo --quick                # a few seconds: undertrained, to see that it works
  gmkern demo --seed 7 -o seven
  gmkern demo --json > numbers.json  # the page is written too
"""


@click.command(epilog=EXAMPLES)
@click.option(
    "-o",
    "--out",
    "--output",
    "out",
    type=click.Path(file_okay=False, writable=True, path_type=Path),
    default=Path("report"),
    show_default=True,
    help="Folder for index.html and its pictures; made if absent.",
)
@click.option(
    "--seed",
    type=click.IntRange(0, 2**32 - 1),
    default=0,
    show_default=True,
    help="Of the training and of everything drawn.",
)
@click.option("--quick", is_flag=True, help="Train for a few seconds only: the images will be poor.")
@click.option("--json", "as_json", is_flag=True, help="Print the numbers as JSON, not as tables.")
def demo(out: Path, seed: int, quick: bool, as_json: bool) -> None:
    """Train seven small generators on handwritten digits, draw from them, judge what they drew.

    Noise through a decoder; images pixel by pixel; images and clouds of points along learnt force fields; new images
    from ten that are shown; a mixture of Gaussians and a Boltzmann machine. What they draw is judged for fidelity,
    diversity and novelty beside held-out images, copies and noise, and the kernels are timed beside plain PyTorch.
    Needs no download.
    """
    from gmkern.demo import FULL, QUICK, report, run

    start = time.perf_counter()
    try:
        out.mkdir(parents=True, exist_ok=True)  # before minutes of work, not after
    except OSError as error:
        raise click.ClickException(f"--out {out}: {error.strerror}") from error
    result = run(seed=seed, size=QUICK if quick else FULL, watch=console.stage)
    try:
        with console.stage("write the report", 1):
            written = report.write(result, out)
    except OSError as error:
        raise click.ClickException(f"--out {out}: {error.strerror}") from error
    if as_json:
        numbers = report.as_dict(result)
        console.print_json(numbers | {"report": str(written[0]), "seconds": time.perf_counter() - start})
        return
    view = console.out()
    view.print()
    view.print(_verdict(result))
    view.print(_times(result))
    view.print(f"{written[0]} and {len(written) - 1} pictures, after {time.perf_counter() - start:.0f} s")


def _verdict(result: Result) -> Table:
    from gmkern.demo import report

    images = result.size.images
    table = _table(f"Against {len(result.digits.train):,} training images, {images} a set")
    table.add_column("")
    for question, name in report.VERDICT.items():
        table.add_column(f"{question}\n[dim]{name}[/dim]", justify="right")
    table.add_column("bits a pixel\n[dim]of held-out digits[/dim]", justify="right")
    for one in result.judged:
        cells = (f"{text} [dim]{note}[/dim]" for text, note in report.verdict_texts(one))
        table.add_row(one.name, *cells, style="dim" if one.kind == "control" else "")
    return table


def _times(result: Result) -> Table:
    from gmkern.demo import report

    table = _table("Times, the kernel and plain PyTorch taking turns")
    table.add_column("")
    for heading in ("gmkern", "PyTorch", "faster"):
        table.add_column(heading, justify="right")
    table.add_column("")
    for timing in result.timings:
        table.add_row(
            f"{timing.name}\n[dim]{timing.case}[/dim]",
            report.seconds_text(timing.kernel),
            report.seconds_text(timing.reference),
            report.speedup_text(timing.speedup),
            timing.check,
        )
    return table


def _table(title: str) -> Table:
    from rich import box
    from rich.table import Table

    return Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
