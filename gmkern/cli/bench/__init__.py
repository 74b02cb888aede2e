"""``gmkern bench``: runs the source tree's benchmarks under pytest-benchmark and tells what they found."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path

import click

import gmkern
from gmkern.cli import console
from gmkern.cli.bench import compare, page, rows, table
from gmkern.cli.bench.run import PATHS, run

EXAMPLES = """\b
Examples:
  gmkern bench                                     # every hot path, one after another
  gmkern bench neighbors --quick
  gmkern bench decode latent -o bench.md           # a Markdown table
  gmkern bench metrics --json > metrics.json
  gmkern bench --from metrics.json --from decode.json --page docs/performance.md
  gmkern bench neighbors --compare HEAD~1          # exit status 1 where a case became slower
"""


def _writable(ctx: click.Context, option: click.Parameter, file: Path | None) -> Path | None:
    """Tried before minutes of work, not after."""
    if file is not None:
        try:
            file.open("a").close()
        except OSError as error:
            raise click.ClickException(f"{option.opts[-1]} {file}: {error.strerror}") from error
    return file


FILE = click.Path(dir_okay=False, writable=True, path_type=Path)


@click.command(epilog=EXAMPLES)
@click.argument("paths", nargs=-1, type=click.Choice(list(PATHS)))
@click.option("--quick", is_flag=True, help="Of each benchmark the first case alone, and no curves.")
@click.option("--rounds", type=click.IntRange(1), help="Rounds of each case at most; else what a few seconds hold.")
@click.option("-o", "--out", type=FILE, callback=_writable, help="Write the Markdown table here, too.")
@click.option("--json", "as_json", is_flag=True, help="Print the rows as JSON, not as a table.")
@click.option(
    "--from",
    "sources",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    multiple=True,
    help="Measure nothing: take the rows that --json printed. A case that is in two files is the later one's.",
)
@click.option("--page", "page_file", type=FILE, callback=_writable, help="Write the page of all rows, with pictures.")
@click.option("--compare", "revision", metavar="REV", help="Run another commit beside this one: what became slower?")
def bench(
    paths: tuple[str, ...],
    quick: bool,
    rounds: int | None,
    out: Path | None,
    as_json: bool,
    sources: tuple[Path, ...],
    page_file: Path | None,
    revision: str | None,
) -> None:
    """Time the kernels beside what else does their work, every rival that is installed.

    PATHS are hot paths; none means all. A rival's result is checked against gmkern's before it is timed; the tools of a
    case run in turns in one process, each on 1 thread or all, whichever is faster. Rivals that are absent are named.
    Needs a source tree, whose folder benchmarks it runs: the one that gmkern is imported from, or the current folder.
    It fails if a check does.

    --compare builds REV in a temporary folder and runs gmkern's cases on both, process by process in turns. A case
    became slower if it did in each turn, by more than 5%, and so that the quartiles of all rounds do not overlap.
    """
    if sources and (paths or quick or rounds or revision):
        raise click.UsageError("--from measures nothing: it takes no paths, and no --quick, --rounds or --compare")
    if revision and (out or as_json or page_file):
        raise click.UsageError("--compare prints what changed: it takes no --out, --json or --page")
    folder = _benchmarks()
    if not sources:
        _need_packages()
    options = [*(["--quick"] if quick else []), *([f"--rounds={rounds}"] if rounds else [])]
    chosen = list(dict.fromkeys(paths or PATHS))
    if revision is not None:
        changes, lacking = compare.compared(revision, chosen, folder, options)
        compare.show(changes, lacking, revision)
        if any(one.verdict == "slower" for one in changes):
            raise click.exceptions.Exit(1)
        return
    found, missed = rows.from_files(sources) if sources else _measured(chosen, folder, options)
    if out is not None:
        out.write_text(table.markdown(found, missed), encoding="utf-8")
    if as_json:
        console.print_json(rows.to_json(found, missed))
    else:
        table.show(found, missed)
    if page_file is not None:
        page.write(page_file, folder / "performance.md.jinja", found, missed)
    for one in missed:
        if one.failed:
            raise click.ClickException(f"{one.path}, {one.tool}: {one.why}")


def _need_packages() -> None:
    for package, module in (("pytest", "pytest"), ("pytest-benchmark", "pytest_benchmark"), ("threadpoolctl",) * 2):
        if importlib.util.find_spec(module) is None:
            raise click.ClickException(
                f"this command needs the package {package}, which is not installed: pip install {package}"
            )


def _benchmarks() -> Path:
    for root in (Path(gmkern.__file__).parents[1], Path.cwd()):
        if (root / "benchmarks" / "conftest.py").is_file():
            return root / "benchmarks"
    raise click.ClickException(
        "no folder benchmarks beside gmkern or in the current folder: "
        "the benchmarks are in the source tree, not in the wheel. Run this command in a clone of it"
    )


def _measured(paths: Sequence[str], folder: Path, options: Sequence[str]) -> tuple[list[rows.Row], list[rows.Missed]]:
    found: list[rows.Row] = []
    missed: list[rows.Missed] = []
    for path in paths:
        try:
            entries, lacking = run(path, folder, Path(gmkern.__file__).parents[1], options)
        except click.ClickException as error:  # its process died: the other paths' rows are kept
            why = error.message.removeprefix(f"{path}: ")
            entries, lacking = [], [rows.Missed(path, "every tool", 1, why, True)]
        found += rows.rows_of(path, entries)
        missed += lacking
    return found, missed
