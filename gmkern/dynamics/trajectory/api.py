"""Public function: trajectories."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from gmkern import _backend, _validate
from gmkern import random as noise_contract
from gmkern.dynamics.energy import ops as energy_ops
from gmkern.dynamics.energy import reference as energy_reference
from gmkern.dynamics.energy.api import why_not_compiled
from gmkern.dynamics.fields import Field, Potential, VectorField, packed
from gmkern.dynamics.integrators import (
    BAOAB,
    BAOAB_KIND,
    EULER_MARUYAMA,
    VELOCITY_VERLET,
    Integrator,
    per_system,
)
from gmkern.dynamics.systems import Box, Systems, box_of, masses_of, positions_of, systems_of
from gmkern.dynamics.trajectory import ops
from gmkern.dynamics.trajectory import progress as progress_bar
from gmkern.dynamics.trajectory.loop import Outcome, Run, loop
from gmkern.dynamics.trajectory.reference import Noise
from gmkern.dynamics.trajectory.slices import sliced

_LAST_STEP = (1 << 32) - 1  # of the noise contract; never a step of a run: its noise starts BAOAB's velocities


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
    system_ptr: Tensor | np.ndarray | Sequence[int] | None = None,
    cell: Tensor | np.ndarray | None = None,
    pbc: bool | Sequence[bool] = False,
    seed: int | Tensor | None = None,
    sample_ids: Sequence[int] | np.ndarray | Tensor | None = None,
    start_step: int = 0,
    record_every: int | None = None,
    log_prob: bool = False,
    backward: str = "same_drift",
    progress: bool = False,
    backend: str | None = None,
) -> Trajectory:
    """Many systems along a force field: all steps of all systems in one call.

    Parameters
    ----------
    field : a potential (``LennardJones``, ``Harmonic``, sums of them), or a ``VectorField``.
    positions : float32 or float64, finite. Potentials: [S, N, D], S systems of N atoms; [N, D], one system, or ragged
        systems cut by ``system_ptr``. ``VectorField``: [S, ...], every leading row is a system ([B, D] vectors, [B, C,
        H, W] images).
    integrator : ``VelocityVerlet``, ``BAOAB``, ``EulerMaruyama``, ``Heun`` or ``RK4``; its numbers may be one a system.
    steps : how many steps (>= 0).
    velocities : of the shape of positions, for VelocityVerlet and BAOAB alone. None starts VelocityVerlet at rest, and
        BAOAB from the Maxwell-Boltzmann law of its temperature, drawn with ``seed``. A continued run (``start_step`` >
        0) must give them.
    masses : a number, or [N], [S, N] (a tensor that broadcasts to positions for a ``VectorField``); 1 without.
    system_ptr, cell, pbc : as in :func:`energy_and_forces`; potentials alone. Positions are not wrapped into the box.
    seed : int, taken modulo 2^64, or an int64 tensor [] or [S]. May be left out only where no noise is drawn.
    sample_ids : who each system is, ints [S]; 0 to S - 1 without. The kick of system s at a step is
        ``gmkern.random.normal(seed, [id], step, n, stream=KICK)``, one number for each of its elements in their order.
    start_step : the number of the first step: a run of a + b steps is a run of a, then one of b with ``start_step=a``
        from where it stopped, to the bit.
    record_every : keep the positions and energies of each such step; None keeps none.
    log_prob : whether to give the path's log-probabilities, for BAOAB and EulerMaruyama whose noise is not 0.
    backward : the reversed process that ``log_prob_backward`` is of: "same_drift", the integrator's own step taken from
        the end of each step to its start: N(x; x' + f(x') dt, noise^2 dt) for EulerMaruyama, and for BAOAB the kick of
        the reversed momenta, N(v; exp(-friction dt) v', ...).
    progress : whether to draw a bar (needs rich).
    backend : None, "cpu", "cuda" or "reference". Potentials: None takes the C++ kernels ("cpu"), on CUDA tensors the
        CUDA kernel ("cuda": VelocityVerlet, BAOAB and EulerMaruyama in 2 or 3 dimensions, systems that fit a block's
        shared memory, thousands of atoms), and where those cannot serve the plain-PyTorch "reference". A
        ``VectorField`` runs as a Python loop around its module on any device, and the backend ("cpu", "triton" or
        "reference") is that of its noise.

    Returns
    -------
    Trajectory
        positions : where the systems are after the last step, in the shape of the input.
        velocities : those of that time, or None for an integrator without.
        frames : [F, *positions.shape], F = 1 + steps // record_every, frame 0 being the start; None without
            record_every.
        energies : [F, S], the potential energy of each frame; None without record_every or for a ``VectorField``.
        log_prob_forward, log_prob_backward : [S] float64, with log_prob, else None: the sums over the steps of the log
            densities of EulerMaruyama's steps, or of BAOAB's Ornstein-Uhlenbeck kicks, given the state that each step
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
    Differentiable: through a ``VectorField`` by autograd (to positions, velocities and the module's parameters);
    through a potential with ``backend="reference"``. Long runs go in slices of at most about half a second, so that
    Ctrl-C works. Not for CUDA graphs: it is driven from the host.

    Examples
    --------
    >>> import torch
    >>> from gmkern.dynamics import BAOAB, Harmonic, simulate
    >>> start = torch.zeros(4, 3, 2)
    >>> path = simulate(Harmonic(), start, integrator=BAOAB(0.1, 1.0, 1.0), steps=10, seed=0)
    >>> path.positions.shape
    torch.Size([4, 3, 2])
    """
    if not isinstance(field, (Potential, VectorField)):
        raise _validate.bad("field", field, "a potential or a VectorField", error=TypeError)
    if not isinstance(integrator, Integrator):
        raise _validate.bad("integrator", integrator, "an integrator such as BAOAB(dt, ...)", error=TypeError)
    steps = _validate.integer("steps", steps, low=0)
    start_step = _validate.integer("start_step", start_step, low=0, high=_LAST_STEP)
    if start_step + steps > _LAST_STEP:
        raise _validate.bad("steps", str(steps), f"at most {_LAST_STEP - start_step} from start_step {start_step}")
    if record_every is not None:
        record_every = _validate.integer("record_every", record_every, low=1)
    if seed is None and integrator.is_random:
        raise ValueError(f"seed: got None; takes an int or an int64 tensor, as {type(integrator).__name__} draws noise")
    if isinstance(field, Potential):
        x = positions_of(positions)
        systems = systems_of(x, system_ptr)
        rows = systems.count
    else:
        x = positions_of(positions, ndim=None)
        if x.ndim == 0:
            raise _validate.bad("positions", x, "at least one dimension, whose rows are systems")
        given = {"system_ptr": system_ptr is not None, "cell": cell is not None, "pbc": pbc is not False}
        for name, there in given.items():
            if there:
                raise ValueError(f"{name}: got one with a VectorField, whose leading rows are systems; leave it out")
        rows = x.shape[0]

    names = [f.name for f in dataclasses.fields(integrator)]  # type: ignore[arg-type]
    backward = _validate.one_of("backward", backward, ("same_drift",))
    coefficients = {name: per_system(name, getattr(integrator, name), rows, x.device) for name in names}
    if log_prob:
        _check_log_prob(integrator, coefficients)
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

    with progress_bar.bar(progress, steps) as tick:
        run = Run(integrator.kind, coefficients, steps, start_step, record_every, tick, log_prob)
        if isinstance(field, VectorField):
            outcome = _follow_module(field, x, v, integrator, masses, seeds, ids, run, backend)
        else:
            box = box_of(cell, pbc, systems, field, x.device)
            outcome = _follow_potential(field, x, v, integrator, masses, seeds, ids, run, backend, systems, box)
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


def _follow_module(
    field: VectorField,
    x: Tensor,
    v: Tensor | None,
    integrator: Integrator,
    masses: float | Tensor | np.ndarray | None,
    seeds: Tensor,
    ids: Tensor,
    run: Run,
    backend: str | None,
) -> Outcome:
    chosen = _backend.choose(
        "simulate",
        backend,
        [("cpu", _backend.on_cpu(x.device)), ("triton", _backend.on_triton(x.device)), ("reference", None)],
    )
    if masses is None or not isinstance(masses, (Tensor, np.ndarray)):
        m = torch.tensor(1.0 if masses is None else _validate.number("masses", masses, above=0.0))
    else:
        m = _validate.tensor("masses", masses).detach()
    m = m.to(device=x.device, dtype=x.dtype)
    fits = m.ndim <= x.ndim and all(a in (1, b) for a, b in zip(m.shape[::-1], x.shape[::-1], strict=False))
    if not fits or not bool((torch.isfinite(m) & (m > 0)).all()):
        raise _validate.bad("masses", m, f"positive finite numbers that broadcast to positions {list(x.shape)}")
    elements = x[0].numel() if x.shape[0] else 0

    def noise(step: int) -> Tensor:
        return noise_contract.normal(
            seeds, ids, step, elements, stream=noise_contract.KICK, dtype=x.dtype, device=x.device, backend=chosen
        ).reshape(x.shape)

    inverse_masses = 1.0 / m
    v = _starting_velocities(x, v, integrator, run, noise, inverse_masses)
    return loop(run, x, v, inverse_masses, field, noise, None, field.start_time)


def _follow_potential(
    field: Potential,
    x: Tensor,
    v: Tensor | None,
    integrator: Integrator,
    masses: float | Tensor | np.ndarray | None,
    seeds: Tensor,
    ids: Tensor,
    run: Run,
    backend: str | None,
    systems: Systems,
    box: Box,
) -> Outcome:
    kinds, parameters = packed(field, systems.dim, x.device)
    inverse_masses = 1.0 / masses_of(masses, systems, x)
    if backend != "reference":
        _validate.no_tangents("simulate", x, parameters, *(() if v is None else (v,)))
    trained = [name for name, t in (("positions", x), ("velocities", v), ("field", parameters))
               if t is not None and t.requires_grad and torch.is_grad_enabled()]  # fmt: skip
    if trained and backend is None:
        raise ValueError(
            f'simulate: {trained[0]} requires grad; pass backend="reference", which is differentiable, or call under '
            "torch.no_grad()"
        )
    why_not = f"has no gradient, and {trained[0]} requires grad" if trained else None
    why_not = why_not or why_not_compiled(kinds, parameters, systems.dim)
    on_cuda = _backend.on_cuda(x.device) or why_not or _why_not_cuda(integrator, run.log_prob, systems, x)
    chosen = _backend.choose(
        "simulate",
        backend,
        [("cpu", _backend.on_cpu(x.device) or why_not), ("cuda", on_cuda), ("reference", None)],
    )
    n = systems.largest * systems.dim

    def noise(step: int) -> Tensor:  # a row's elements do not depend on how many are drawn: padding changes nothing
        draws = noise_contract.normal(seeds, ids, step, n, stream=noise_contract.KICK, dtype=x.dtype, device=x.device)
        return draws.reshape(systems.count, systems.largest, systems.dim)

    each = systems.padded(inverse_masses.reshape(*systems.shape[:-1], 1).expand(systems.shape))
    start = systems.padded(x)
    v = None if v is None else systems.padded(v)
    v = _starting_velocities(start, v, integrator, run, noise, each)
    mask = systems.mask()

    def evaluate(x: Tensor) -> tuple[Tensor, Tensor]:
        return energy_reference.energy_and_forces(x, mask, kinds, parameters, box.cell, box.inverse)

    if chosen == "reference":
        out = loop(
            run, start, v, each, lambda x, t: evaluate(x)[1], noise, lambda x: evaluate(x)[0], atoms=mask[..., None]
        )
        shaped = systems.unpadded
    else:
        flat = systems.flat(x)
        first_energy = None
        if run.record_every and chosen == "cpu":
            first_energy = energy_ops.energy_and_forces(flat, systems.ptr, kinds, parameters, box.cell, box.inverse)[0]
        elif run.record_every:  # energies alone have no CUDA kernel
            first_energy = evaluate(start)[0]
        flat_v = None if v is None else systems.flat(systems.unpadded(v))
        out = sliced(
            ops.simulate, run, flat, flat_v, first_energy, inverse_masses, systems, kinds, parameters, box, seeds, ids
        )

        def shaped(x: Tensor) -> Tensor:
            return x.reshape(*x.shape[:-2], *systems.shape)

    return Outcome(
        shaped(out.x),
        None if out.v is None else shaped(out.v),
        None if out.frames is None else shaped(out.frames),
        out.energies,
        out.forward,
        out.backward,
    )


def _check_log_prob(integrator: Integrator, coefficients: dict[str, Tensor]) -> None:
    if integrator.kind not in (BAOAB_KIND, EULER_MARUYAMA):
        raise ValueError(f"log_prob: got True with {type(integrator).__name__}, which draws no noise")
    needed = ("temperature", "friction") if integrator.kind == BAOAB_KIND else ("noise",)
    for name in needed:
        if bool((coefficients[name] == 0).any()):
            raise ValueError(f"log_prob: got True with {name} 0, where a step has no density")


def _why_not_cuda(integrator: Integrator, log_prob: bool, systems: Systems, x: Tensor) -> str | None:
    """Why the CUDA kernel cannot serve this call on x's device, or None."""
    if integrator.kind not in (VELOCITY_VERLET, BAOAB_KIND, EULER_MARUYAMA):
        return f"takes VelocityVerlet, BAOAB and EulerMaruyama, got {type(integrator).__name__}"
    if log_prob:
        return "gives no log-probabilities"
    if systems.dim not in (2, 3):
        return f"takes positions of dimension 2 or 3, got {systems.dim}"
    # four arrays of a system live in a block's shared memory, beside 4 KiB of sums and constants
    properties = torch.cuda.get_device_properties(x.device)
    room = getattr(properties, "shared_memory_per_block_optin", properties.shared_memory_per_block) - 4096
    most = room // (4 * systems.dim * x.element_size()) - 4
    return None if systems.largest <= most else f"takes systems of up to {most} atoms here, got {systems.largest}"


def _starting_velocities(
    x: Tensor, v: Tensor | None, integrator: Integrator, run: Run, noise: Noise, inverse_masses: Tensor
) -> Tensor | None:
    """The velocities given, or those of the docstring; None for an integrator without."""
    if v is not None or not integrator.has_velocities:
        return v
    if not isinstance(integrator, BAOAB):
        return torch.zeros_like(x)
    temperature = run.coefficients["temperature"].reshape(-1, *[1] * (x.ndim - 1))
    return torch.sqrt(temperature).to(x.dtype) * torch.sqrt(inverse_masses) * noise(_LAST_STEP)
