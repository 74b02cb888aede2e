"""Public function: trajectories."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from gmkern import _validate
from gmkern._progress import bar
from gmkern.dynamics.egnn import EGNN
from gmkern.dynamics.fields import Potential, VectorField
from gmkern.dynamics.integrators import EULER_MARUYAMA, Integrator
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


class Trajectory(NamedTuple):
    """What :func:`simulate` gives; see there."""

    positions: Tensor
    velocities: Tensor | None
    frames: Tensor | None
    energies: Tensor | None
    log_prob_forward: Tensor | None
    log_prob_backward: Tensor | None


def simulate(
    field: Field,
    positions: Tensor | np.ndarray,
    *,
    integrator: Integrator,
    steps: int,
    velocities: Tensor | np.ndarray | None = None,
    masses: float | Tensor | np.ndarray | None = None,
    types: Tensor | np.ndarray | Sequence[int] | None = None,
    system_ptr: Tensor | np.ndarray | Sequence[int] | None = None,
    cell: Tensor | np.ndarray | None = None,
    pbc: bool | Sequence[bool] = False,
    seed: int | Tensor | None = None,
    sample_ids: Sequence[int] | np.ndarray | Tensor | None = None,
    start_step: int = 0,
    record_every: int | None = None,
    log_prob: bool = False,
    backward: str | Field = "same_drift",
    detach_path: bool = False,
    checkpoint_every: int | None = None,
    progress: bool = False,
    backend: str | None = None,
) -> Trajectory:
    """Many systems along a force field: all steps of all systems in one call.

    Parameters
    ----------
    field : a potential (see :func:`energy_and_forces`), an ``EGNN``, or a ``VectorField``.
    positions : float32 or float64, finite. Potentials and ``EGNN``: [S, N, D], S systems of N atoms; [N, D], one
        system, or ragged systems cut by ``system_ptr``. ``VectorField``: [S, ...], every leading row is a system
        ([B, D] vectors, [B, C, H, W] images).
    integrator : ``VelocityVerlet``, ``BAOAB``, ``EulerMaruyama``, ``Heun`` or ``RK4``; its numbers may be one a system
        ([S]) or a schedule ([steps, 1] or [steps, S]), whose row n is step n's.
    steps : how many steps (>= 0).
    velocities : of the shape of positions, for VelocityVerlet and BAOAB alone. None starts VelocityVerlet at rest, and
        BAOAB from the Maxwell-Boltzmann law of its temperature, drawn with ``seed``. A continued run (``start_step`` >
        0) must give them.
    masses : a number, or [N], [S, N] (a tensor that broadcasts to positions for a ``VectorField``); 1 without.
    types, system_ptr, cell, pbc : as in :func:`energy_and_forces`; not with a ``VectorField``. Positions are not
        wrapped into the box.
    seed : int, taken modulo 2^64, or an int64 tensor [] or [S]. May be left out only where no noise is drawn.
    sample_ids : who each system is: [S] int64 or int32, or a sequence or an array of ints from -2^63 to 2^63 - 1;
        0 to S - 1 without. The kick of system s at a step is
        ``gmkern.random.normal(seed, [id], step, n, stream=KICK)``, one number for each of its elements in their order.
    start_step : the number of the first step: a run of a + b steps is a run of a, then one of b with ``start_step=a``
        from where it stopped, to the bit.
    record_every : keep the positions and energies of each such step; None keeps none.
    log_prob : whether to give the path's log-probabilities, for BAOAB and EulerMaruyama whose noise is not 0.
    backward : the reversed process that ``log_prob_backward`` is of. For EulerMaruyama, with the step x to x', f at the
        step's end and T the variance noise^2 dt summed from the path's start: "same_drift", N(x; x' + f(x') dt, noise^2
        dt); "reversed", N(x; x' - f(x') dt, noise^2 dt); "brownian", N(x; x', noise^2 dt); "bridge", the Brownian
        bridge to where the path starts, N(x; x_0 + T/T' (x' - x_0), noise^2 dt T/T'), whose last step has
        log-probability 0; a field g (of any kind), N(x; x' + g(x') dt, noise^2 dt). For BAOAB
        "same_drift" alone: the kick of the reversed momenta, N(v; exp(-friction dt) v', ...).
    detach_path : with log_prob, for EulerMaruyama: hold the path fixed when log-probabilities are differentiated, as
        trajectory balance does. Positions and frames then carry no gradient.
    checkpoint_every : with gradients, the state of each such step is kept and the steps between are run again in the
        backward pass; None: about the square root of ``steps``; ``steps`` keeps everything, for speed.
    progress : whether to draw a bar, on a terminal alone (needs rich).
    backend : None, "cpu", "cuda", "triton" or "reference". Potentials: None takes the C++ kernels ("cpu"), on CUDA
        tensors the CUDA kernels ("cuda": 2 or 3 dimensions, up to 8 terms), and where those cannot serve the
        plain-PyTorch "reference". An ``EGNN`` runs as a Python loop around its compiled layers ("cpu", on CUDA tensors
        "triton") or the "reference". A ``VectorField`` runs as a Python loop around its module on any device, and the
        backend ("cpu", "triton" or "reference") is that of its noise.

    Returns
    -------
    Trajectory with

    * ``positions``: where the systems are after the last step, in the shape of the input;
    * ``velocities``: those of that time, or None for an integrator without;
    * ``frames`` [F, ...]: positions of F = 1 + steps // record_every steps, the start first; None without record_every;
    * ``energies`` [F, S]: the potential energy of each frame; None without record_every, for a ``VectorField`` and for
      an ``EGNN`` that is not conservative;
    * ``log_prob_forward``, ``log_prob_backward`` [S] float64: with log_prob, else None: the sums over the steps of the
      log densities of EulerMaruyama's steps, or of BAOAB's Ornstein-Uhlenbeck kicks, given the state that each step
      starts from (ends at, for backward). The density of the initial state is not in them.

    Raises
    ------
    TypeError, ValueError : naming the argument, what it got and what it takes.

    Warns
    -----
    RuntimeWarning : systems ended with positions that are not finite: two atoms met, or dt is too large. They stay NaN
        or inf from there, and only they.

    Notes
    -----
    Deterministic: a system's trajectory is the same bits alone or in any batch, order or thread count on "cpu".
    Differentiable, to positions, velocities and the field's parameters, from the states of ``checkpoint_every``: where
    gradients are wanted along a potential, the steps run as a Python loop around the compiled forces, whose path agrees
    with that of the compiled steps to rounding (with ``detach_path`` it is that path). Long runs go
    in slices of at most about half a second, so that Ctrl-C works. Not for CUDA graphs: it is driven from the host.

    Examples
    --------
    >>> import torch
    >>> from gmkern.dynamics import BAOAB, Harmonic, simulate
    >>> start = torch.zeros(4, 3, 2)
    >>> path = simulate(Harmonic(), start, integrator=BAOAB(0.1, 1.0, 1.0), steps=10, seed=0)
    >>> path.positions.shape
    torch.Size([4, 3, 2])
    """
    if not isinstance(field, (Potential, VectorField, EGNN)):
        raise _validate.bad("field", field, "a potential, an EGNN or a VectorField", error=TypeError)
    if not isinstance(integrator, Integrator):
        raise _validate.bad("integrator", integrator, "an integrator such as BAOAB(dt, ...)", error=TypeError)
    steps = _validate.integer("steps", steps, low=0)
    start_step = _validate.integer("start_step", start_step, low=0, high=LAST_STEP)
    if start_step + steps > LAST_STEP:
        raise _validate.bad("steps", str(steps), f"at most {LAST_STEP - start_step} from start_step {start_step}")
    if record_every is not None:
        record_every = _validate.integer("record_every", record_every, low=1)
    if checkpoint_every is not None:
        checkpoint_every = _validate.integer("checkpoint_every", checkpoint_every, low=1)
    log_prob, detach_path = _validate.flag("log_prob", log_prob), _validate.flag("detach_path", detach_path)
    if seed is None and integrator.is_random:
        raise ValueError(f"seed: got None; takes an int or an int64 tensor, as {type(integrator).__name__} draws noise")
    x = positions_of(positions, ndim=(2, 3) if isinstance(field, (Potential, EGNN)) else None)
    rows, models = systems_in(field, backward, x, types, system_ptr, cell, pbc, backend)
    start_time = 0.0 if isinstance(field, Potential) else field.start_time
    schedule = schedule_of(integrator, rows, start_step, steps, start_time, x.device)
    backward = check_backward(backward, integrator, start_step)
    if log_prob:
        check_log_prob(integrator, schedule)
    if detach_path and not (log_prob and integrator.kind == EULER_MARUYAMA):
        raise ValueError("detach_path: got True; takes it with log_prob=True and EulerMaruyama")
    seeds = _validate.seed(0 if seed is None else seed, x.device, rows=rows)
    ids = _validate.sample_ids(sample_ids, x.device, rows=rows)
    if velocities is not None and not integrator.has_velocities:
        raise ValueError(f"velocities: got some with {type(integrator).__name__}, which has none; leave them out")
    if velocities is None and integrator.has_velocities and start_step > 0:
        raise ValueError("velocities: got None with start_step > 0; takes those where the earlier run stopped")
    v = None
    if velocities is not None:
        v = positions_of(velocities, name="velocities", ndim=None)
        if v.shape != x.shape or v.dtype != x.dtype or v.device != x.device:
            raise _validate.bad("velocities", v, f"shape {list(x.shape)}, dtype and device of positions")

    with bar(progress, "simulate", steps) as show:
        run = Run(
            integrator.kind, schedule, steps, start_step, record_every, show, log_prob, detach_path=detach_path,
            checkpoint_every=checkpoint_every,
        )  # fmt: skip
        start = Start(x, v, integrator, masses, seeds, ids)
        outcome = follow(field, models, start, run, backward if log_prob else None, backend)
    lost = ~torch.isfinite(outcome.x.detach()).all()
    if bool(lost):
        warnings.warn(
            "simulate: systems ended with positions that are not finite (atoms that met, or dt too large)",
            RuntimeWarning,
            stacklevel=2,
        )
    final_x, final_v = outcome.x, outcome.v
    if steps == 0:  # the caller's own tensors otherwise
        final_x, final_v = final_x.clone(), None if final_v is None else final_v.clone()
    return Trajectory(final_x, final_v, outcome.frames, outcome.energies, outcome.forward, outcome.backward)
