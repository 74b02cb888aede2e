"""Public function: energies and forces."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from torch import Tensor

from gmkern import _backend, _validate
from gmkern.dynamics.egnn import EGNN
from gmkern.dynamics.energy import ops, reference
from gmkern.dynamics.fields import HARMONIC, Packed, Potential
from gmkern.dynamics.systems import Model, Systems, model_of, positions_of, systems_of

_MOST_TERMS = 8  # csrc/dynamics/field.h
_MOST_NUMBERS = (1 << 31) - 1  # of positions: csrc/dynamics/batch_cuda.h


class EnergyAndForces(NamedTuple):
    """What :func:`energy_and_forces` gives."""

    energy: Tensor
    forces: Tensor


def energy_and_forces(
    field: Potential | EGNN,
    positions: Tensor | np.ndarray,
    *,
    types: Tensor | np.ndarray | Sequence[int] | None = None,
    system_ptr: Tensor | np.ndarray | Sequence[int] | None = None,
    cell: Tensor | np.ndarray | None = None,
    pbc: bool | Sequence[bool] = False,
    backend: str | None = None,
) -> EnergyAndForces:
    """Potential energy of each system, and the force on each atom.

    Parameters
    ----------
    field : a potential: ``LennardJones``, ``WCA``, ``Morse``, ``Coulomb``, ``SoftSphere``, ``DoubleWell``,
        ``Harmonic``, ``HarmonicBonds``, ``LearnedPair``, or a sum of them; or a conservative ``EGNN``, at its
        ``start_time``. A ``VectorField`` has no energy.
    positions : [S, N, D], S systems of N atoms; [N, D], one system, or ragged systems cut by ``system_ptr``. float32 or
        float64, in the user's length unit; finite.
    types : the atoms' types, ints [N] (the same in every system), [S, N], or one a row of ragged systems; for fields
        whose parameters differ by type.
    system_ptr : offsets [S + 1] into the rows of positions [N, D], from 0 to N; systems may be empty.
    cell : periodic boxes as row vectors, [D, D] or [S, D, D], in any shape (triclinic too). Each pair takes its nearest
        image, so each pair term needs a cutoff of at most half the distance between the cell's closest faces.
    pbc : which of the cell's vectors repeat: a bool, or D of them.
    backend : None, "cpu", "cuda" or "reference". None takes the C++ kernels ("cpu": CPU tensors, terms between atoms in
        2 or 3 dimensions, up to 8 terms), on CUDA tensors the CUDA kernels ("cuda": 2 or 3 dimensions, up to 8 terms),
        else the plain-PyTorch "reference", which serves every call. An ``EGNN`` has its own: "cpu", "triton" (CUDA
        tensors) or "reference".

    Returns
    -------
    EnergyAndForces(energy [S], forces of the shape of positions), in the positions' dtype.

    Raises
    ------
    TypeError, ValueError : naming the argument, what it got and what it takes.

    Notes
    -----
    Two atoms at one point have no direction: their forces and their system's energy are not finite (inf or NaN) where
    a pair term reaches, and only theirs. A pair force is a sum over the system's other atoms in their order: the same
    bits alone or in any batch, order or thread count on "cpu" and on "cuda". Differentiable twice, energies and
    forces, in the positions and in the field's tensor parameters: on "cpu" and "cuda" the first derivatives are one
    compiled sweep, the second are plain PyTorch, with memory for all pairs at once; the reference is differentiable
    without limit. Not in a cutoff, nor in the range of a ``SoftSphere`` or ``WCA``, where there is nothing to move.
    Works under ``torch.compile`` and in CUDA graphs when called as ``torch.ops.gmkern.energy_and_forces``; this
    function reads values, to check them, for which a GPU is waited for.

    Examples
    --------
    >>> import torch, gmkern
    >>> pair = torch.tensor([[[0.0, 0.0, 0.0], [2 ** (1 / 6), 0.0, 0.0]]])
    >>> energy, forces = gmkern.dynamics.energy_and_forces(gmkern.dynamics.LennardJones(), pair)
    >>> round(float(energy), 5)
    -1.0
    """
    if not isinstance(field, (Potential, EGNN)):
        raise _validate.bad("field", field, "a potential or an EGNN (a VectorField has no energy)", error=TypeError)
    x = positions_of(positions)
    systems = systems_of(x, system_ptr)
    if isinstance(field, EGNN):
        if not field.conservative:
            raise ValueError("field: got an EGNN with conservative=False, which has no energy; takes one with it")
        bound = field.bind(systems, x, types, cell, pbc, backend)
        return EnergyAndForces(*bound.energy_and_field(x, bound.time_of(None, x)))
    model = model_of(field, systems, types, cell, pbc, x.device)
    chosen = _backend.choose(
        "energy_and_forces",
        backend,
        [
            ("cpu", _backend.on_cpu(x.device) or why_not_compiled(model.field, systems.dim)),
            ("cuda", _backend.on_cuda(x.device) or why_not_cuda(model.field, systems)),
            ("reference", None),
        ],
    )
    if chosen != "reference":
        _validate.no_tangents("energy_and_forces", x, model.field.parameters)
        energy, forces = ops.energy_and_forces(systems.flat(x), *model.arguments)
        return EnergyAndForces(energy, forces.reshape(x.shape))
    energy, forces = reference.energy_and_forces(systems.padded(x), *model.padded_arguments)
    return EnergyAndForces(energy, systems.unpadded(forces))


def evaluator(model: Model, compiled: bool) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    """Energies [S] and forces of padded positions [S, N, D], by the compiled op or by the reference."""
    systems = model.systems
    if not compiled:
        arguments = model.padded_arguments
        return lambda x: reference.energy_and_forces(x, *arguments)

    def evaluate(x: Tensor) -> tuple[Tensor, Tensor]:
        energy, forces = ops.energy_and_forces(systems.flat(systems.unpadded(x)), *model.arguments)
        return energy, systems.padded(forces)

    return evaluate


def why_not_cuda(field: Packed, systems: Systems) -> str | None:
    """Why the CUDA kernels cannot serve a potential, or None."""
    if systems.dim not in (2, 3):
        return f"takes positions of dimension 2 or 3, got {systems.dim}"
    if systems.atoms * systems.dim > _MOST_NUMBERS:
        return f"takes fewer than 2^31 coordinates, got {systems.atoms * systems.dim}"
    return why_not_compiled(field, systems.dim)


def why_not_compiled(field: Packed, dim: int) -> str | None:
    """Why the compiled pair sweeps cannot serve a potential, or None."""
    if any(kind != HARMONIC for kind in field.kinds) and dim not in (2, 3):
        return f"terms between atoms take positions of dimension 2 or 3, got {dim}"
    if len(field.kinds) > _MOST_TERMS:
        return f"takes up to {_MOST_TERMS} terms, got {len(field.kinds)}"
    return None
