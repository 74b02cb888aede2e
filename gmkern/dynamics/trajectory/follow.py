"""Who runs a call: the compiled ops, or the loop in Python around a module or the reference."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from gmkern import _backend, _validate
from gmkern import random as noise_contract
from gmkern.dynamics.energy import ops as energy_ops
from gmkern.dynamics.energy import reference as energy_reference
from gmkern.dynamics.energy.api import energy_and_forces, why_not_compiled
from gmkern.dynamics.fields import Field, Potential, VectorField, packed
from gmkern.dynamics.integrators import BAOAB, BAOAB_KIND, EULER_MARUYAMA, VELOCITY_VERLET, Integrator
from gmkern.dynamics.systems import Box, Systems, box_of, masses_of, no_gradient, systems_of
from gmkern.dynamics.trajectory import ops
from gmkern.dynamics.trajectory.densities import BRIDGE, KINDS, SAME_DRIFT, Backward, Force
from gmkern.dynamics.trajectory.loop import Outcome, Run, loop
from gmkern.dynamics.trajectory.reference import Noise
from gmkern.dynamics.trajectory.schedule import Schedule
from gmkern.dynamics.trajectory.slices import scored, sliced

LAST_STEP = (1 << 32) - 1  # of the noise contract; never a step of a run: its noise starts BAOAB's velocities


def systems_in(
    field: Field,
    backward: str | Field,
    x: Tensor,
    system_ptr: Tensor | np.ndarray | Sequence[int] | None,
    cell: Tensor | np.ndarray | None,
    pbc: bool | Sequence[bool],
) -> tuple[int, Systems, Box]:
    """How many systems ``x`` holds; with a potential their rows and boxes too (an empty batch's around a module)."""
    if isinstance(field, Potential):
        systems = systems_of(x, system_ptr)
        if isinstance(backward, Potential):  # its cutoffs must fit too
            box_of(cell, pbc, systems, backward, x.device)
        return systems.count, systems, box_of(cell, pbc, systems, field, x.device)
    if x.ndim == 0:
        raise _validate.bad("positions", x, "at least one dimension, whose rows are systems")
    given = {"system_ptr": system_ptr is not None, "cell": cell is not None, "pbc": pbc is not False}
    for name, there in given.items():
        if there:
            raise ValueError(f"{name}: got one with a VectorField, whose leading rows are systems; leave it out")
    none = torch.empty(0, 1, 1, dtype=torch.float64, device=x.device)
    return x.shape[0], systems_of(x.new_empty(0, 0, 1), None), Box(none, none)


def follow_module(
    field: VectorField,
    x: Tensor,
    v: Tensor | None,
    integrator: Integrator,
    masses: float | Tensor | np.ndarray | None,
    seeds: Tensor,
    ids: Tensor,
    run: Run,
    backward: str | Field | None,
    backend: str | None,
    path: Tensor | None = None,
) -> Outcome:
    """A trajectory around a module, or the log-probabilities of ``path`` [steps + 1, *x.shape]."""
    op = "simulate" if path is None else "path_log_prob"
    chosen = _backend.choose(
        op,
        backend,
        [("cpu", _backend.on_cpu(x.device)), ("triton", _backend.on_triton(x.device)), ("reference", None)],
    )
    if masses is None or not isinstance(masses, (Tensor, np.ndarray)):
        m = torch.tensor(1.0 if masses is None else _validate.number("masses", masses, above=0.0))
    else:
        m = _validate.tensor("masses", masses)
        no_gradient("masses", m)
    m = m.to(device=x.device, dtype=x.dtype)
    fits = m.ndim <= x.ndim and all(a in (1, b) for a, b in zip(m.shape[::-1], x.shape[::-1], strict=False))
    if not fits or not bool((torch.isfinite(m) & (m > 0)).all()):
        raise _validate.bad("masses", m, f"positive finite numbers that broadcast to positions {list(x.shape)}")
    elements = x[0].numel() if x.shape[0] else 0

    def noise(step: int) -> Tensor:
        return noise_contract.normal(
            seeds, ids, step, elements, stream=noise_contract.KICK, dtype=x.dtype, device=x.device, backend=chosen
        ).reshape(x.shape)

    def other(x: Tensor, t: Tensor) -> Tensor:
        return energy_and_forces(backward, x).forces  # type: ignore[arg-type]

    if isinstance(backward, Potential) and x.ndim != 3:
        raise _validate.bad("backward", f"a potential with positions {list(x.shape)}", "positions [S, N, D] with one")
    run = with_backward(run, backward, x, backward if isinstance(backward, VectorField) else other)
    inverse_masses = 1.0 / m
    v = _starting_velocities(x, v, integrator, run, noise, inverse_masses)
    return loop(run, x, v, inverse_masses, field, noise, None, path=path)


def follow_potential(
    field: Potential,
    x: Tensor,
    v: Tensor | None,
    integrator: Integrator,
    masses: float | Tensor | np.ndarray | None,
    seeds: Tensor,
    ids: Tensor,
    run: Run,
    backward: str | Field | None,
    backend: str | None,
    systems: Systems,
    box: Box,
    path: Tensor | None = None,
) -> Outcome:
    """A trajectory along a potential, or the log-probabilities of ``path`` [steps + 1, *x.shape]."""
    op = "simulate" if path is None else "path_log_prob"
    kinds, parameters = packed(field, systems.dim, x.device)
    inverse_masses = 1.0 / masses_of(masses, systems, x)
    trained = [name for name, t in (("frames", path), ("positions", x), ("velocities", v), ("field", parameters))
               if t is not None and t.requires_grad and torch.is_grad_enabled()]  # fmt: skip
    if backend != "reference":
        _validate.no_tangents(op, x, parameters, *(t for t in (v, path) if t is not None))
    if trained and backend is None:
        raise ValueError(
            f'{op}: {trained[0]} requires grad; pass backend="reference", which is differentiable, or call under '
            "torch.no_grad()"
        )
    why_not = f"has no gradient, and {trained[0]} requires grad" if trained else None
    if isinstance(backward, (Potential, VectorField)):
        why_not = why_not or "takes the forward field alone, got a field for backward"
    why_not = why_not or why_not_compiled(kinds, parameters, systems.dim)
    on_cuda = _backend.on_cuda(x.device) or why_not or _why_not_cuda(integrator, run, systems, x)
    backends = [("cpu", _backend.on_cpu(x.device) or why_not), ("cuda", on_cuda), ("reference", None)]
    if path is not None:
        del backends[1]
    chosen = _backend.choose(op, backend, backends)
    n = systems.largest * systems.dim

    def noise(step: int) -> Tensor:  # a row's elements do not depend on how many are drawn: padding changes nothing
        draws = noise_contract.normal(seeds, ids, step, n, stream=noise_contract.KICK, dtype=x.dtype, device=x.device)
        return draws.reshape(systems.count, systems.largest, systems.dim)

    each = systems.padded(inverse_masses.reshape(*systems.shape[:-1], 1).expand(systems.shape))
    start = systems.padded(x)
    v = None if v is None else systems.padded(v)
    v = _starting_velocities(start, v, integrator, run, noise, each)
    mask = systems.mask()

    def force_of(kinds: list[int], parameters: Tensor) -> Force:
        return lambda x, t: energy_reference.energy_and_forces(x, mask, kinds, parameters, box.cell, box.inverse)[1]

    def energy(x: Tensor) -> Tensor:
        return energy_reference.energy_and_forces(x, mask, kinds, parameters, box.cell, box.inverse)[0]

    if isinstance(backward, VectorField) and not systems.dense and systems.count > 1:
        raise _validate.bad("backward", "a VectorField with ragged systems", "systems of one size with one")
    other: Force | None = backward if isinstance(backward, VectorField) else None
    if isinstance(backward, Potential):
        other = force_of(*packed(backward, systems.dim, x.device))
    if chosen == "reference":
        run = with_backward(run, backward, start, other)
        padded_path = None if path is None else torch.stack([systems.padded(frame) for frame in path])
        out = loop(
            run, start, v, each, force_of(kinds, parameters), noise, energy, atoms=mask[..., None], path=padded_path
        )
        shaped = systems.unpadded
    else:
        flat = systems.flat(x)
        run = with_backward(run, backward, flat, None)
        potential = (systems, kinds, parameters, box)
        if path is not None:
            return scored(ops.path_log_prob, run, path.reshape(-1, *flat.shape).contiguous(), *potential)
        first_energy = None
        if run.record_every and chosen == "cpu":
            first_energy = energy_ops.energy_and_forces(flat, systems.ptr, kinds, parameters, box.cell, box.inverse)[0]
        elif run.record_every:  # energies alone have no CUDA kernel
            first_energy = energy(start)
        flat_v = None if v is None else systems.flat(systems.unpadded(v))
        out = sliced(ops.simulate, run, flat, flat_v, first_energy, inverse_masses, *potential, seeds, ids)

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


def check_backward(backward: str | Field, integrator: Integrator, start_step: int) -> str | Field:
    """The reversed step asked for, once the integrator is known to have it."""
    if not isinstance(backward, (Potential, VectorField)):
        if not isinstance(backward, str):
            raise _validate.bad("backward", backward, "a name or a field", error=TypeError)
        _validate.one_of("backward", backward, KINDS)
    if integrator.kind == BAOAB_KIND and backward != KINDS[SAME_DRIFT]:
        raise _validate.bad(
            "backward", f"{backward!r} with BAOAB", f"{KINDS[SAME_DRIFT]!r}, the kick reversed, with it"
        )
    if backward == KINDS[BRIDGE] and start_step > 0:
        raise ValueError(
            f"backward: got 'bridge' with start_step={start_step}; takes start_step=0, where the bridge is pinned"
        )
    return backward


def with_backward(run: Run, backward: str | Field | None, start: Tensor, other: Force | None) -> Run:
    """``run`` with its reversed step: ``other`` is the drift of a ``backward`` that is a field."""
    if backward is None:
        return run
    if isinstance(backward, str):
        kind = KINDS.index(backward)
        return dataclasses.replace(run, backward=Backward(kind, None, start if kind == BRIDGE else None))
    return dataclasses.replace(run, backward=Backward(SAME_DRIFT, other))


def check_log_prob(integrator: Integrator, schedule: Schedule) -> None:
    """Refuses a path whose steps have no density."""
    if integrator.kind not in (BAOAB_KIND, EULER_MARUYAMA):
        raise ValueError(f"log_prob: got True with {type(integrator).__name__}, which draws no noise")
    needed = ("temperature", "friction") if integrator.kind == BAOAB_KIND else ("noise",)
    for name in needed:
        if bool((schedule.used(name) == 0).any()):
            raise ValueError(f"log_prob: got True with {name} 0, where a step has no density")


def _why_not_cuda(integrator: Integrator, run: Run, systems: Systems, x: Tensor) -> str | None:
    """Why the CUDA kernel cannot serve this call on x's device, or None."""
    if integrator.kind not in (VELOCITY_VERLET, BAOAB_KIND, EULER_MARUYAMA):
        return f"takes VelocityVerlet, BAOAB and EulerMaruyama, got {type(integrator).__name__}"
    if run.log_prob:
        return "gives no log-probabilities"
    if any(column.shape[0] > 1 for column in run.schedule.columns.values()):
        return "takes no schedule"
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
    temperature = run.schedule.at(run.start_step)["temperature"].reshape(-1, *[1] * (x.ndim - 1))
    return torch.sqrt(temperature).to(x.dtype) * torch.sqrt(inverse_masses) * noise(LAST_STEP)
