"""The demo's result as a page for people and as numbers for programs."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import gmkern
from gmkern import report
from gmkern.demo import clouds, flow, pixels
from gmkern.demo.compare import DRAWN, ROUNDS
from gmkern.demo.digits import LEVELS, SIDE
from gmkern.demo.judge import CONTROL, LEVEL, NEIGHBOURS, NUMBERS, PROCESS, Judged
from gmkern.demo.processes import PROCESSES
from gmkern.demo.run import Result
from gmkern.metrics._bootstrap import Estimate
from gmkern.metrics.report import MEANING

SHOWN = 20
VERDICT = {"fidelity": "precision", "diversity": "coverage", "novelty": "authenticity"}
"""The three questions, and the number that answers each."""
FURTHER = ("density", "recall", "distance", "duplicates", "c_t")


def write(result: Result, folder: Path) -> list[Path]:
    """Writes the page, its pictures and report.json into ``folder``; the page is the first path."""
    written = report.write(page(result), folder)
    written.append(folder / "report.json")
    written[-1].write_text(json.dumps(as_dict(result), indent=2, allow_nan=False) + "\n", encoding="utf-8")
    return written


def page(result: Result) -> report.Page:
    """The report."""
    return report.Page(
        title="Handwritten digits, drawn and judged",
        lead=(
            f"{len(PROCESSES)} small generators, trained in plain PyTorch on "
            f"{len(result.digits.train):,} of scikit-learn's 8 × 8 digits, drew {result.size.drawn:,} images each "
            "with gmkern. Are the images digits, all kinds of digits, and new ones?"
        ),
        sections=[_verdict(result), _samples(result), _paths(result), _further(result), _times(result)],
        facts=_facts(result),
    )


def as_dict(result: Result) -> dict[str, Any]:
    """The numbers, ready for JSON: infinities as None."""
    return {
        "seed": result.seed,
        "images_per_set": result.size.images,
        "table": [_row(one) for one in result.judged],
        "times": [
            timing._asdict() | {"speedup": timing.speedup, "kernel_is": "seconds", "reference_is": "seconds"}
            for timing in result.timings
        ],
        "stage_seconds": result.seconds,
        "version": gmkern.__version__,
    }


def verdict_texts(one: Judged) -> list[tuple[str, str]]:
    """Of each column of the verdict, the number and its interval as texts; bits a pixel are the last."""
    found = [getattr(one.scores, name) for name in VERDICT.values()]
    texts = [(_short(estimate.value), _span(estimate)) for estimate in found]
    return [*texts, ("—", "") if one.bits is None else (_short(one.bits.value), one.bits_of)]


def seconds_text(seconds: float) -> str:
    """A time with two significant digits and its unit."""
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if seconds >= size or unit == "µs":
            value = seconds / size
            digits = max(0, 1 - math.floor(math.log10(value))) if value > 0 else 0
            return f"{value:.{digits}f} {unit}"
    raise AssertionError("unreachable: µs takes everything")


def speedup_text(speedup: float | None) -> str:
    """How many times faster."""
    if speedup is None:
        return "—"
    return f"{speedup:.0f}×" if speedup >= 9.95 else f"{speedup:.1f}×"


def _row(one: Judged) -> dict[str, Any]:
    def estimate(found: Estimate | None) -> dict[str, float | None] | None:
        if found is None:
            return None
        return {name: value if math.isfinite(value) else None for name, value in found._asdict().items()}

    return {
        "name": one.name,
        "kind": one.kind,
        "images": len(one.images),
        **{name: estimate(getattr(one.scores, name)) for name in NUMBERS},
        "bits_per_dimension": estimate(one.bits),
        "bits_of": one.bits_of or None,
    }


def _short(value: float) -> str:
    return f"{value:.2f}" if abs(value) < 10 else f"{value:.1f}"


def _span(found: Estimate) -> str:
    return (
        f"{_short(found.low)}–{_short(found.high)}"
        if found.low >= 0
        else f"{_short(found.low)} to {_short(found.high)}"
    )


def _quiet(result: Result) -> frozenset[int]:
    return frozenset(at for at, one in enumerate(result.judged) if one.kind == CONTROL)


def _verdict(result: Result) -> report.Section:
    rows: list[list[report.Cell | str]] = [
        [report.Cell(one.name), *(report.Cell(text, note=note) for text, note in verdict_texts(one))]
        for one in result.judged
    ]
    panels = {question: [getattr(one.scores, name)[:] for one in result.judged] for question, name in VERDICT.items()}
    return report.Section(
        heading="Fidelity, diversity, novelty",
        text=[
            "Read each process against the held-out digits: real images that no model saw. A perfect generator that "
            "does not copy would match that line. The pale lines are controls that the numbers must expose: copies of "
            "training images have no novelty, noise has no fidelity."
        ],
        table=report.Table(
            ("", *VERDICT, "bits a pixel"),
            rows,
            quiet=_quiet(result),
        ),
        definitions={question: f"{name}: {MEANING[name]}" for question, name in VERDICT.items()}
        | {
            "bits a pixel": f"what a model needs to write down {result.size.scored} held-out digits, less being "
            "better, where it has a likelihood. Of the levels themselves, or of dequantised numbers (each anywhere "
            "within its level), which cost no less; at most: a bound. The two kinds are not to be compared closely.",
        },
        pictures=[
            report.Picture(
                name="verdict",
                alt="The table's first three columns as points with intervals",
                drawn=report.intervals(
                    [one.name for one in result.judged],
                    panels,
                    pale=[one.kind != PROCESS for one in result.judged],
                ),
                caption=f"Points with {100 * LEVEL:g} % intervals; dashed: the held-out digits.",
                width=720,
            )
        ],
        after=[
            f"k = {NEIGHBOURS}; equal counts, the first {result.size.images} images of each, as coverage and recall "
            f"grow with counts. Intervals: percentiles of {result.size.resamples} bootstrap resamples. Held-out digits "
            "as clouds and back show what the point clouds lose by their raster, however well they are drawn."
        ],
    )


def _samples(result: Result) -> report.Section:
    about = {process.name: process.about for process in PROCESSES}
    shown = [one for one in result.judged if one.name in about or one is result.judged[0] or one.kind == CONTROL]
    return report.Section(
        heading="Each image beside its nearest training image",
        text=[
            f"The first {SHOWN} of each set, not chosen. Left of each pair the image, right of it the training image "
            "nearest to it, below them their distance, in grey levels. Copies are framed."
        ],
        pictures=[
            report.Picture(
                name=one.name.replace(" ", "-"),
                alt=f"{SHOWN} images of {one.name}, each beside its nearest training image",
                caption=f"{one.name[0].upper()}{one.name[1:]}: "
                f"{about.get(one.name, 'a control' if one.kind == CONTROL else 'real images, for comparison')}.",
                drawn=_pairs(one, result),
            )
            for one in shown
        ],
    )


def _pairs(one: Judged, result: Result) -> report.Drawn:
    count = min(SHOWN, len(one.images))
    distances = one.scores.distances[:count].tolist()
    return report.pairs(
        one.images[:count].view(count, SIDE, SIDE).numpy(),
        result.digits.train[one.scores.nearest[:count]].view(count, SIDE, SIDE).numpy(),
        ["copy" if distance == 0 else f"{distance:.1f}" for distance in distances],
        highest=LEVELS - 1,
        marked=[distance == 0 for distance in distances],
    )


def _paths(result: Result) -> report.Section:
    frames = len(result.paths)
    return report.Section(
        heading="A cloud becomes a digit",
        text=[
            f"Ten clouds of {clouds.POINTS} points, from a normal cloud (t = 0) along the learnt force field to their "
            "ends (t = 1), before they are rasterised."
        ],
        pictures=[
            report.Picture(
                name="paths",
                alt="Ten random clouds turn into the digits 0 to 9",
                drawn=report.paths(
                    result.paths.numpy(), [f"t = {at / (frames - 1):g}" for at in range(frames)], side=2.6
                ),
                width=720,
            )
        ],
    )


def _further(result: Result) -> report.Section:
    rows: list[list[report.Cell | str]] = [
        [
            report.Cell(one.name),
            *(
                report.Cell(_short(getattr(one.scores, name).value), note=_span(getattr(one.scores, name)))
                for name in FURTHER
            ),
        ]
        for one in result.judged
    ]
    names = [name.replace("c_t", "C_T") for name in FURTHER]
    return report.Section(
        heading="Further numbers",
        text=["Recall alone is easy to fool: far-flung samples have neighbourhoods that hold the training set."],
        table=report.Table(("", *names), rows, quiet=_quiet(result), upright=True),
        definitions={heading: MEANING[name] for heading, name in zip(names, FURTHER, strict=True)},
    )


def _times(result: Result) -> report.Section:
    rows: list[list[report.Cell | str]] = [
        [
            report.Cell(timing.name, note=timing.case),
            seconds_text(timing.kernel),
            seconds_text(timing.reference),
            report.Cell(speedup_text(timing.speedup), strong=True, note=timing.check),
        ]
        for timing in result.timings
    ]
    groups = [
        report.Bars(
            timing.name,
            timing.kernel,
            timing.reference,
            f"{seconds_text(timing.kernel)}   {speedup_text(timing.speedup)}",
            seconds_text(timing.reference),
        )
        for timing in result.timings
    ]
    return report.Section(
        heading=f"The time of {DRAWN:,} images, beside plain PyTorch",
        text=[
            'The same call with and without backend="reference", which is gmkern\'s own readable PyTorch: the same '
            f"input, taking turns in this run, medians of {ROUNDS}. Where fewer images were drawn their time is "
            "scaled. A ratio is given only where the two agree. Flow, clouds and sets spend the network's own time, "
            "which is PyTorch's in both. The last two lines are hot paths beside drawing."
        ],
        table=report.Table(("", "gmkern", "PyTorch", "faster"), rows),
        pictures=[
            report.Picture(
                name="times",
                alt="Bars of the times in the table above",
                drawn=report.bars(
                    groups,
                    first="gmkern",
                    second="plain PyTorch",
                    tick_text=lambda seconds: seconds_text(seconds).replace(".0 ", " "),
                ),
            )
        ],
    )


def _facts(result: Result) -> dict[str, str]:
    info = gmkern.info()
    params = pixels.PARAMS
    steps = ", ".join(
        f"{process.name} {process.quick if result.size.quick else process.steps:,}" for process in PROCESSES
    )
    return {
        "seed": f"{result.seed}; noise is a pure function of it, the sample's number and the step",
        "training": f"steps (epochs of the Boltzmann machine): {steps}",
        "transformer": f"{pixels.CONFIG.n_layers} layers of width {pixels.CONFIG.d_model}; drawn at temperature "
        f"{params.temperature:g} without tokens below {params.min_p:g} of the likeliest (min-p); its bits are those of "
        "temperature 1, averaged over the ten digits",
        "flows": f"{flow.STEPS} Heun steps an image, {clouds.STEPS} a cloud",
        "controls": "copies of training digits; noise, each pixel any of the 17 grey levels",
        "time": ", ".join(f"{name} {seconds_text(spent)}" for name, spent in result.seconds.items()),
        "machine": f"{info.threads} thread{'s' * (info.threads != 1)}, {info.isa}; "
        f"Python {info.python}, torch {info.torch}",
        "gmkern": info.version,
        "data": "scikit-learn's copy of the UCI optical recognition of handwritten digits (Alpaydin and Kaynak, 1998)",
    }
