"""The demo from data to numbers; it prints nothing and writes nothing."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

from gmkern import _validate
from gmkern.demo import compare, flow, judge, pixels
from gmkern.demo.digits import Digits, load
from gmkern.demo.training import Advance

Watch = Callable[[str, int], AbstractContextManager[Advance]]
"""Opens a stage, given its name and how many steps it has, and gives what to call as they are done."""


@dataclass(frozen=True)
class Size:
    """How much to do."""

    samples: int
    held_out: int
    transformer_steps: int
    flow_steps: int
    atom_steps: int


FULL = Size(samples=1000, held_out=500, transformer_steps=480, flow_steps=2500, atom_steps=300)
QUICK = Size(samples=200, held_out=500, transformer_steps=60, flow_steps=300, atom_steps=50)
"""Undertrained on purpose: a few seconds, to see that everything works."""


@dataclass(frozen=True)
class Result:
    """What a run found."""

    seed: int
    size: Size
    batch: int
    """How many images precision, density, recall and coverage are judged on at a time."""
    digits: Digits
    judged: list[judge.Judged]
    """Held-out images, the two processes, the two controls."""
    timings: list[compare.Timing]
    seconds: dict[str, float]
    """Of each stage."""

    @property
    def rows(self) -> list[judge.Row]:
        return [one.row for one in self.judged]


def run(*, seed: int = 0, size: Size = FULL, watch: Watch | None = None) -> Result:
    """Trains both models, draws from them, judges what they drew and times the kernels.

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

    digits = load(size.held_out)
    with stage("train the pixel transformer", size.transformer_steps) as advance:
        model = pixels.train(digits, steps=size.transformer_steps, seed=seed, advance=advance)
    with stage("train the flow", size.flow_steps) as advance:
        field = flow.train(digits, steps=size.flow_steps, seed=seed, advance=advance)
    with stage(f"draw {size.samples:,} images from the transformer"):
        written = pixels.draw(model, size.samples, seed=seed)
    with stage(f"draw {size.samples:,} images from the flow"):
        flowed = flow.draw(field, size.samples, seed=seed)
    batch = min(size.samples, size.held_out)
    sets = [
        ("held-out digits", digits.held_out, False),
        ("pixel transformer", written, False),
        ("flow matching", flowed, False),
        ("copies of training digits", judge.copies(digits, size.samples, seed), True),
        ("scattered pixels", judge.scattered(digits, size.samples, seed), True),
    ]
    judged = []
    with stage("judge them", len(sets)) as advance:
        for name, images, is_control in sets:
            judged.append(judge.judge(name, images, digits.train, batch=batch, is_control=is_control))
            advance(1)
    with stage("time the kernels", compare.LOOKS) as advance:
        timings = compare.compare(
            model, field, written, digits.train, seed=seed, steps=size.atom_steps, advance=advance
        )
    return Result(seed, size, batch, digits, judged, timings, seconds)


@contextmanager
def _unwatched(name: str, steps: int) -> Iterator[Advance]:
    yield lambda done: None
