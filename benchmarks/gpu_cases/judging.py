"""What a row's figures say: shares of the ceiling that binds, ratios to rivals, and marks that are met or missed."""

from __future__ import annotations

from typing import Any

from gpu_cases.case import RATE, SHARE
from gpu_cases.measuring import OURS

Row = dict[str, Any]
_CEILINGS = {
    "moved": "copy, bytes a second",
    "read": "read, bytes a second",
    "flop": "bf16 matrix, flop a second",
}


def judged(row: Row, ceilings: Row, tiny: bool) -> Row:
    """The row with its rates, ratios, share and marks, which tiny shapes leave undecided; without figures as it is."""
    if "seconds" not in row:
        return row
    ours = (row["in a graph"] or row["seconds"])[OURS]
    more: Row = {"ratio": {name: _ratio(row, name) for name in row["ours beside"]}}
    floors = {
        ceiling: row[what] / ceilings[ceiling]
        for what, ceiling in _CEILINGS.items()
        if row[what] and ceilings.get(ceiling)
    }
    if floors:
        more["ceiling"] = max(floors, key=lambda name: floors[name])
        more[SHARE] = floors[more["ceiling"]] / ours
    if row["unit"]:
        more[f"{row['unit']} a second"] = row["work"] / ours
    more["marks"] = [_decided(mark, row | more) | ({"met": None} if tiny else {}) for mark in row["marks"]]
    return row | more


def _ratio(row: Row, rival: str) -> float:
    """A rival's time over ours: both in graphs if both can be, else both as they are called."""
    theirs, ours = row["seconds"][rival], row["ours beside"][rival]
    if rival in row["in a graph"]:
        theirs, ours = row["in a graph"][rival], row["in a graph"][OURS]
    return float(theirs * row["rival scale"] / ours)


def _decided(mark: Row, row: Row) -> Row:
    """The mark with what was reached and whether it is met; None where a rival or a ceiling is not there."""
    least, of = mark["least"], mark["of"]
    if of == SHARE:
        reached, text = row.get(SHARE), f"{least:.0%} of {row.get('ceiling', 'a ceiling').split(',')[0]}"
    elif of == RATE:
        reached, text = row[f"{row['unit']} a second"], f"{least:.3g} {row['unit']} a second"
    else:
        reached, text = row["ratio"].get(of), f"{least:g}x {of}"
    return mark | {"text": text, "reached": reached, "met": None if reached is None else reached >= least}


def told(row: Row) -> str:
    """One line for a person: what failed, figures, rivals that are absent among them, and marks."""
    parts = [] if row["status"] == "ok" else [str(row["status"])]
    if "closing" in row and not parts:
        parts = [str(row["closing"])]
    if "copy, bytes a second" in row:
        copy, read, flop = (row[name] / 1e12 for name in _CEILINGS.values())
        parts.append(f"copy {copy:.2f} TB/s, read {read:.2f} TB/s, bf16 matrix {flop:.0f} TFLOP/s")
    if "shape" in row:
        parts += _figures(row)
    return "; ".join(parts)


def _figures(row: Row) -> list[str]:
    captured = f" ({_time(row['in a graph'][OURS])} in a graph)" if row["in a graph"] else ""
    parts = [row["shape"], _time(row["seconds"][OURS]) + captured]
    if SHARE in row:
        parts.append(f"{row[SHARE]:.0%} of {row['ceiling'].split(',')[0]}")
    if row["unit"]:
        parts.append(f"{row[row['unit'] + ' a second']:.2e} {row['unit']}/s")
    parts += [f"{ratio:.2g}x {rival}" for rival, ratio in row["ratio"].items()]
    parts += [f"{rival}: {why}" for rival, why in (row["absent"] | row["not measured"]).items()]
    said = {True: "MET", False: "MISSED", None: "UNDECIDED"}
    return parts + [f"mark {mark['text']}: {said[mark['met']]}" for mark in row["marks"]]


def _time(seconds: float) -> str:
    return f"{seconds * 1e3:.3g} ms" if seconds >= 1e-3 else f"{seconds * 1e6:.3g} us"
