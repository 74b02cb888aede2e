"""Compiled trajectories in slices: short enough for Ctrl-C and a progress bar, and without a trace in the result."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import Tensor

from gmkern.dynamics.systems import Model, Systems
from gmkern.dynamics.trajectory.densities import BRIDGE
from gmkern.dynamics.trajectory.loop import Outcome, Run

_SLICE_SECONDS = 0.25
_FIRST_PAIRS = 10_000_000  # work of the first slice, when the speed is not known yet


def sliced(
    op: Callable[..., tuple[Tensor, Tensor, Tensor, Tensor, Tensor]],
    run: Run,
    x: Tensor,
    v: Tensor | None,
    first_energy: Tensor | None,
    inverse_masses: Tensor,
    model: Model,
    seed: Tensor,
    sample_ids: Tensor,
) -> Outcome:
    """Runs ``op`` (gmkern::simulate) slice after slice on x, v [M, D]; ``first_energy`` [S] is that of frame 0."""
    systems = model.systems
    state, speeds = x, torch.zeros_like(x) if v is None else v
    coefficients = run.schedule.table(run.backward.kind == BRIDGE)
    pin = x[:0] if run.backward.pin is None else run.backward.pin
    every = run.record_every or 0
    frames = energies = None
    if first_energy is not None:
        count = 1 + run.steps // every
        frames = x.new_empty((count, *x.shape))
        energies = x.new_empty((count, systems.count))
        frames[0], energies[0] = x, first_energy
    log_probs = torch.zeros((2, systems.count if run.log_prob else 0), dtype=torch.float64, device=x.device)
    done, kept = 0, 1
    length = _first_length(systems)
    while done < run.steps:
        length = min(length, run.steps - done)
        began = time.perf_counter()
        step = torch.tensor(run.start_step + done, dtype=torch.int64, device=x.device)
        state, speeds, new_frames, new_energies, log_probs = op(
            state, speeds, inverse_masses, *model.arguments, run.kind,
            _rows(coefficients, done, length), seed, sample_ids, step, length, every, done, systems.largest, log_probs,
            run.backward.kind, pin,
        )  # fmt: skip
        if frames is not None and energies is not None:
            more = kept + new_frames.shape[0]
            frames[kept:more], energies[kept:more] = new_frames, new_energies
            kept = more
        if x.is_cuda:
            torch.cuda.synchronize(x.device)  # else the queue would outrun Ctrl-C
        done += length
        run.show(done)
        length = _next_length(length, time.perf_counter() - began)
    return Outcome(
        state, None if v is None else speeds, frames, energies, *(log_probs if run.log_prob else (None, None))
    )


def scored(
    op: Callable[..., Tensor],
    run: Run,
    frames: Tensor,
    model: Model,
) -> Outcome:
    """Runs ``op`` (gmkern::path_log_prob) slice after slice along frames [steps + 1, M, D]."""
    systems = model.systems
    coefficients = run.schedule.table(run.backward.kind == BRIDGE)
    pin = frames[0, :0] if run.backward.pin is None else run.backward.pin
    log_probs = torch.zeros((2, systems.count), dtype=torch.float64, device=frames.device)
    done, length = 0, _first_length(systems)
    while done < run.steps:
        length = min(length, run.steps - done)
        began = time.perf_counter()
        log_probs = op(
            frames[done : done + length + 1], *model.arguments,
            _rows(coefficients, done, length), systems.largest, log_probs, run.backward.kind, pin,
        )  # fmt: skip
        if frames.is_cuda:
            torch.cuda.synchronize(frames.device)  # as above
        done += length
        run.show(done)
        length = _next_length(length, time.perf_counter() - began)
    return Outcome(frames[-1], None, None, None, *log_probs)


def _rows(coefficients: Tensor, done: int, length: int) -> Tensor:
    return coefficients if coefficients.shape[0] == 1 else coefficients[done : done + length]


def _first_length(systems: Systems) -> int:
    return max(1, _FIRST_PAIRS // max(1, systems.atoms * systems.largest))


def _next_length(length: int, took: float) -> int:
    return max(1, int(length * min(8.0, _SLICE_SECONDS / max(took, 1e-6))))
