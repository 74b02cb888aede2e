"""``docs/performance.md`` and its pictures, from rows. The words are in ``benchmarks/performance.md.jinja``."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from gmkern.cli.bench.curves import curves
from gmkern.cli.bench.rows import OURS, Missed, Row, to_json
from gmkern.cli.bench.summary import summary
from gmkern.cli.bench.table import markdown

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WIDTH, HEIGHT, ACROSS = 4.0, 3.0, 3  # inches of a panel; panels in a row


def write(page: Path, template: Path, rows: Sequence[Row], missed: Sequence[Missed]) -> None:
    """The page, and in a folder of its name the rows and the pictures that it shows."""
    folder = page.with_suffix("")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "rows.json").write_text(json.dumps(to_json(rows, missed), indent=1) + "\n", encoding="utf-8")
    for path, of_path in _by_path(rows, missed).items():
        ratios(of_path, folder / f"{path}-ratios.svg")
        growth(of_path, folder / f"{path}-curves.svg")
    page.write_text(text(folder.name, template, rows, missed), encoding="utf-8")


def text(folder: str, template: Path, rows: Sequence[Row], missed: Sequence[Missed]) -> str:
    """The page's words, its rows and pictures being in ``folder``."""
    import jinja2

    parts = []
    for path, of_path in _by_path(rows, missed).items():
        shown = {
            "beside": f"{folder}/{path}-ratios.svg" if _beside(of_path) else None,
            "growth": f"{folder}/{path}-curves.svg" if curves(of_path) else None,
        }
        parts.append({"name": path, "table": markdown(of_path, [m for m in missed if m.path == path]), **shown})
    loader = jinja2.FileSystemLoader(template.parent)
    words = jinja2.Environment(loader=loader, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    told = words.get_template(template.name).render(parts=parts, rows=f"{folder}/rows.json", summary=summary(rows))
    return told.rstrip() + "\n"


def _by_path(rows: Sequence[Row], missed: Sequence[Missed]) -> dict[str, list[Row]]:
    paths = dict.fromkeys([*(row.path for row in rows), *(one.path for one in missed)])
    return {path: [row for row in rows if row.path == path] for path in paths}


def _beside(rows: Sequence[Row]) -> list[Row]:
    """The rows of rivals, curves aside."""
    return [row for row in rows if row.ratio is not None and row.point is None]


def ratios(rows: Sequence[Row], file: Path) -> None:
    """How many times longer each rival took: a line a case, a mark a tool, with its quartiles. No file if no rival."""
    told = _beside(rows)
    if not told:
        return
    cases, tools = (list(dict.fromkeys(values)) for values in zip(*((row.case, row.tool) for row in told), strict=True))
    with _figure(file, (9.0, 1.2 + 0.26 * len(cases)), 1) as (axes,):
        for i, tool in enumerate(tools):
            own = [row for row in told if row.tool == tool]
            ratio, low, median, high = np.array([(row.ratio, row.low, row.median, row.high) for row in own]).T
            spread = np.array([median - low, high - median]) * ratio / median
            at = [cases.index(row.case) for row in own]
            axes.errorbar(ratio, at, xerr=spread.tolist(), fmt="o", markersize=4, color=f"C{i + 1}", label=tool)
        axes.axvline(1, color="C0", linewidth=1, label=OURS)
        axes.set_xscale("log")
        axes.set_yticks(range(len(cases)), cases, fontsize=7)
        axes.invert_yaxis()
        axes.set_xlabel("time over gmkern's")
        axes.legend(fontsize=7)


def growth(rows: Sequence[Row], file: Path) -> None:
    """A panel for each curve: seconds against size, a line a tool, with its exponent. No file if no curve."""
    found = curves(rows)
    panels = list(dict.fromkeys((one.curve, one.against) for one in found))
    if not panels:
        return
    down = -(-len(panels) // ACROSS)
    with _figure(file, (WIDTH * min(ACROSS, len(panels)), HEIGHT * down), len(panels)) as drawn:
        for axes, panel in zip(drawn, panels, strict=True):
            own = [one for one in found if (one.curve, one.against) == panel]
            for one in sorted(own, key=lambda one: one.tool != OURS):
                label = f"{one.tool}: {one.against}$^{{{one.exponent:.2f}}}$"
                axes.plot(one.sizes, one.seconds, "o-", markersize=4, label=label)
            axes.set_xscale("log")
            axes.set_yscale("log")
            sizes = sorted({size for one in own for size in one.sizes})
            axes.set_xticks(sizes, [f"{size:,.0f}" for size in sizes], fontsize=7)
            axes.set_xticks([], minor=True)
            axes.set_title(panel[0], fontsize=9)
            axes.set_xlabel(panel[1])
            axes.set_ylabel("seconds")
            axes.legend(fontsize=7)


@contextmanager
def _figure(file: Path, size: tuple[float, float], panels: int) -> Iterator[list[Axes]]:
    """So many axes to draw on, saved as an SVG that is the same bytes for the same numbers."""
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasSVG(figure)
    across = min(ACROSS, panels)
    axes = figure.subplots(-(-panels // across), across, squeeze=False).ravel().tolist()
    for unused in axes[panels:]:
        unused.set_axis_off()
    yield axes[:panels]
    with matplotlib.rc_context({"svg.hashsalt": "gmkern"}):
        figure.savefig(file, metadata={"Date": None})
