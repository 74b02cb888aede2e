"""The time of each process beside that of the plain-PyTorch reference: same input, same run, taking turns."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from gmkern import _validate
from gmkern.demo.processes import PROCESSES
from gmkern.demo.training import Advance
from gmkern.dynamics import BAOAB, LennardJones, simulate
from gmkern.neighbors import knn

ROUNDS = 3
DRAWN = 10_000
"""Images that a process's time is for."""
LOOKS = (len(PROCESSES) + 2) * ROUNDS * 2
"""How often :func:`compare` reports progress."""


class Timing(NamedTuple):
    """One case: medians in seconds, and whether the two gave the same answer."""

    name: str
    """The process or hot path, and which of its cases."""
    case: str
    kernel: float
    reference: float
    check: str
    agrees: bool

    @property
    def speedup(self) -> float | None:
        """How many times faster the kernel was; None where the answers differ, for then it means nothing."""
        return self.reference / self.kernel if self.agrees else None


def compare(
    models: Sequence[Any], drawn: Tensor, train: Tensor, *, seed: int, steps: int, timed: float, advance: Advance
) -> list[Timing]:
    """Times each of PROCESSES with its model, neighbours of ``drawn``, and ``steps`` of Lennard-Jones clusters.

    A process draws ``timed`` times as many images as it says, and its time is scaled to :data:`DRAWN`.
    """
    found = []
    for process, model in zip(PROCESSES, models, strict=True):
        n = max(5, int(process.timed * timed))

        def call(backend: str | None, process: Any = process, model: Any = model, n: int = n) -> Tensor:
            return process.draw(model, n, seed=seed, backend=backend)

        def check(ours: Tensor, theirs: Tensor, process: Any = process) -> tuple[str, bool]:
            return _same("images", ours, theirs, at_least=process.at_least)

        kernel, reference, text, agrees = _race(call, check, advance)
        scale = DRAWN / n
        case = f"by {process.path}" + ("" if n == DRAWN else f", from {n:,} images")
        found.append(Timing(process.name, case, kernel * scale, reference * scale, text, agrees))
    queries, references, clusters = drawn.float(), train.float(), _clusters(seed)
    baoab = BAOAB(dt=0.005, temperature=0.3, friction=1.0)
    found.append(
        Timing(
            "neighbours",
            f"nearest of {len(train):,} images to each of {len(drawn):,}",
            *_race(
                lambda backend: knn(queries, references, 1, backend=backend),
                lambda ours, theirs: _same("neighbours", ours.indices, theirs.indices, at_least=1.0),
                advance,
            ),
        )
    )
    found.append(
        Timing(
            "Lennard-Jones",
            f"{clusters.shape[0]} clusters of {clusters.shape[1]} atoms, {steps} BAOAB steps",
            *_race(
                lambda backend: (
                    simulate(
                        LennardJones(), clusters, integrator=baoab, steps=steps, seed=seed, backend=backend
                    ).positions
                ),
                _close,
                advance,
            ),
        )
    )
    return found


def _race(
    call: Callable[[str | None], Any], check: Callable[[Any, Any], tuple[str, bool]], advance: Advance
) -> tuple[float, float, str, bool]:
    """Median seconds of the kernel and of the reference, taking turns; their answers compared."""
    call(None)  # the first call of a kernel packs weights and starts threads
    seconds: dict[str | None, list[float]] = {None: [], "reference": []}
    answers: dict[str | None, Any] = {}
    for _ in range(ROUNDS):
        for backend, taken in seconds.items():
            start = time.perf_counter()
            answers[backend] = call(backend)
            taken.append(time.perf_counter() - start)
            advance(1)
    text, agrees = check(answers[None], answers["reference"])
    return statistics.median(seconds[None]), statistics.median(seconds["reference"]), text, agrees


def _same(what: str, ours: Tensor, theirs: Tensor, *, at_least: float) -> tuple[str, bool]:
    equal = (ours == theirs).flatten(1).all(1)
    share = float(equal.double().mean())
    text = f"all {what} equal" if share == 1.0 else f"{int(equal.sum()):,} of {len(equal):,} {what} equal"
    return text, share >= at_least


def _close(ours: Tensor, theirs: Tensor) -> tuple[str, bool]:
    # fp32 rounding, about 1e-7 a step, grows with the atoms' chaos: e-fold in about one unit of time, 200 steps.
    gap = float((ours - theirs).abs().max())
    return "all positions equal" if gap == 0 else f"positions equal to {gap:.0e}", gap < 1e-3


def _clusters(seed: int, systems: int = 64, side: int = 3) -> Tensor:
    """``systems`` cubes of side³ atoms [S, N, 3] near the distance of least energy, each shaken in its own way."""
    axis = torch.arange(side, dtype=torch.float32) * 1.12
    lattice = torch.cartesian_prod(axis, axis, axis)
    generator = torch.Generator().manual_seed(int(_validate.seed(seed, torch.device("cpu"))))
    return lattice + 0.02 * torch.randn(systems, *lattice.shape, generator=generator)
