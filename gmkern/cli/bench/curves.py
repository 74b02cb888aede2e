"""Cost against size: the rows that lie on a curve, and the power of the size that fits their times."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from gmkern.cli.bench.rows import Row


class Curve(NamedTuple):
    """One tool's times at growing sizes."""

    path: str
    curve: str
    against: str
    tool: str
    sizes: tuple[float, ...]
    seconds: tuple[float, ...]
    exponent: float


def curves(rows: Iterable[Row]) -> list[Curve]:
    """A curve for each tool that has two sizes or more of it."""
    points: dict[tuple[str, str, str, str], list[tuple[float, float]]] = {}
    for row in rows:
        if row.point is not None:
            key = (row.path, row.point["curve"], row.point["against"], row.tool)
            points.setdefault(key, []).append((row.point["size"], row.median))
    found = []
    for key, measured in points.items():
        if len(measured) > 1:
            sizes, seconds = zip(*sorted(measured), strict=True)
            found.append(Curve(*key, sizes, seconds, fitted_exponent(sizes, seconds)))
    return found


def fitted_exponent(sizes: Sequence[float], seconds: Sequence[float]) -> float:
    """The slope of log(time) against log(size), by least squares: 1 where time grows with the size."""
    return float(np.polynomial.Polynomial.fit(np.log(sizes), np.log(seconds), 1).convert().coef[1])
