"""A page of text, tables and pictures, written as one HTML file with the pictures inside it."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import jinja2

from gmkern.report.pictures import Drawn


@dataclass(frozen=True)
class Picture:
    """A picture, drawn once for light pages and once for dark ones.

    Attributes
    ----------
    name : of its files: NAME.png and NAME-dark.png.
    drawn : the PNGs.
    alt : what it shows, for who cannot see it.
    caption : what stands below it.
    width : how wide it is shown at most, in CSS pixels.
    """

    name: str
    drawn: Drawn
    alt: str
    caption: str = ""
    width: int = 560


class Cell(NamedTuple):
    """A cell of a table; ``strong`` sets it in bold, ``note`` stands small below it."""

    text: str
    strong: bool = False
    note: str = ""


@dataclass(frozen=True)
class Table:
    """A table: the first column names the row, numbers fill the others.

    Attributes
    ----------
    groups : (heading, how many columns it spans) over the header; empty for none.
    header : one text a column.
    rows : cells, or plain texts.
    quiet : indices of rows that are shown pale.
    upright : whether a phone turns the header's texts upright, to fit many narrow columns.
    """

    header: Sequence[str]
    rows: Sequence[Sequence[Cell | str]]
    groups: Sequence[tuple[str, int]] = ()
    quiet: frozenset[int] = frozenset()
    upright: bool = False


@dataclass(frozen=True)
class Section:
    """A heading and what stands below it, in this order."""

    heading: str
    text: Sequence[str] = ()
    table: Table | None = None
    pictures: Sequence[Picture] = ()
    definitions: Mapping[str, str] = field(default_factory=dict)
    after: Sequence[str] = ()


@dataclass(frozen=True)
class Page:
    """A report."""

    title: str
    lead: str
    sections: Sequence[Section]
    facts: Mapping[str, str] = field(default_factory=dict)
    """How it was made: name and value."""


def write(page: Page, folder: Path, *, name: str = "index.html") -> list[Path]:
    """Writes the page, with its pictures inside, and the pictures as PNG files, into ``folder``; gives the paths.

    Raises
    ------
    OSError : the folder cannot be made or written to.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("gmkern.report", "."),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters["data_uri"] = _data_uri
    environment.filters["cell"] = lambda cell: cell if isinstance(cell, Cell) else Cell(cell)
    html = environment.get_template("page.html.jinja").render(page=page)
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / name]
    paths[0].write_text(html, encoding="utf-8")
    for section in page.sections:
        for picture in section.pictures:
            for suffix, data in (("", picture.drawn.light), ("-dark", picture.drawn.dark)):
                paths.append(folder / f"{picture.name}{suffix}.png")
                paths[-1].write_bytes(data)
    return paths


def _data_uri(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")
