"""What `evaluate` found: numbers with their intervals, printed as a table, given as JSON, saved as a page."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from torch import Tensor

from gmkern.metrics._bootstrap import Estimate

if TYPE_CHECKING:
    from rich.console import Group

NUMBERS = (
    "precision",
    "density",
    "recall",
    "coverage",
    "realism",
    "distance",
    "ratio",
    "authenticity",
    "duplicates",
    "c_t",
)
"""The names of a set's numbers, in the order of the table."""

MEANING = {
    "precision": "share of the set in some training sample's ball, which reaches to its k-th nearest fellow",
    "density": "training samples' balls that hold a sample of the set, over k, on average; may pass 1",
    "recall": "share of the training set in some ball of the set",
    "coverage": "share of training samples whose ball holds a sample of the set",
    "realism": "median over the set of the largest radius over distance among the smaller half of training balls",
    "distance": "median distance to the nearest training sample",
    "ratio": "median of nearest over second-nearest distance in the training set; small for copies",
    "authenticity": "share of the set farther from its nearest training sample than that one is from its own nearest",
    "duplicates": "share of the set within the tolerance of a training sample",
    "c_t": "data-copying score against the held-out set: below about -3 the set copies, above about 3 it underfits",
}
"""A line for each of :data:`NUMBERS`."""


class Curve(NamedTuple):
    """Precision, recall and coverage at several k."""

    k: tuple[int, ...]
    precision: tuple[float, ...]
    recall: tuple[float, ...]
    coverage: tuple[float, ...]


class Copy(NamedTuple):
    """A sample (``row`` of its set) and the training sample nearest to it; images where rows are images."""

    row: int
    source: int
    distance: float
    ratio: float


@dataclass(frozen=True)
class Scores:
    """One set against the training set; the meaning of each number is in docs/metrics.md."""

    samples: int
    precision: Estimate
    density: Estimate
    recall: Estimate
    coverage: Estimate
    realism: Estimate
    distance: Estimate
    ratio: Estimate
    authenticity: Estimate
    duplicates: Estimate
    c_t: Estimate | None
    curve: Curve
    distances: Tensor
    """Of each sample to its nearest training sample [N]."""
    nearest: Tensor
    """That sample's row [N], int64."""
    ratios: Tensor
    """Nearest over second-nearest distance [N]."""


@dataclass(frozen=True)
class Report:
    """The result of :func:`gmkern.metrics.evaluate`.

    Attributes
    ----------
    generated, holdout : :class:`Scores` of each set against the training set; None without a held-out set. The
        held-out set's are what a perfect generator that does not copy would reach with as many samples.
    train, dim : how many training samples there are, of how many coordinates.
    k, seed, tolerance, strict, level, resamples : how it was made.
    worst : generated samples nearest to the training set, nearest first.
    copies, sources : their rows and their sources' rows [W, D], to show them.
    image_shape : of a row that is an image; None if it is not.
    """

    generated: Scores
    holdout: Scores | None
    train: int
    dim: int
    k: int
    seed: int
    tolerance: float
    strict: bool
    level: float
    resamples: int
    worst: tuple[Copy, ...]
    copies: Tensor
    sources: Tensor
    image_shape: tuple[int, ...] | None

    def __str__(self) -> str:
        """The table as plain text, and its notes."""
        lines = [self._heading(), ""]
        rows = [["", *self._columns()], *self._cells()]
        widths = [max(len(row[at]) for row in rows) for at in range(len(rows[0]))]
        for row in rows:
            first, *others = (text.ljust(width) for text, width in zip(row, widths, strict=True))
            lines.append("  ".join([first, *others]).rstrip())
        return "\n".join([*lines, "", *self.notes()])

    def __rich__(self) -> Group:
        """The table and its notes for rich's consoles."""
        from rich import box
        from rich.console import Group
        from rich.table import Table

        table = Table(
            title=self._heading(),
            title_justify="left",
            title_style="bold",
            box=box.SIMPLE_HEAD,
            pad_edge=False,
        )
        for heading in ("", *self._columns()):
            table.add_column(heading)
        for row in self._cells():
            table.add_row(*row)
        return Group(table, *self.notes())

    def as_dict(self) -> dict[str, Any]:
        """All numbers, ready for JSON: infinities as None. The arrays of one number a sample are left out."""
        sets = {"generated": self.generated, "holdout": self.holdout}
        return {
            **{name: None if found is None else _as_dict(found) for name, found in sets.items()},
            "worst": [_finite(copy._asdict()) for copy in self.worst],
            "train": self.train,
            "dim": self.dim,
            "k": self.k,
            "seed": self.seed,
            "tolerance": self.tolerance,
            "strict": self.strict,
            "level": self.level,
            "resamples": self.resamples,
        }

    def to_json(self) -> str:
        """:meth:`as_dict` as JSON text."""
        return json.dumps(self.as_dict(), indent=2, allow_nan=False)

    def save(self, folder: str | Path) -> Path:
        """Writes index.html (which needs nothing beside it), its pictures as PNG files, and report.json; gives the
        page.

        Pictures: histograms of nearest distances, precision and recall against k, and, where rows are images, the
        samples nearest to the training set beside their sources.

        Raises
        ------
        ImportError : matplotlib or jinja2 is not installed (``pip install 'gmkern[cli]'``).
        OSError : the folder cannot be made or written to.
        """
        from gmkern.metrics._page import write

        return write(self, Path(folder))

    def notes(self) -> list[str]:
        """What must be said beside the numbers."""
        within = "< radius" if self.strict else "≤ radius"
        tolerance = f", duplicates within {self.tolerance:g}" if self.tolerance else ", duplicates are exact copies"
        notes = [f"k = {self.k}, balls hold distances {within}{tolerance}."]
        notes.append(
            f"Intervals: {100 * self.level:g} % of {self.resamples} bootstrap resamples of the samples that a number "
            "is an average over; balls and neighbours are held fixed."
        )
        if self.holdout is not None and self.holdout.samples != self.generated.samples:
            notes.append(
                f"Recall and coverage grow with the number of samples: {self.generated.samples:,} generated, "
                f"{self.holdout.samples:,} held out."
            )
        return notes

    def _heading(self) -> str:
        return f"{self.generated.samples:,} generated against {self.train:,} training samples of {self.dim:,} numbers"

    def _columns(self) -> list[str]:
        return ["generated"] if self.holdout is None else ["generated", "held out"]

    def _cells(self) -> list[list[str]]:
        sets = [self.generated] if self.holdout is None else [self.generated, self.holdout]
        names = [name for name in NUMBERS if any(getattr(found, name) is not None for found in sets)]
        return [[name.replace("c_t", "C_T"), *(text(getattr(found, name)) for found in sets)] for name in names]


def text(found: Estimate | None) -> str:
    """An estimate for people: 0.812 [0.803, 0.820]."""
    return "" if found is None else f"{short(found.value)} [{short(found.low)}, {short(found.high)}]"


def short(number: float) -> str:
    """A number for people."""
    return f"{number:.3f}" if abs(number) < 100 else f"{number:.4g}"


def _as_dict(found: Scores) -> dict[str, Any]:
    numbers = {name: getattr(found, name) for name in NUMBERS}
    return {
        "samples": found.samples,
        **{name: None if one is None else _finite(one._asdict()) for name, one in numbers.items()},
        "curve": {name: list(values) for name, values in found.curve._asdict().items()},
    }


def _finite(numbers: dict[str, Any]) -> dict[str, Any]:
    return {name: one if math.isfinite(one) else None for name, one in numbers.items()}
