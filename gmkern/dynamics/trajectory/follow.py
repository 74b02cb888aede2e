"""Who runs a call: the compiled ops, or the loop in Python around a module or the reference."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from gmkern import _backend, _validate
from gmkern import random as noise_contract
from gmkern.dynamics.egnn import EGNN
from gmkern.dynamics.egnn.api import Bound
from gmkern.dynamics.energy import ops as energy_ops
from gmkern.dynamics.energy.api import energy_and_forces, evaluator, why_not_compiled, why_not_cuda
from gmkern.dynamics.fields import Potential, VectorField
from gmkern.dynamics.integrators import BAOAB, BAOAB_KIND, EULER_MARUYAMA, Integrator
from gmkern.dynamics.systems import Model, Systems, masses_of, model_of, no_gradient, systems_of
from gmkern.dynamics.trajectory import ops
from gmkern.dynamics.trajectory.densities import BRIDGE, KINDS, SAME_DRIFT, Backward, Force
from gmkern.dynamics.trajectory.loop import Outcome, Run, loop
from gmkern.dynamics.trajectory.reference import IN_PYTORCH, Noise
from gmkern.dynamics.trajectory.schedule import Schedule
from gmkern.dynamics.trajectory.slices import scored, sliced
from gmkern.dynamics.trajectory.step_ops import kernels_of

Field = Potential | VectorField | EGNN

LAST_STEP = (1 << 32) - 1  # of the noise contract; never a step of a run: its noise starts BAOAB's velocities


class Start(NamedTuple):
    """Where a call starts, and with what it draws."""

    x: Tensor
    v: Tensor | None
    integrator: Integrator
    masses: float | Tensor | np.ndarray | None
    seeds: Tensor
    ids: Tensor


@dataclasses.dataclass(frozen=True)
class Models:
    """The potential or network of a call, and that of its reversed process where this is another."""

    forward: Model | Bound
    backward: Model | Bound | None


def systems_in(
    field: Field,
    backward: str | Field,
    x: Tensor,
    types: Tensor | np.ndarray | Sequence[int] | None,
    system_ptr: Tensor | np.ndarray | Sequence[int] | None,
    cell: Tensor | np.ndarray | None,
    pbc: bool | Sequence[bool],
    backend: str | None,
) -> tuple[int, Models | None]:
    """How many systems ``x`` holds, and with a potential or an EGNN what it is to them."""
    if isinstance(field, (Potential, EGNN)):
        systems = systems_of(x, system_ptr)

        def model(field: Potential | EGNN) -> Model | Bound:
            if isinstance(field, EGNN):
                return field.bind(systems, x, types, cell, pbc, backend)
            return model_of(field, systems, types, cell, pbc, x.device)

        other = model(backward) if isinstance(backward, (Potential, EGNN)) else None
        return systems.count, Models(model(field), other)
    if x.ndim == 0:
        raise _validate.bad("positions", x, "at least one dimension, whose rows are systems")
    given = {"types": types is not None, "system_ptr": system_ptr is not None, "cell": cell is not None,
             "pbc": pbc is not False}  # fmt: skip
    for name, there in given.items():
        if there:
            raise ValueError(f"{name}: got some with a VectorField, whose leading rows are systems; leave it out")
    return x.shape[0], None


def follow(
    field: Field,
    models: Models | None,
    given: Start,
    run: Run,
    backward: str | Field | None,
    backend: str | None,
    path: Tensor | None = None,
) -> Outcome:
    """A trajectory, or the log-probabilities of ``path`` [steps + 1, *x.shape]."""
    if isinstance(field, VectorField):
        return _follow_module(field, given, run, backward, backend, path)
    assert models is not None  # with a potential or an EGNN
    if isinstance(models.forward, Bound):
        return _loop_over_atoms(models.forward, models.backward, given, run, backward, False, path)
    return _follow_potential(models.forward, models.backward, given, run, backward, backend, path)


def _follow_module(
    field: VectorField,
    given: Start,
    run: Run,
    backward: str | Field | None,
    backend: str | None,
    path: Tensor | None,
) -> Outcome:
    op = "simulate" if path is None else "path_log_prob"
    x, v, integrator, masses, seeds, ids = given
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
        if isinstance(backward, Potential):
            return energy_and_forces(backward, x).forces
        return backward(x, t)  # type: ignore[operator, misc]

    if isinstance(backward, (Potential, EGNN)) and x.ndim != 3:
        name = type(backward).__name__
        raise _validate.bad("backward", f"{name} with positions {list(x.shape)}", "positions [S, N, D] with one")
    run = with_backward(run, backward, x, other)
    inverse_masses = 1.0 / m
    v = _starting_velocities(x, v, integrator, run, noise, inverse_masses)
    kernels = kernels_of(op, seeds, ids) if chosen == "cpu" else IN_PYTORCH
    return loop(run, x, v, inverse_masses, field, noise, None, path=path, kernels=kernels)


def _follow_potential(
    model: Model,
    other: Model | Bound | None,
    given: Start,
    run: Run,
    backward: str | Field | None,
    backend: str | None,
    path: Tensor | None,
) -> Outcome:
    op = "simulate" if path is None else "path_log_prob"
    x, v, integrator, masses, seeds, ids = given
    systems = model.systems
    tensors = [t for t in (x, v, path, model.field.parameters) if t is not None]
    trains = torch.is_grad_enabled() and any(t.requires_grad for t in tensors)
    if backend != "reference":
        _validate.no_tangents(op, *tensors)
    why_not = why_not_compiled(model.field, systems.dim)
    if backward is not None and not isinstance(backward, str):
        why_not = "takes the forward field alone, got a field for backward"
    on_cuda = _backend.on_cuda(x.device) or why_not or why_not_cuda(model.field, systems)
    backends = [("cpu", _backend.on_cpu(x.device) or why_not), ("cuda", on_cuda), ("reference", None)]
    compiled = _backend.choose(op, backend, backends) != "reference"
    if compiled and path is not None:
        run = with_backward(run, backward, systems.flat(x), None)
        return scored(ops.path_log_prob, run, path.reshape(-1, systems.atoms, systems.dim).contiguous(), model)
    if compiled and not (trains and not run.detach_path):
        inverse_masses = 1.0 / masses_of(masses, systems, x)
        start = systems.padded(x)
        each = systems.padded(inverse_masses.reshape(*systems.shape[:-1], 1).expand(systems.shape))
        v = None if v is None else systems.padded(v)
        v = _starting_velocities(start, v, integrator, run, _kicks(systems, given), each)
        run = with_backward(run, backward, systems.flat(x), None)
        out = _follow_compiled(run, model, x, v, inverse_masses, seeds, ids, trains)
        return _shaped(out, lambda y: y.reshape(*y.shape[:-2], *systems.shape))
    # a Python loop: with gradients along the moving path around the compiled forces
    return _loop_over_atoms(model, other, given, run, backward, compiled, path)


def _loop_over_atoms(
    model: Model | Bound,
    other: Model | Bound | None,
    given: Start,
    run: Run,
    backward: str | Field | None,
    compiled: bool,
    path: Tensor | None,
) -> Outcome:
    """A loop in Python around the forces of padded systems; ``compiled`` is about those of a potential."""
    x, v, integrator, masses, _, _ = given
    systems = model.systems
    if isinstance(backward, VectorField) and not systems.dense and systems.count > 1:
        raise _validate.bad("backward", "a VectorField with ragged systems", "systems of one size with one")
    noise = _kicks(systems, given)
    inverse_masses = 1.0 / masses_of(masses, systems, x)
    each = systems.padded(inverse_masses.reshape(*systems.shape[:-1], 1).expand(systems.shape))
    start = systems.padded(x)
    v = None if v is None else systems.padded(v)
    v = _starting_velocities(start, v, integrator, run, noise, each)
    force, energy = _forces_of(model, compiled)
    drift: Force | None = backward if isinstance(backward, VectorField) else None
    if other is not None:
        drift = _forces_of(other, False)[0]
    run = with_backward(run, backward, start, drift)
    padded_path = None if path is None else torch.stack([systems.padded(frame) for frame in path])
    atoms = systems.mask()[..., None]
    out = loop(run, start, v, each, force, noise, energy, atoms=atoms, path=padded_path)
    return _shaped(out, systems.unpadded)


def _kicks(systems: Systems, given: Start) -> Noise:
    """The noise of padded systems: a row's elements do not depend on how many are drawn, so padding changes nothing."""
    x, n = given.x, systems.largest * systems.dim

    def noise(step: int) -> Tensor:
        draws = noise_contract.normal(
            given.seeds, given.ids, step, n, stream=noise_contract.KICK, dtype=x.dtype, device=x.device
        )
        return draws.reshape(systems.count, systems.largest, systems.dim)

    return noise


