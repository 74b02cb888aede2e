"""``gmkern bench``: runs the source tree's benchmarks under pytest-benchmark and tells what they found."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree

import click

import gmkern
from gmkern.cli import console

EXAMPLES = """\b
Examples:
  gmkern bench                               # every hot path, one after another
  gmkern bench neighbors --quick
  gmkern bench decode latent -o bench.md     # a Markdown table
  gmkern bench metrics --json > metrics.json
"""

PATHS = {
    "neighbors": ("bench_neighbors.py",),
    "decode": ("bench_sample.py", "bench_attention.py", "bench_generate.py"),
    "dynamics": ("bench_dynamics.py", "bench_egnn.py"),
    "metrics": ("bench_metrics.py",),
    "latent": ("bench_latent.py",),
}
OURS = "gmkern"
_PERCENT = 100
_TOLD = re.compile(r"::.*(PASSED|SKIPPED|FAILED|ERROR)")


class Measured(NamedTuple):
    """One tool in one case."""

    path: str
    case: str
    tool: str
    median: float
    """Seconds."""
    low: float
    """The first quartile of the rounds' seconds, and the third."""
    high: float
    rounds: int
    ratio: float | None
    """The median over gmkern's in the same case; None for gmkern itself."""
    about: dict[str, str]
    """Machine, versions and commit."""


class Missed(NamedTuple):
    """A tool that was not measured in some cases, or a case that failed."""

    path: str
    tool: str
    cases: int
    why: str
    failed: bool


@click.command(epilog=EXAMPLES)
@click.argument("paths", nargs=-1, type=click.Choice(list(PATHS)))
@click.option("--quick", is_flag=True, help="Of each benchmark the first case alone.")
@click.option(
    "-o",
    "--out",
    type=click.Path(dir_okay=False, writable=True, path_type=Path),
    help="Write the Markdown table here, too.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the rows as JSON, not as a table.")
def bench(paths: tuple[str, ...], quick: bool, out: Path | None, as_json: bool) -> None:
    """Time the kernels beside what else does their work, every rival that is installed.

    PATHS are hot paths; none means all. A rival's result is checked against gmkern's before it is timed; the tools of a
    case run one after another in one process. Rivals that are absent are named. Needs a source tree, whose folder
    benchmarks it runs: the one that gmkern is imported from, or the current folder. It fails if a check does.
    """
    folder = _benchmarks()
    for package, module in (("pytest", "pytest"), ("pytest-benchmark", "pytest_benchmark")):
        if importlib.util.find_spec(module) is None:
            raise click.ClickException(
                f"this command needs the package {package}, which is not installed: pip install {package}"
            )
    if out is not None:
        try:
            out.open("a").close()  # before minutes of work, not after
        except OSError as error:
            raise click.ClickException(f"--out {out}: {error.strerror}") from error
    rows: list[Measured] = []
    missed: list[Missed] = []
    for path in dict.fromkeys(paths or PATHS):
        found, lacking = _run(path, folder, quick)
        rows += found
        missed += lacking
    if out is not None:
        out.write_text(markdown(rows, missed), encoding="utf-8")
    if as_json:
        told = {"rows": [row._asdict() for row in rows], "missed": [one._asdict() for one in missed]}
        console.print_json(told)
    else:
        _print(rows, missed)
    failed = [one for one in missed if one.failed]
    if failed:
        raise click.ClickException(f"{failed[0].path}, {failed[0].tool}: {failed[0].why}")


def _benchmarks() -> Path:
    for root in (Path(gmkern.__file__).parents[1], Path.cwd()):
        if (root / "benchmarks" / "_compare.py").is_file():
            return root / "benchmarks"
    raise click.ClickException(
        "no folder benchmarks beside gmkern or in the current folder: "
        "the benchmarks are in the source tree, not in the wheel. Run this command in a clone of it"
    )


def _run(path: str, folder: Path, quick: bool) -> tuple[list[Measured], list[Missed]]:
    """One hot path's benchmarks in a process of their own."""
    with tempfile.TemporaryDirectory() as temporary:
        numbers, tests = Path(temporary, "numbers.json"), Path(temporary, "tests.xml")
        command = [sys.executable, "-m", "pytest", *PATHS[path], "-v", "--color=no", "-p", "no:xdist"]
        command += ["--import-mode=importlib", "--benchmark-enable", "--benchmark-columns=median"]
        command += [f"--benchmark-json={numbers}", f"--junitxml={tests}", *(["--quick"] if quick else [])]
        # Without the settings of a pytest that calls this: in a worker of pytest-xdist nothing is timed.
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
        with (
            console.stage(f"bench {path}", _PERCENT) as advance,
            subprocess.Popen(
                command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
            ) as process,
        ):
            assert process.stdout is not None  # a pipe was asked for
            said = _watched(process.stdout, advance)
        if not tests.exists():
            raise click.ClickException(f"{path}: pytest ended with {process.returncode}: {said}")
        entries = json.loads(numbers.read_text())["benchmarks"] if numbers.exists() and numbers.stat().st_size else []
        return measured(path, entries), missing(path, ElementTree.parse(tests).getroot())


