"""Another commit beside this one: built in a folder that goes again, and timed in turns, process by process."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import click

from gmkern.cli import console
from gmkern.cli.bench.rows import Missed
from gmkern.cli.bench.run import run

TURNS = 3
LEAST = 1.05
"""A ratio that two processes of one build can differ by, where code lies otherwise in memory."""
Turns = Sequence[Sequence[float]]
"""Of each turn, a case's rounds in seconds."""


class Change(NamedTuple):
    """One case at both commits."""

    path: str
    case: str
    before: float
    """Median seconds of the other commit, over the rounds of all turns; of this one."""
    after: float
    verdict: str
    """ "slower", "faster" or "" where the difference is within the spread."""

    @property
    def ratio(self) -> float:
        return self.after / self.before


def verdict(before: Turns, after: Turns) -> str:
    """Slower: by more than 5%, in each turn, and so that the quartiles of all rounds do not overlap. Or faster."""

    def beyond(fast: Turns, slow: Turns) -> bool:
        quick, late = (sorted(seconds for turn in turns for seconds in turn) for turns in (fast, slow))
        in_each = all(statistics.median(a) < statistics.median(b) for a, b in zip(fast, slow, strict=True))
        apart = _quartiles(quick)[1] < _quartiles(late)[0]
        return in_each and apart and statistics.median(late) > LEAST * statistics.median(quick)

    return "slower" if beyond(before, after) else "faster" if beyond(after, before) else ""


def _quartiles(ordered: Sequence[float]) -> tuple[float, float]:
    if len(ordered) == 1:
        return ordered[0], ordered[0]
    low, _, high = statistics.quantiles(ordered, n=4, method="inclusive")
    return low, high


def changes(path: str, before: Mapping[str, Turns], after: Mapping[str, Turns]) -> list[Change]:
    """The cases that both commits have in every turn."""
    found = []
    for case in after:
        if len(before.get(case, ())) == len(after[case]):
            old, new = (statistics.median(s for turn in side[case] for s in turn) for side in (before, after))
            found.append(Change(path, case, old, new, verdict(before[case], after[case])))
    return found


def compared(
    revision: str, paths: Sequence[str], folder: Path, options: Sequence[str]
) -> tuple[list[Change], list[Missed]]:
    """This tree's benchmarks of gmkern alone, on this tree and on ``revision``, which takes turns in being first."""
    here = folder.parent
    found: list[Change] = []
    missed: dict[Missed, None] = {}
    with other_tree(here, revision) as there:
        sides = {"this tree": here, revision: there}
        for path in paths:
            rounds: dict[str, dict[str, list[list[float]]]] = {name: {} for name in sides}
            for turn in range(TURNS):
                for name in sorted(sides, reverse=bool(turn % 2)):
                    entries, lacking = run(
                        path, folder, sides[name], ("--ours", *options), f"at {name}, turn {turn + 1}"
                    )
                    missed |= dict.fromkeys(one._replace(tool=f"{one.tool} at {name}") for one in lacking)
                    for entry in entries:
                        rounds[name].setdefault(entry["extra_info"]["case"], []).append(entry["stats"]["data"])
            found += changes(path, rounds[revision], rounds["this tree"])
    return found, list(missed)


@contextmanager
def other_tree(here: Path, revision: str) -> Iterator[Path]:
    """A work tree of ``revision`` with its library built for this Python; removed at the end, whatever happens."""
    environment = {
        **os.environ,
        "PATH": os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", ""))),
    }

    def call(*command: str) -> str:
        try:
            done = subprocess.run(command, cwd=here, env=environment, capture_output=True, text=True, check=False)
        except FileNotFoundError as error:
            raise click.ClickException(f"--compare needs {command[0]}, which is not installed") from error
        if done.returncode != 0:
            lines = [line for line in (done.stderr + done.stdout).splitlines() if line.strip()] or ["no message"]
            raise click.ClickException(f"--compare {revision}: {' '.join(command[:3])}: {lines[0]}")
        return done.stdout.strip()

    try:
        commit = call("git", "rev-parse", "--verify", "--end-of-options", f"{revision}^{{commit}}")
    except click.ClickException as error:
        raise click.ClickException(
            f"{error.message} (REV is a commit, branch or tag of the repository of {here})"
        ) from error
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder, "tree")
        call("git", "worktree", "add", "--detach", str(tree), commit)
        try:
            with console.stage(f"build {revision}", 1) as advance:
                build = str(tree / "build")
                call(
                    "cmake", "-S", str(tree), "-B", build, "-G", "Ninja", "-DGMKERN_CUDA=OFF",
                    f"-DGMKERN_OUTPUT_DIR={tree / 'gmkern'}", f"-DPython_EXECUTABLE={sys.executable}",
                )  # fmt: skip
                call("cmake", "--build", build)
                advance(1)
            yield tree
        finally:
            call("git", "worktree", "remove", "--force", str(tree))


def show(found: Sequence[Change], missed: Sequence[Missed], revision: str) -> None:
    """Slower cases first, then faster ones; the others are counted."""
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    from gmkern.demo.report import seconds_text

    view = console.out()
    table = Table(title=f"beside {revision}", title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("path", "case", revision, "this tree", "ratio", ""):
        table.add_column(heading, justify="right" if heading in (revision, "this tree", "ratio") else "left")
    told = sorted((one for one in found if one.verdict), key=lambda one: -one.ratio)
    for one in told:
        times = (seconds_text(one.before), seconds_text(one.after))
        table.add_row(one.path, escape(one.case), *times, f"{one.ratio:.2f}", one.verdict)
    if told:
        view.print(table)
    view.print(f"{len(found) - len(told)} of {len(found)} cases differ by no more than their spread")
    for lacking in missed:
        view.print(escape(f"{lacking.path}: {lacking.tool}: {lacking.why}"))
