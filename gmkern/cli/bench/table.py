"""Rows, curves and what was missed, for a terminal and as Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from gmkern.cli import console
from gmkern.cli.bench.curves import Curve, curves
from gmkern.cli.bench.rows import Missed, Row

COLUMNS = ("median", "quartiles", "beside gmkern", "of the ceiling", "memory", "threads")


def texts(row: Row) -> tuple[str, ...]:
    """A row's numbers in the order of :data:`COLUMNS`."""
    from gmkern.demo.report import seconds_text, speedup_text

    share = "" if row.share is None else f"{row.share:.{'0' if row.share >= 0.095 else '1'}%} {row.bound}"
    return (
        seconds_text(row.median),
        f"{seconds_text(row.low)} – {seconds_text(row.high)}",
        "" if row.ratio is None else speedup_text(row.ratio),
        share,
        "" if row.memory is None else f"{row.memory / 2**20:.0f} MiB",
        str(row.threads),
    )


def curve_texts(curve: Curve) -> tuple[str, ...]:
    from gmkern.demo.report import seconds_text

    measured = ", ".join(f"{n:g}: {seconds_text(t)}" for n, t in zip(curve.sizes, curve.seconds, strict=True))
    return curve.curve, curve.tool, measured, f"{curve.against}^{curve.exponent:.2f}"


def markdown(rows: Sequence[Row], missed: Sequence[Missed]) -> str:
    """A table of the rows, one of the curves, what was not measured, and the runs that the rows' numbers name."""
    runs = circumstances(rows)
    lines = _table(
        ("path", "case", "tool", *COLUMNS, "run"),
        [
            (row.path, row.case, row.tool, *texts(row), str(1 + runs.index(_run(row))))
            for row in rows
            if row.point is None
        ],
    )
    found = curves(rows)
    if found:
        lines += ["", *_table(("curve", "tool", "median by size", "grows as"), [curve_texts(one) for one in found])]
    lines += ["", *(f"- {one}" for one in missed)] if missed else []
    lines += ["", *(f"{i}. {told}" for i, told in enumerate(runs, 1))] if runs else []
    return "\n".join(lines) + "\n"


def circumstances(rows: Sequence[Row]) -> list[str]:
    """Machine, versions and commit of each run that the rows come from."""
    return list(dict.fromkeys(_run(row) for row in rows))


def _run(row: Row) -> str:
    """A path is one process: its tools' versions are told together, and so are a path's rows."""
    return f"{row.path}: " + "; ".join(f"{name} {value}" for name, value in row.about.items())


def _table(head: Sequence[str], body: Sequence[Sequence[str]]) -> list[str]:
    ruled = [head, ["---" if name in ("path", "case", "tool", "curve") else "--:" for name in head], *body]
    return ["| " + " | ".join(cells) + " |" for cells in ruled]


def show(rows: Sequence[Row], missed: Sequence[Missed]) -> None:
    """Tables on standard output."""
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    view = console.out()
    if not view.is_terminal:
        view.width = 140
    for path in dict.fromkeys(row.path for row in rows):
        table = Table(title=path, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
        table.add_column("")
        table.add_column("")
        for heading in COLUMNS:
            table.add_column(heading, justify="right")
        last = ""
        for row in rows:
            if row.path == path and row.point is None:
                table.add_row("" if row.case == last else escape(row.case), escape(row.tool), *texts(row))
                last = row.case
        view.print(table)
    for curve in curves(rows):
        name, tool, measured, power = curve_texts(curve)
        view.print(f"{escape(name)}, {escape(tool)}: {measured}: [bold]{power}[/bold]")
    for one in missed:
        view.print(escape(str(one)))
    for told in circumstances(rows):
        view.print(f"[dim]{escape(told)}[/dim]")
