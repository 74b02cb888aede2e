"""The demo's result as a page for people and as numbers for programs."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import gmkern
from gmkern import report
from gmkern.demo import flow, pixels
from gmkern.demo.compare import ROUNDS
from gmkern.demo.digits import LEVELS, SIDE
from gmkern.demo.judge import NEIGHBOURS, Judged
from gmkern.demo.run import Result

SHOWN = 30
HEADER = ("precision", "density", "recall", "coverage", "distance", "authenticity")
GROUPS = (("fidelity", 2), ("diversity", 2), ("novelty", 2))


def write(result: Result, folder: Path) -> list[Path]:
    """Writes the page and its pictures into ``folder``; the page is the first path."""
    return report.write(page(result), folder)


def page(result: Result) -> report.Page:
    """The report."""
    return report.Page(
        title="Handwritten digits, drawn and judged",
        lead=(
            f"Two small models, trained in plain PyTorch on {len(result.digits.train):,} of scikit-learn's 8 × 8 "
            f"digits, drew {result.size.samples:,} images each with gmkern's kernels. Are the images digits, all "
            "kinds of digits, and new ones?"
        ),
        sections=[_verdict(result), _samples(result), _novelty(result), _times(result)],
        facts=_facts(result),
    )


def as_dict(result: Result) -> dict[str, Any]:
    """The numbers, ready for JSON."""
    return {
        "seed": result.seed,
        "images_per_set": {row.name: row.images for row in result.rows},
        "judged_per_batch": result.batch,
        "table": [row._asdict() for row in result.rows],
        "times": [
            timing._asdict() | {"speedup": timing.speedup, "kernel_is": "seconds", "reference_is": "seconds"}
            for timing in result.timings
        ],
        "stage_seconds": result.seconds,
        "version": gmkern.__version__,
    }


def numbers(row: Any) -> list[str]:
    """A row's numbers as texts, in the order of :data:`HEADER`."""
    return [f"{getattr(row, name):.1f}" if name == "distance" else f"{getattr(row, name):.2f}" for name in HEADER]


def seconds_text(seconds: float) -> str:
    """A time with two significant digits and its unit."""
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if seconds >= size or unit == "µs":
            value = seconds / size
            digits = max(0, 1 - math.floor(math.log10(value))) if value > 0 else 0
            return f"{value:.{digits}f} {unit}"
    raise AssertionError("unreachable: µs takes everything")


def _tick_text(seconds: float) -> str:
    return seconds_text(seconds).replace(".0 ", " ")


def speedup_text(speedup: float | None) -> str:
    """How many times faster."""
    if speedup is None:
        return "—"
    return f"{speedup:.0f}×" if speedup >= 9.95 else f"{speedup:.1f}×"


def _verdict(result: Result) -> report.Section:
    rows: list[list[report.Cell | str]] = [[report.Cell(row.name), *numbers(row)] for row in result.rows]
    quiet = frozenset(at for at, row in enumerate(result.rows) if row.is_control)
    return report.Section(
        heading="Fidelity, diversity, novelty",
        text=[
            "Read each process against the held-out digits: real images that neither model saw. A perfect generator "
            "would match that line. The two pale lines are controls, and show what each number is for."
        ],
        table=report.Table(("", *HEADER), rows, (("", 1), *GROUPS), quiet, upright=True),
        definitions={
            "precision": f"share of the images that lie nearer to some training image than that image's "
            f"{_ordinal(NEIGHBOURS)} nearest training image does",
            "density": "how many training images' neighbourhoods an image lies in, on average, "
            f"divided by {NEIGHBOURS}; may pass 1",
            "recall": f"share of the training images that lie nearer to some image than that image's "
            f"{_ordinal(NEIGHBOURS)} nearest fellow does",
            "coverage": "share of the training images in whose neighbourhood some image lies",
            "distance": "median Euclidean distance to the nearest training image, in grey levels (0 to 16 a pixel)",
            "authenticity": "share of the images that lie farther from their nearest training image than that one "
            "lies from its own nearest fellow; 0 for copies",
        },
        after=[
            f"Equal counts: precision, density, recall and coverage depend on how many images are judged, so each is "
            f"the mean over disjoint batches of {result.batch} images, the number of held-out digits used. Distance "
            "and authenticity are of each image alone and take all of a set. Recall alone is easy to fool: scattered "
            "pixels lie so far apart that their neighbourhoods hold most of the training set."
        ],
    )


