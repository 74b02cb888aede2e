"""The demo from data to numbers; it prints nothing and writes nothing."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gmkern import _validate
from gmkern.demo import clouds, compare, judge
from gmkern.demo.digits import Digits, load
from gmkern.demo.processes import PROCESSES
from gmkern.demo.training import Advance

HELD_OUT = "held-out digits"

Watch = Callable[[str, int], AbstractContextManager[Advance]]
"""Opens a stage, given its name and how many steps it has, and gives what to call as they are done."""


@dataclass(frozen=True)
class Size:
    """How much to do."""

    drawn: int
    """Images from each process."""
    images: int
    """In each set that is judged, the held-out one among them: of a process the first it drew."""
    quick: bool
    """Whether processes are trained for a few seconds only."""
    scored: int
    """Held-out images that bits are counted on."""
    resamples: int
    timed: float
    """Of the images that each process is timed on, the share."""
    atom_steps: int


FULL = Size(drawn=1000, images=500, quick=False, scored=250, resamples=1000, timed=1.0, atom_steps=300)
QUICK = Size(drawn=100, images=100, quick=True, scored=10, resamples=200, timed=0.01, atom_steps=5)
"""Undertrained on purpose: a few seconds, to see that everything works."""


@dataclass(frozen=True)
class Result:
    """What a run found."""

    seed: int
    size: Size
    digits: Digits
    models: list[Any]
    """Of the processes, in their order."""
    judged: list[judge.Judged]
    """Held-out images, the same as clouds, the processes, the two controls."""
    timings: list[compare.Timing]
    paths: Tensor
    """Frames of ten clouds on their way [F, 10, N, 2]."""
    seconds: dict[str, float]
    """Of each stage."""


def run(*, seed: int = 0, size: Size = FULL, watch: Watch | None = None) -> Result:
    """Trains all processes, draws from them, judges what they drew and times the kernels.

    Parameters
    ----------
    seed : int in [0, 2^32), of the training, the samples and the controls. The split of the data is always the same.
    size : :data:`FULL` or :data:`QUICK`, or your own.
    watch : shows progress; None shows none.

    Returns
    -------
    Result : on one machine and thread count, the same but for the times.

    Raises
    ------
    ModuleNotFoundError : scikit-learn is not installed.
    ValueError : for a seed out of range.
    """
    seed = _validate.integer("seed", seed, low=0, high=2**32 - 1)
    seconds: dict[str, float] = {}

    @contextmanager
    def stage(name: str, steps: int = 1) -> Iterator[Advance]:
        start = time.perf_counter()
        with (watch or _unwatched)(name, steps) as advance:
            yield advance
        seconds[name] = time.perf_counter() - start

    digits = load(size.images)
    models = []
    for process in PROCESSES:
        steps = process.quick if size.quick else process.steps
        with stage(f"train the {process.name}", steps) as advance:
            models.append(process.train(digits, steps=steps, seed=seed, advance=advance))
    uniforms = torch.Generator().manual_seed(seed)
    as_clouds = clouds.rasterised(
        clouds.of_images(
            digits.held_out,
            torch.rand(size.images, generator=uniforms),
            torch.rand(size.images, clouds.POINTS, 2, generator=uniforms),
        )
    )
    judged = []
    with stage("draw, and judge the drawn", len(PROCESSES) + 4) as advance:
        for name, kind, images in (
            (HELD_OUT, judge.REAL, digits.held_out),
            ("held-out, as clouds", judge.REAL, as_clouds),
        ):
            judged.append(judge.judge(name, kind, images, digits, resamples=size.resamples))
            advance(1)
        for process, model in zip(PROCESSES, models, strict=True):
            images = process.draw(model, size.drawn, seed=seed)[: size.images]
            bits = None if process.bits is None else process.bits(model, digits.held_out[: size.scored])
            judged.append(
                judge.judge(
                    process.name,
                    judge.PROCESS,
                    images,
                    digits,
                    bits=bits,
                    bits_of=process.bits_of,
                    resamples=size.resamples,
                )
            )
            advance(1)
        for name, make in (("copies", judge.copies), ("noise", judge.noise)):
            judged.append(
                judge.judge(name, judge.CONTROL, make(digits, size.images, seed), digits, resamples=size.resamples)
            )
            advance(1)
        field = models[[process.name for process in PROCESSES].index("point clouds")]
        paths = clouds.move(field, torch.arange(10), seed=seed, record_every=clouds.STEPS // 4)[1]
    with stage("time the kernels", compare.LOOKS) as advance:
        timings = compare.compare(
            models,
            judged[2].images,
            digits.train,
            seed=seed,
            steps=size.atom_steps,
            timed=size.timed,
            advance=advance,
        )
    assert paths is not None  # record_every was given
    return Result(seed, size, digits, models, judged, timings, paths, seconds)


@contextmanager
def _unwatched(name: str, steps: int) -> Iterator[Advance]:
    yield lambda done: None
