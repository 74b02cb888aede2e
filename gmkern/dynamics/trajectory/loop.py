"""The loop over steps in Python: learnt fields on any device, and the reference for potentials."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from gmkern.dynamics.trajectory import reference
from gmkern.dynamics.trajectory.densities import BRIDGE, Backward
from gmkern.dynamics.trajectory.schedule import Schedule


@dataclass(frozen=True)
class Run:
    """What a trajectory needs besides its state and force: the same for every backend."""

    kind: int  # of the integrator
    schedule: Schedule
    steps: int
    start_step: int
    record_every: int | None
    show: Callable[[int], None]  # told how many steps are done
    log_prob: bool
    backward: Backward = field(default_factory=Backward)  # the reversed step, with log_prob
    detach_path: bool = False
    checkpoint_every: int | None = None


@dataclass(frozen=True)
class Outcome:
    """The last state, and what was recorded: frame 0 is the state at the start."""

    x: Tensor
    v: Tensor | None
    frames: Tensor | None  # [F, *x.shape]
    energies: Tensor | None  # [F, S]
    forward: Tensor | None  # [S] float64, with log_prob
    backward: Tensor | None


def loop(
    run: Run,
    x: Tensor,
    v: Tensor | None,
    inverse_masses: Tensor,
    force: reference.Force,
    noise: reference.Noise,
    energy: reference.Force | None,
    atoms: Tensor | None = None,
    path: Tensor | None = None,
    kernels: reference.Kernels = reference.IN_PYTORCH,
) -> Outcome:
    """Takes ``run.steps`` steps from (x, v), or along ``path`` [steps + 1, *x.shape]; differentiable in whatever
    ``force`` is, the steps between two checkpoints being run again in the backward pass.

    ``energy`` is of positions [S, ...] at times [S], as ``force`` is. ``atoms``, a mask that broadcasts to x, says
    which elements count in log-probabilities; None: all.
    """
    density = None
    if run.log_prob:
        over = torch.ones((), dtype=torch.bool, device=x.device) if atoms is None else atoms
        density = reference.PathDensity(over, run.backward, run.detach_path)
    if run.detach_path:
        x = x.detach()
    ratios = None if run.backward.kind != BRIDGE else run.schedule.bridge
    none = x.new_zeros(x.shape[0], dtype=torch.float64)

    def segment(state: reference.State, done: int, stop: int) -> tuple[reference.State, list[Tensor], list[Tensor]]:
        """Steps done + 1 to stop of the run; its log-probabilities so far are in the state."""
        frames, energies = [], []
        for taken in range(done, stop):
            number = run.start_step + taken
            step = reference.Step(
                number,
                run.schedule.at(number),
                lambda fraction, number=number: run.schedule.time(number, fraction),  # type: ignore[misc]
                None if ratios is None else ratios[taken],
            )
            to = None if path is None else path[taken + 1]
            forward, backward = state.forward, state.backward
            state = reference.advance(run.kind, state, force, noise, inverse_masses, step, density, to, kernels)
            if density is not None:
                state = state._replace(forward=_sum(forward, state.forward), backward=_sum(backward, state.backward))
            if run.record_every is not None and (taken + 1) % run.record_every == 0:
                frames.append(state.x)
                if energy is not None:
                    energies.append(energy(state.x, step.time(1).to(x.dtype).expand(x.shape[0])))
        return state, frames, energies

    state = reference.State(x, torch.zeros_like(x) if v is None else v, None, none, none)
    frames, energies = [], []
    if run.record_every is not None:
        frames.append(x)
        if energy is not None:
            energies.append(energy(x, run.schedule.time(run.start_step, 0).to(x.dtype).expand(x.shape[0])))
    every = run.checkpoint_every or math.isqrt(max(run.steps - 1, 0)) + 1
    again = torch.is_grad_enabled() and every < run.steps
    every = every if again else 1  # else a step at a time, for Ctrl-C and the bar
    for done in range(0, run.steps, every):
        stop = min(done + every, run.steps)
        if again:
            state, more, their = checkpoint(segment, state, done, stop, use_reentrant=False)
        else:
            state, more, their = segment(state, done, stop)
        frames += more
        energies += their
        run.show(stop)
    return Outcome(
        state.x,
        None if v is None else state.v,
        torch.stack(frames) if frames else None,
        torch.stack(energies) if energies else None,
        state.forward if run.log_prob else None,
        state.backward if run.log_prob else None,
    )


def _sum(a: Tensor | None, b: Tensor | None) -> Tensor:
    assert a is not None
    assert b is not None
    return a + b
