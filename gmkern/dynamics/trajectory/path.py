"""Public function: log-probabilities of stored paths."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from gmkern import _validate
from gmkern._progress import bar
from gmkern.dynamics.egnn import EGNN
from gmkern.dynamics.fields import Potential, VectorField
from gmkern.dynamics.integrators import EulerMaruyama
from gmkern.dynamics.systems import positions_of
from gmkern.dynamics.trajectory.follow import (
    LAST_STEP,
    Field,
    Start,
    check_backward,
    check_log_prob,
    follow,
    systems_in,
)
from gmkern.dynamics.trajectory.loop import Run
from gmkern.dynamics.trajectory.schedule import schedule_of


class PathLogProb(NamedTuple):
    """What :func:`path_log_prob` gives; see there."""

    forward: Tensor
    backward: Tensor


def path_log_prob(
    field: Field,
    frames: Tensor | np.ndarray,
    *,
    integrator: EulerMaruyama,
    backward: str | Field = "same_drift",
    types: Tensor | np.ndarray | Sequence[int] | None = None,
    system_ptr: Tensor | np.ndarray | Sequence[int] | None = None,
    cell: Tensor | np.ndarray | None = None,
    pbc: bool | Sequence[bool] = False,
    start_step: int = 0,
    checkpoint_every: int | None = None,
    progress: bool = False,
    backend: str | None = None,
) -> PathLogProb:
    """Log-probabilities of paths that :func:`simulate` recorded: its own values, for replay buffers and other fields.

    Parameters
    ----------
    field, integrator, backward, types, system_ptr, cell, pbc : as in :func:`simulate`. The integrator is an
        ``EulerMaruyama`` (the kicks of BAOAB cannot be read off positions), whose noise is not 0.
    frames : every state of the path, [F, *positions.shape], as ``simulate(..., record_every=1).frames``: F - 1 steps.
    start_step : the number of the path's first step, for fields and schedules that change with time.
    checkpoint_every : as in :func:`simulate`.
    progress : whether to draw a bar, on a terminal alone (needs rich).
    backend : as in :func:`simulate`.

    Returns
    -------
    PathLogProb(forward [S], backward [S]), float64: sums over the steps, without the densities of the two ends.

    Raises
    ------
    TypeError, ValueError : naming the argument, what it got and what it takes.

    Notes
    -----
    With the same field, integrator, shapes, dtype and backend the values are those of ``simulate(..., log_prob=True)``
    to the bit (to rounding, where that call differentiates a moving path along a potential). Differentiable at fixed
    states, and in the frames where they require grad: around a ``VectorField`` as it stands, with a potential once (the
    reference without limit). Not for CUDA graphs: it is driven from the host.

    Examples
    --------
    >>> import torch
    >>> from gmkern.dynamics import EulerMaruyama, Harmonic, path_log_prob, simulate
    >>> law = {"integrator": EulerMaruyama(0.1, 1.0), "backward": "bridge"}
    >>> path = simulate(Harmonic(), torch.zeros(4, 1, 2), steps=5, seed=0, record_every=1, log_prob=True, **law)
    >>> again = path_log_prob(Harmonic(), path.frames, **law)
    >>> torch.equal(again.forward, path.log_prob_forward), torch.equal(again.backward, path.log_prob_backward)
    (True, True)
    """
    if not isinstance(field, (Potential, VectorField, EGNN)):
        raise _validate.bad("field", field, "a potential, an EGNN or a VectorField", error=TypeError)
    if not isinstance(integrator, EulerMaruyama):
        raise _validate.bad("integrator", integrator, "EulerMaruyama(dt, noise)", error=TypeError)
    path = positions_of(frames, name="frames", ndim=(3, 4) if isinstance(field, (Potential, EGNN)) else None)
    if path.ndim < 2 or path.shape[0] == 0:
        raise _validate.bad("frames", path, "[steps + 1, *positions.shape], one frame or more")
    steps = path.shape[0] - 1
    start_step = _validate.integer("start_step", start_step, low=0, high=LAST_STEP - steps)
    if checkpoint_every is not None:
        checkpoint_every = _validate.integer("checkpoint_every", checkpoint_every, low=1)
    x = path[0]
    rows, models = systems_in(field, backward, x, types, system_ptr, cell, pbc, backend)
    start_time = 0.0 if isinstance(field, Potential) else field.start_time
    schedule = schedule_of(integrator, rows, start_step, steps, start_time, x.device)
    backward = check_backward(backward, integrator, start_step)
    check_log_prob(integrator, schedule)
    none = torch.zeros(rows, dtype=torch.int64, device=x.device)  # no noise is drawn
    with bar(progress, "score", steps) as show:
        run = Run(
            integrator.kind, schedule, steps, start_step, None, show, True, checkpoint_every=checkpoint_every
        )  # fmt: skip
        outcome = follow(field, models, Start(x, None, integrator, None, none, none), run, backward, backend, path)
    assert outcome.forward is not None  # log_prob is set
    assert outcome.backward is not None
    return PathLogProb(outcome.forward, outcome.backward)
