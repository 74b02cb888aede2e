"""A report as a page. Needs the extra "cli" for its pictures and template."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from torch import Tensor

import gmkern
from gmkern import report
from gmkern.metrics._bootstrap import Estimate
from gmkern.metrics.report import MEANING, NUMBERS, Report, Scores, short


def write(found: Report, folder: Path) -> Path:
    """Writes index.html, its pictures and report.json."""
    written = report.write(page(found), folder)
    (folder / "report.json").write_text(found.to_json() + "\n", encoding="utf-8")
    return written[0]


def page(found: Report) -> report.Page:
    """The page."""
    held_out = "" if found.holdout is None else f", beside {found.holdout.samples:,} held-out ones"
    return report.Page(
        title="Generated samples, judged",
        lead=(
            f"{found.generated.samples:,} generated samples against {found.train:,} training samples of {found.dim:,} "
            f"numbers{held_out}: are they near the training set, everywhere in it, and new?"
        ),
        sections=[_numbers(found), _distances(found), _curve(found), _worst(found)],
        facts=_facts(found),
    )


def _numbers(found: Report) -> report.Section:
    sets = [one for one in (found.generated, found.holdout) if one is not None]
    names = [name for name in NUMBERS if any(getattr(one, name) is not None for one in sets)]
    text = ["Distances are euclidean, in the space of the numbers given."]
    if found.holdout is not None:
        text = [
            "Read the generated samples against the held-out ones, which are real: a perfect generator that does not "
            "copy would match that column with as many samples.",
            *text,
        ]
    return report.Section(
        heading="Fidelity, diversity, novelty",
        text=text,
        table=report.Table(
            ("", "generated", "held out")[: len(sets) + 1],
            [[report.Cell(name.replace("c_t", "C_T")), *(_cell(getattr(one, name)) for one in sets)] for name in names],
        ),
        definitions={name.replace("c_t", "C_T"): MEANING[name] for name in names},
        after=found.notes(),
    )


def _cell(one: Estimate | None) -> report.Cell:
    if one is None:
        return report.Cell("—")
    return report.Cell(short(one.value), note=f"{short(one.low)} to {short(one.high)}")


def _distances(found: Report) -> report.Section:
    sets = {"generated": found.generated}
    text = ["Each sample's distance to its nearest training sample."]
    if found.holdout is not None:
        sets = {"held out": found.holdout, **sets}
        text.append(
            "A curve left of the held-out one's means copying, one far to the right of it samples that are not real."
        )
    return report.Section(
        heading="How far from the training set?",
        text=text,
        pictures=[
            report.Picture(
                name="distances",
                alt="Histograms of the distance to the nearest training sample",
                drawn=report.histograms(
                    {name: _finite(one.distances) for name, one in sets.items()},
                    bins=60,
                    across="distance to the nearest training sample",
                ),
            )
        ],
    )


def _finite(values: Tensor) -> np.ndarray:
    numbers = values.double().cpu().numpy()
    numbers = numbers[np.isfinite(numbers)]
    return numbers if len(numbers) else np.zeros(1)


def _curve(found: Report) -> report.Section:
    def shares(one: Scores | None) -> dict[str, tuple[float, ...]]:
        if one is None:
            return {}
        return {"precision": one.curve.precision, "recall": one.curve.recall, "coverage": one.curve.coverage}

    return report.Section(
        heading="At other k",
        text=["Balls grow with k. Sets that differ should differ at every k: an order that turns over says little."],
        pictures=[
            report.Picture(
                name="curve",
                alt="Precision, recall and coverage against k",
                caption="" if found.holdout is None else "Dashed: the held-out samples.",
                drawn=report.lines(found.generated.curve.k, shares(found.generated), shares(found.holdout), across="k"),
            )
        ],
    )


def _worst(found: Report) -> report.Section:
    heading = "Nearest to the training set"
    lead = f"The {len(found.worst)} generated samples with the smallest distance to a training sample, not chosen."
    if found.image_shape is None:
        rows: list[list[report.Cell | str]] = [
            [f"{copy.row}", f"{copy.source}", short(copy.distance), f"{copy.ratio:.3f}"] for copy in found.worst
        ]
        header = ("generated sample", "training sample", "distance", "ratio")
        return report.Section(heading=heading, text=[lead], table=report.Table(header, rows))
    both = _images(found.copies, found.sources, found.image_shape)
    return report.Section(
        heading=heading,
        text=[f"{lead} Left of each pair the sample, right of it its source, below them their distance."],
        pictures=[
            report.Picture(
                name="worst",
                alt=f"{len(found.worst)} generated images, each beside the training image nearest to it",
                drawn=report.pairs(*both, [short(copy.distance) for copy in found.worst], highest=1.0),
                width=760,
            )
        ],
        after=[f"Their rows, generated and training: {', '.join(f'{c.row} and {c.source}' for c in found.worst)}."],
    )


def _images(copies: Tensor, sources: Tensor, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Rows [W, D] as colours [W, H, W, 3] from 0 to 1; the scale ends at 1 or 255 where that seems meant."""
    numbers = np.stack([part.double().cpu().numpy() for part in (copies, sources)])
    low, high = float(numbers.min()), float(numbers.max())
    if low >= 0:
        low, high = 0.0, 1.0 if high <= 1 else 255.0 if 100 < high <= 255 else high
    numbers = ((numbers - low) / (high - low or 1.0)).reshape(2, len(copies), *shape)
    if len(shape) == 2:
        numbers = numbers[..., None]
    elif shape[2] not in (1, 3, 4):
        numbers = np.moveaxis(numbers, 2, -1)
    numbers = np.repeat(numbers, 3, -1) if numbers.shape[-1] == 1 else numbers[..., :3]
    return numbers[0], numbers[1]


def _facts(found: Report) -> dict[str, str]:
    info = gmkern.info()
    return {
        "k": str(found.k),
        "balls": "hold distances " + ("below their radius" if found.strict else "up to their radius"),
        "intervals": f"{100 * found.level:g} % percentiles of {found.resamples} bootstrap resamples, seed {found.seed}",
        "duplicates": f"within {found.tolerance:g}" if found.tolerance else "exact copies",
        "machine": f"{info.threads} thread{'s' * (info.threads != 1)}, {info.isa}; "
        f"Python {info.python}, torch {info.torch}",
        "gmkern": info.version,
        "definitions and their sources": "docs/metrics.md",
    }
