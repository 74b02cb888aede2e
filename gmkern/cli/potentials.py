"""Potentials by name: ``lennard-jones:epsilon=0.0104,sigma=3.4,cutoff=8.5``."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from gmkern import dynamics
from gmkern.dynamics import Potential

NAMED: dict[str, type[Potential]] = {
    "coulomb": dynamics.Coulomb,
    "double-well": dynamics.DoubleWell,
    "harmonic": dynamics.Harmonic,
    "lennard-jones": dynamics.LennardJones,
    "morse": dynamics.Morse,
    "soft-sphere": dynamics.SoftSphere,
    "wca": dynamics.WCA,
}


def parsed(texts: Sequence[str]) -> Potential:
    """The sum of the potentials that ``texts`` name: NAME, or NAME:KEY=VALUE,...

    A value is a number, several by type with slashes between them (``sigma=3.4/2.7``), true, false or none.

    Raises
    ------
    ValueError : no such name or key, or a value that the potential does not take.
    """
    total = _one(texts[0])
    for text in texts[1:]:
        total = total + _one(text)
    return total


def _one(text: str) -> Potential:
    name, _, given = text.partition(":")
    if name not in NAMED:
        raise ValueError(f"{name}: no such potential; takes {', '.join(NAMED)}")
    kind = NAMED[name]
    keys = [field.name for field in dataclasses.fields(kind)]  # type: ignore[arg-type]
    values = {}
    for pair in filter(None, given.split(",")):
        key, equals, value = pair.partition("=")
        if key not in keys or not equals:
            raise ValueError(f"{name}: got {pair}; takes KEY=VALUE of {', '.join(keys)}")
        values[key] = _value(name, key, value)
    try:
        return kind(**values)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name}: {error}") from error


def _value(name: str, key: str, text: str) -> float | bool | list[float] | None:
    words: dict[str, bool | None] = {"true": True, "false": False, "none": None}
    if text.lower() in words:
        return words[text.lower()]
    try:
        numbers = [float(part) for part in text.split("/")]
    except ValueError:
        raise ValueError(f"{name}: {key}: got {text!r}; takes a number, numbers a/b, true, false or none") from None
    return numbers if len(numbers) > 1 else numbers[0]
