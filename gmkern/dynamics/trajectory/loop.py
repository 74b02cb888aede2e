"""The loop over steps in Python: learnt fields on any device, and the reference for potentials."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from gmkern.dynamics.trajectory import reference


@dataclass(frozen=True)
class Run:
    """What a trajectory needs besides its state and force: the same for every backend."""

    kind: int  # of the integrator
    coefficients: dict[str, Tensor]  # float64 [1] or [S]
    steps: int
    start_step: int
    record_every: int | None
    tick: Callable[[int], None]  # told of steps done
    log_prob: bool


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
    energy: Callable[[Tensor], Tensor] | None,
    start_time: float = 0.0,
    atoms: Tensor | None = None,
) -> Outcome:
    """Takes ``run.steps`` steps from (x, v); differentiable in whatever ``force`` is.

    ``atoms``, a mask that broadcasts to x, says which elements count in log-probabilities; None: all.
    """
    frames, energies = [], []
    over = None
    if run.log_prob:
        over = torch.ones((), dtype=torch.bool, device=x.device) if atoms is None else atoms
    forward = backward = x.new_zeros(x.shape[0], dtype=torch.float64)

    def record(x: Tensor) -> None:
        frames.append(x)
        if energy is not None:
            energies.append(energy(x))

    if run.record_every is not None:
        record(x)
    state = reference.State(x, torch.zeros_like(x) if v is None else v)
    for done in range(1, run.steps + 1):
        step = run.start_step + done - 1
        state = reference.advance(
            run.kind, state, force, noise, inverse_masses, run.coefficients, start_time, step, over
        )
        if state.forward is not None and state.backward is not None:
            forward, backward = forward + state.forward, backward + state.backward
        if run.record_every is not None and done % run.record_every == 0:
            record(state.x)
        run.tick(1)
    return Outcome(
        state.x,
        None if v is None else state.v,
        torch.stack(frames) if frames else None,
        torch.stack(energies) if energies else None,
        forward if run.log_prob else None,
        backward if run.log_prob else None,
    )