def _watched(output: Iterable[str], advance: Callable[[int], None]) -> str:
    """Reads pytest's output to its end, in percent of its tests, and gives the line that says what went wrong."""
    said, total, done, shown = "it said nothing", 1, 0, 0
    for line in output:
        count = re.match(r"collected (\d+) items?(?:.*?(\d+) selected)?", line)
        if count:
            total = max(1, int(count[2] or count[1]))
        elif _TOLD.search(line):
            done += 1
            advance(_PERCENT * done // total - shown)
            shown = _PERCENT * done // total
        if line.strip() and not said.startswith("ERROR"):
            said = line.strip()
    return said


def measured(path: str, entries: list[dict[str, Any]]) -> list[Measured]:
    """pytest-benchmark's entries as rows, each with its ratio to gmkern's median."""
    named = [(*_named(entry["name"], entry["params"] or {}), entry) for entry in entries]
    ours = {case: entry["stats"]["median"] for case, tool, entry in named if tool == OURS}
    return [
        Measured(
            path,
            case,
            tool,
            entry["stats"]["median"],
            entry["stats"]["q1"],
            entry["stats"]["q3"],
            entry["stats"]["rounds"],
            None if tool == OURS or case not in ours else entry["stats"]["median"] / ours[case],
            {name: str(value) for name, value in entry["extra_info"].items() if name not in ("case", "steps")},
        )
        for case, tool, entry in named
    ]


def missing(path: str, tests: ElementTree.Element) -> list[Missed]:
    """What JUnit's XML says was skipped, a line for a tool and reason, and what failed."""
    counted: dict[tuple[str, str, bool], int] = {}
    for case in tests.iter("testcase"):
        for kind in ("skipped", "failure", "error"):
            told = case.find(kind)
            if told is not None:
                tool = case.get("name", "").partition("[")[2].removesuffix("]")
                why = (told.get("message") or kind).splitlines()[0]
                key = (tool if kind != "skipped" else why.partition(" is not installed")[0], why, kind != "skipped")
                counted[key] = counted.get(key, 0) + 1
    return [Missed(path, tool, cases, why, failed) for (tool, why, failed), cases in counted.items()]


def markdown(rows: list[Measured], missed: list[Missed]) -> str:
    """The rows as a Markdown table, each with machine, versions and commit; below it what was not measured."""
    lines = [
        "| path | case | tool | median | quartiles | beside gmkern | circumstances |",
        "|---|---|---|--:|--:|--:|---|",
    ]
    for row in rows:
        about = "; ".join(f"{name} {value}" for name, value in row.about.items())
        lines.append("| " + " | ".join([row.path, row.case, row.tool, *_texts(row), about]) + " |")
    lines += ["", *(f"- {_missed_text(one)}" for one in missed)] if missed else []
    return "\n".join(lines) + "\n"


def _named(name: str, parameters: dict[str, Any]) -> tuple[str, str]:
    """A test's name, ``test_op[tool-case]`` in either order, as its case (with the op) and its tool."""
    test, _, ids = name.partition("[")
    tool = str(parameters.get("tool", parameters.get("who", OURS)))
    case = ids.removesuffix("]").replace(tool, "", 1).strip("-")
    return f"{test.removeprefix('test_')}, {case}" if case else test.removeprefix("test_"), tool


def _texts(row: Measured) -> tuple[str, str, str]:
    """Median, quartiles and ratio."""
    from gmkern.demo.report import seconds_text, speedup_text

    spread = f"{seconds_text(row.low)} – {seconds_text(row.high)}"
    return seconds_text(row.median), spread, "" if row.ratio is None else speedup_text(row.ratio)


def _missed_text(one: Missed) -> str:
    return f"{one.path}: {one.tool}: " * one.failed + f"{one.why} ({one.cases} case{'s' * (one.cases != 1)})"


def _print(rows: list[Measured], missed: list[Missed]) -> None:
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    view = console.out()
    for path in dict.fromkeys(row.path for row in rows):
        table = Table(title=path, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
        table.add_column("")
        table.add_column("")
        for heading in ("median", "quartiles", "beside gmkern"):
            table.add_column(heading, justify="right")
        last = ""
        for row in rows:
            if row.path == path:
                table.add_row("" if row.case == last else escape(row.case), escape(row.tool), *_texts(row))
                last = row.case
        view.print(table)
    for one in missed:
        view.print(escape(_missed_text(one)))
    about = rows[0].about if rows else {}
    for name, value in about.items():
        view.print(f"[dim]{name}[/dim]  {escape(value)}")
