"""What a benchmark found: a row a tool and case, from pytest-benchmark's numbers or from a file of rows."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree

import click

OURS = "gmkern"


class Row(NamedTuple):
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
    threads: int
    memory: int | None
    """Bytes by which the resident size grew in the tool's first run; None where that is not told."""
    share: float | None
    """The shortest time that the machine's ceilings leave for the case, over the median; None if no work is stated."""
    bound: str | None
    """The ceiling that the shortest time is of: "reading" or "products"."""
    point: dict[str, Any] | None
    """Its place on a curve: curve, against, size."""
    about: dict[str, str]
    """Machine, versions, commit and ceilings."""


class Missed(NamedTuple):
    """A tool that was not measured in some cases, or a case that failed."""

    path: str
    tool: str
    cases: int
    why: str
    failed: bool

    def __str__(self) -> str:
        place = f"{self.path}: {self.tool}: " * self.failed
        return f"{place}{self.why} ({self.cases} case{'s' * (self.cases != 1)})"


def rows_of(path: str, entries: Iterable[dict[str, Any]]) -> list[Row]:
    """pytest-benchmark's entries as rows, each with its ratio to gmkern's median."""
    entries = list(entries)
    told = [entry["extra_info"] for entry in entries]
    medians = {(t["case"], t["tool"]): e["stats"]["median"] for t, e in zip(told, entries, strict=True)}
    return [
        _row(path, entry["stats"], entry["extra_info"], medians.get((entry["extra_info"]["case"], OURS)))
        for entry in entries
    ]


def _row(path: str, stats: dict[str, Any], told: dict[str, Any], ours: float | None) -> Row:
    roofs = told["ceilings"]
    least = {"reading": told["moved"] / roofs["read"], "products": told["flop"] / roofs["fp32"]}
    bound = max(least, key=lambda name: least[name])
    share = least[bound] / stats["median"]
    ceilings = {"read": f"{roofs['read'] / 1e9:.1f} GB/s", "fp32 products": f"{roofs['fp32'] / 1e9:.0f} Gflop/s"}
    return Row(
        path=path,
        case=told["case"],
        tool=told["tool"],
        median=stats["median"],
        low=stats["q1"],
        high=stats["q3"],
        rounds=stats["rounds"],
        ratio=None if told["tool"] == OURS or ours is None else stats["median"] / ours,
        threads=told["threads"],
        memory=told["memory"],
        share=share or None,
        bound=bound if share else None,
        point=told["point"],
        about={name: str(value) for name, value in told["about"].items()} | ceilings,
    )


def missing(path: str, tests: ElementTree.Element) -> list[Missed]:
    """What JUnit's XML says was skipped, a line for a tool and reason, and what failed."""
    counted: dict[tuple[str, str, bool], int] = {}
    for case in tests.iter("testcase"):
        for kind in ("skipped", "failure", "error"):
            told = case.find(kind)
            if told is not None:
                why = (told.get("message") or kind).splitlines()[0]
                raised = [line[1:].strip() for line in (told.text or "").splitlines() if line.startswith("E ")]
                if kind == "error" and raised:  # the message says "collection failure" alone
                    why += f": {raised[-1]}"
                name = case.get("name", "").partition("[")[2].removesuffix("]") or case.get("name", "")
                tool = why.partition(" is not installed")[0].partition(" cannot be loaded")[0]
                key = (tool if kind == "skipped" else name, why, kind != "skipped")
                counted[key] = counted.get(key, 0) + 1
    return [Missed(path, tool, cases, why, failed) for (tool, why, failed), cases in counted.items()]


def to_json(rows: Sequence[Row], missed: Sequence[Missed]) -> dict[str, Any]:
    return {"rows": [row._asdict() for row in rows], "missed": [one._asdict() for one in missed]}


def from_files(files: Iterable[Path]) -> tuple[list[Row], list[Missed]]:
    """The rows of several files. A case that is in two is the later one's, all its tools; so are a path's misses."""
    cases: dict[tuple[str, str], list[Row]] = {}
    missed: dict[str, list[Missed]] = {}
    for file in files:
        try:
            told = json.loads(file.read_text(encoding="utf-8"))
            read, lacking = [Row(**fields) for fields in told["rows"]], [Missed(**fields) for fields in told["missed"]]
        except (ValueError, LookupError, TypeError) as error:
            raise click.ClickException(f"--from {file}: not what --json prints ({error})") from error
        found: dict[tuple[str, str], list[Row]] = {}
        for row in read:
            found.setdefault((row.path, row.case), []).append(row)
        cases |= found
        missed |= {path: [] for path, _ in found}
        for one in lacking:
            missed.setdefault(one.path, []).append(one)
    return [row for rows in cases.values() for row in rows], [one for some in missed.values() for one in some]
