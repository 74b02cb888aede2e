"""Public function: energies and forces."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from gmkern import _backend, _validate
from gmkern.dynamics.energy import ops, reference
from gmkern.dynamics.fields import HARMONIC, Potential, packed
from gmkern.dynamics.systems import box_of, positions_of, systems_of

_MOST_TERMS = 8  # csrc/dynamics/field.h


class EnergyAndForces(NamedTuple):
    """What :func:`energy_and_forces` gives."""

    energy: Tensor
    forces: Tensor


def energy_and_forces(
    field: Potential,
    positions: Tensor | np.ndarray,
    *,
    system_ptr: Tensor | np.ndarray | Sequence[int] | None = None,
    cell: Tensor | np.ndarray | None = None,
    pbc: bool | Sequence[bool] = False,
    backend: str | None = None,
) -> EnergyAndForces:
    """Potential energy of each system, and the force on each atom.

    Parameters
    ----------
    field : a potential: ``LennardJones``, ``Harmonic``, or a sum of them. A ``VectorField`` has no energy.
    positions : [S, N, D], S systems of N atoms; [N, D], one system, or ragged systems cut by ``system_ptr``. float32 or
        float64, in the user's length unit; finite.
    system_ptr : offsets [S + 1] into the rows of positions [N, D], from 0 to N; systems may be empty.
    cell : periodic boxes as row vectors, [D, D] or [S, D, D], in any shape (triclinic too). Each pair takes its nearest
        image, so each pair term needs a cutoff of at most half the distance between the cell's closest faces.
    pbc : which of the cell's vectors repeat: a bool, or D of them.
    backend : None, "cpu" or "reference". None takes the C++ kernels ("cpu": CPU tensors, pair terms in 2 or 3
        dimensions, parameters that are not differentiated), else the plain-PyTorch "reference", which serves every
        call.

    Returns
    -------
    EnergyAndForces(energy [S], forces of the shape of positions), in the positions' dtype.

    Raises
    ------
    TypeError, ValueError : naming the argument, what it got and what it takes.

    Notes
    -----
    Two atoms at one point have an energy and forces that are not finite (inf or NaN), and only their own system has. A
    pair force is a sum over the system's other atoms in their order: the same bits alone or in any batch, order or
    thread count on "cpu". Differentiable in the positions, twice in the energy and once in the forces (a loss on forces
    trains); the reference also in the field's tensor parameters, without limit. Works under ``torch.compile`` when
    called as ``torch.ops.gmkern.energy_and_forces``; this function reads values, to check them.

    Examples
    --------
    >>> import torch, gmkern
    >>> pair = torch.tensor([[[0.0, 0.0, 0.0], [2 ** (1 / 6), 0.0, 0.0]]])
    >>> energy, forces = gmkern.dynamics.energy_and_forces(gmkern.dynamics.LennardJones(), pair)
    >>> round(float(energy), 5)
    -1.0
    """
    if not isinstance(field, Potential):
        raise _validate.bad("field", field, "a potential (a VectorField has no energy)", error=TypeError)
    x = positions_of(positions)
    systems = systems_of(x, system_ptr)
    box = box_of(cell, pbc, systems, field, x.device)
    kinds, parameters = packed(field, systems.dim, x.device)
    chosen = _backend.choose(
        "energy_and_forces",
        backend,
        [("cpu", _backend.on_cpu(x.device) or why_not_compiled(kinds, parameters, systems.dim)), ("reference", None)],
    )
    if chosen == "cpu":
        _validate.no_tangents("energy_and_forces", x, parameters)
        energy, forces = ops.energy_and_forces(systems.flat(x), systems.ptr, kinds, parameters, box.cell, box.inverse)
        return EnergyAndForces(energy, forces.reshape(x.shape))
    energy, forces = reference.energy_and_forces(
        systems.padded(x), systems.mask(), kinds, parameters, box.cell, box.inverse
    )
    return EnergyAndForces(energy, systems.unpadded(forces))


def why_not_compiled(kinds: list[int], parameters: Tensor, dim: int) -> str | None:
    """Why the compiled pair sweeps cannot serve a potential, or None."""
    if any(kind != HARMONIC for kind in kinds) and dim not in (2, 3):
        return f"pair terms take positions of dimension 2 or 3, got {dim}"
    if len(kinds) > _MOST_TERMS:
        return f"takes up to {_MOST_TERMS} terms, got {len(kinds)}"
    if parameters.requires_grad and torch.is_grad_enabled():
        return "has no gradient in the field's parameters"
    return None