def _samples(result: Result) -> report.Section:
    shown = result.judged[:3]
    captions = [
        "Held-out digits: real images, for comparison.",
        "Pixel transformer: 64 grey levels, one after another; it is told which digit to draw.",
        "Flow matching: noise that follows a learnt velocity field.",
    ]
    return report.Section(
        heading="Each image beside its nearest training image",
        text=[
            f"The first {SHOWN} of each set, not chosen. Left of each pair the image, right of it the training image "
            "nearest to it, below them their distance: a copy would be at 0."
        ],
        pictures=[
            report.Picture(
                name=one.row.name.replace(" ", "-"),
                alt=f"{SHOWN} images of {one.row.name}, each beside its nearest training image",
                caption=caption,
                drawn=_pairs(one, result),
            )
            for one, caption in zip(shown, captions, strict=True)
        ],
    )


def _pairs(one: Judged, result: Result) -> report.Drawn:
    count = min(SHOWN, len(one.images))
    nearest = result.digits.train[one.nearest[:count]]
    return report.pairs(
        one.images[:count].view(count, SIDE, SIDE).numpy(),
        nearest.view(count, SIDE, SIDE).numpy(),
        [f"{distance:.1f}" for distance in one.distance[:count].tolist()],
        highest=LEVELS - 1,
    )


def _novelty(result: Result) -> report.Section:
    values = {one.row.name: one.distance.numpy() for one in result.judged[:3]}
    return report.Section(
        heading="How far from the training set?",
        text=[
            "Each set's distances to the nearest training image. A curve left of the held-out digits' would mean "
            "copying, one far to the right of it images that are not digits."
        ],
        pictures=[
            report.Picture(
                name="distances",
                alt="Histograms of the distance to the nearest training image, one for each set",
                drawn=report.histograms(values, bins=40, across="distance to the nearest training image"),
            )
        ],
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
        heading="The kernels beside plain PyTorch",
        text=[
            'The same call with and without backend="reference", which is gmkern\'s own readable PyTorch: the same '
            f"input, taking turns in this run, medians of {ROUNDS}. A ratio is given only where the two agree."
        ],
        table=report.Table(("", "gmkern", "PyTorch", "faster"), rows),
        pictures=[
            report.Picture(
                name="times",
                alt="Bars of the times in the table above",
                drawn=report.bars(groups, first="gmkern", second="plain PyTorch", tick_text=_tick_text),
            )
        ],
    )


def _facts(result: Result) -> dict[str, str]:
    info = gmkern.info()
    params = pixels.PARAMS
    return {
        "seed": f"{result.seed}; noise is a pure function of it, the sample's number and the step",
        "transformer": f"{pixels.CONFIG.n_layers} layers of width {pixels.CONFIG.d_model}, "
        f"{result.size.transformer_steps:,} training steps; drawn at temperature {params.temperature:g} without tokens "
        f"below {params.min_p:g} of the likeliest (min-p)",
        "flow": f"a residual network f(x, t), {result.size.flow_steps:,} training steps; "
        f"drawn in {flow.STEPS} Heun steps and rounded to grey levels",
        "controls": "copies of training digits; and scattered pixels, each taken from a training image of its own",
        "time": ", ".join(f"{name} {seconds_text(spent)}" for name, spent in result.seconds.items()),
        "machine": f"{info.threads} thread{'s' * (info.threads != 1)}, {info.isa}; "
        f"Python {info.python}, torch {info.torch}",
        "gmkern": info.version,
        "data": "scikit-learn's copy of the UCI optical recognition of handwritten digits (Alpaydin and Kaynak, 1998)",
    }


def _ordinal(n: int) -> str:
    return {1: "1st", 2: "2nd", 3: "3rd"}.get(n, f"{n}th")