def _forces_of(model: Model | Bound, compiled: bool) -> tuple[Force, Force | None]:
    """Forces and, where there are some, energies of padded positions [S, N, D] at times [S]."""
    if isinstance(model, Model):
        evaluate = evaluator(model, compiled)
        return lambda x, t: evaluate(x)[1], lambda x, t: evaluate(x)[0]
    systems = model.systems

    def force(x: Tensor, t: Tensor) -> Tensor:
        return systems.padded(model.field(systems.unpadded(x), t))

    def energy(x: Tensor, t: Tensor) -> Tensor:
        return model.energy(systems.unpadded(x), t)

    return force, energy if model.network.conservative else None


def _follow_compiled(
    run: Run,
    model: Model,
    x: Tensor,
    v: Tensor | None,
    inverse_masses: Tensor,
    seeds: Tensor,
    ids: Tensor,
    trains: bool,
) -> Outcome:
    """All steps in C++ or CUDA; with ``trains`` the path is held fixed, and its log-probabilities carry gradients."""
    systems = model.systems
    with torch.no_grad():
        start = systems.flat(x)
        kept = dataclasses.replace(run, record_every=1) if trains else run
        first_energy = None
        if kept.record_every:
            first_energy = energy_ops.energy_and_forces(start, *model.arguments)[0]
        speeds = None if v is None else systems.flat(systems.unpadded(v))
        out = sliced(ops.simulate, kept, start, speeds, first_energy, inverse_masses, model, seeds, ids)
    if not trains or out.frames is None:
        return out
    quiet = dataclasses.replace(run, show=lambda done: None)
    again = scored(ops.path_log_prob, quiet, out.frames, model)
    if run.record_every is None:
        return dataclasses.replace(again, x=out.x)
    frames = out.frames[:: run.record_every]
    energies = torch.stack([energy_ops.energy_and_forces(frame, *model.arguments)[0] for frame in frames])
    return dataclasses.replace(again, x=out.x, frames=frames, energies=energies)


def _shaped(out: Outcome, shaped: Callable[[Tensor], Tensor]) -> Outcome:
    return dataclasses.replace(
        out,
        x=shaped(out.x),
        v=None if out.v is None else shaped(out.v),
        frames=None if out.frames is None else shaped(out.frames),
    )


def check_backward(backward: str | Field, integrator: Integrator, start_step: int) -> str | Field:
    """The reversed step asked for, once the integrator is known to have it."""
    if not isinstance(backward, (Potential, VectorField, EGNN)):
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
