"""Pair energies learnt by a network of the distance, run as splines in the compiled sweeps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.func import functional_call

from gmkern import _validate
from gmkern.dynamics.fields import LEARNED, Term

# A quintic on [0, 1] from value, slope and curvature at 0, then at 1: row k makes the coefficient of t^k.
_HERMITE = (
    (1.0, 0.0, 0.0, 0.0, 0.0, 0.0),
    (0.0, 1.0, 0.0, 0.0, 0.0, 0.0),
    (0.0, 0.0, 0.5, 0.0, 0.0, 0.0),
    (-10.0, -6.0, -1.5, 10.0, -4.0, 0.5),
    (15.0, 8.0, 1.5, -15.0, 7.0, -1.0),
    (-6.0, -3.0, -0.5, 6.0, -3.0, 0.5),
)
_MOST_NODES = 1 << 24  # csrc/dynamics/field.h


@dataclass(frozen=True, eq=False)
class LearnedPair(Term):
    """A network of the distance between two atoms, summed over all pairs closer than ``r_max``.

    Parameters
    ----------
    module : takes distances [n, 1] and gives the pair's energy [n, 1]; for ``types`` T > 1, [n, T (T + 1) / 2], those
        of the pairs of types (0, 0), (0, 1), ... (0, T - 1), (1, 1), ... It is called in float64 on copies of its
        parameters, and should have two derivatives (SiLU, tanh, Gaussians; not ReLU, whose kinks the spline rounds).
    r_max : distance from which pairs do not interact (> 0). The energy is the network's times (1 - (r / r_max)^2)^3, so
        that it ends there with two derivatives 0.
    types : how many types of atoms the network tells apart (>= 1).
    intervals : of the spline between 0 and r_max (>= 1).

    Notes
    -----
    A run does not call the network: each call of ``simulate`` or ``energy_and_forces`` first makes a spline of degree 5
    with the network's values and two derivatives at intervals + 1 nodes, as its parameters are then. Forces are the
    spline's exact derivatives, so that energy is kept; they have two derivatives, continuous ones. ``error()`` measures
    how far spline and network are apart. Gradients reach the network's parameters through the spline's coefficients, in
    energies, forces (double backward too), trajectories and log-probabilities; a buffer or dropout is as the module has
    it. Source of the quintic: Hermite interpolation, Stoer and Bulirsch, Introduction to Numerical Analysis, 2.1.5.

    Examples
    --------
    >>> import torch
    >>> from gmkern.dynamics import LearnedPair, energy_and_forces
    >>> network = torch.nn.Sequential(torch.nn.Linear(1, 16), torch.nn.SiLU(), torch.nn.Linear(16, 1))
    >>> field = LearnedPair(network, r_max=2.5)
    >>> energy, forces = energy_and_forces(field, torch.randn(4, 6, 3))
    >>> (forces**2).sum().backward()
    >>> network[0].weight.grad.shape
    torch.Size([16, 1])
    """

    module: nn.Module
    r_max: float
    types: int = 1
    intervals: int = 256

    kind: ClassVar[int] = LEARNED

    def __post_init__(self) -> None:
        if not isinstance(self.module, nn.Module):
            raise _validate.bad("module", self.module, "a torch module of the distance", error=TypeError)
        _validate.number("r_max", self.r_max, above=0.0)
        _validate.integer("types", self.types, low=1, high=64)
        _validate.integer("intervals", self.intervals, low=1)
        if self._pairs * self.intervals * 6 >= _MOST_NODES:
            raise _validate.bad("intervals", str(self.intervals), f"fewer than 2^24 / 6 over {self._pairs} type pairs")

    @property
    def _pairs(self) -> int:
        return self.types * (self.types + 1) // 2

    @property
    def reach(self) -> float | None:
        return self.r_max

    def energy(self, r: Tensor) -> Tensor:
        """The pair energy itself, [n, P] float64 of distances [n] float64: network times its end."""
        state = {
            name: tensor.to(r.dtype) if tensor.is_floating_point() else tensor
            for name, tensor in (*self.module.named_parameters(), *self.module.named_buffers())
        }
        out = functional_call(self.module, state, (r[:, None],))
        if not isinstance(out, Tensor) or out.shape != (r.shape[0], self._pairs):
            raise _validate.bad("module", out, f"one that gives [n, {self._pairs}] of distances [n, 1]")
        return out * ((1.0 - (r / self.r_max) ** 2) ** 3)[:, None]

    def parameters_in(self, dim: int, device: torch.device) -> Tensor:
        t = self.types
        low, high = torch.triu_indices(t, t, device=device)
        pair = torch.zeros((t, t), dtype=torch.float64, device=device)
        pair[low, high] = pair[high, low] = torch.arange(self._pairs, dtype=torch.float64, device=device)
        one = torch.ones_like(pair)
        own = [pair * 6 * self.intervals, one * self.intervals, 0 * one, one * (self.intervals / self.r_max)]
        return torch.stack([*own, one * self.r_max, 0 * one], -1)

    def nodes(self, device: torch.device) -> Tensor:
        step = self.r_max / self.intervals
        r = torch.arange(self.intervals + 1, dtype=torch.float64, device=device) * step
        values = torch.stack([d * step**k for k, d in enumerate(self._derivatives(r))], -1)  # [nodes, P, 3]
        ends = torch.cat([values[:-1], values[1:]], -1)  # [intervals, P, 6]
        hermite = torch.tensor(_HERMITE, dtype=torch.float64, device=device)
        return (ends @ hermite.T).transpose(0, 1)

    def error(self) -> tuple[float, float]:
        """How far the spline is from the network: the largest differences of energy and of force, at 8 distances within
        each interval."""
        device = next(self.module.parameters(), torch.empty(0)).device
        t = (torch.arange(8, dtype=torch.float64, device=device) + 0.5) / 8
        step = self.r_max / self.intervals
        r = (torch.arange(self.intervals, dtype=torch.float64, device=device)[:, None] + t).reshape(-1) * step
        value, slope, _ = (d.detach().T.reshape(self._pairs, self.intervals, 8) for d in self._derivatives(r))
        c = self.nodes(device).detach()  # [P, intervals, 6]
        powers = t[:, None] ** torch.arange(6, device=device)
        slopes = torch.arange(6, device=device) * t[:, None] ** (torch.arange(6, device=device) - 1).clamp(min=0) / step
        energy, force = ((c @ p.T - want).abs().max() for p, want in ((powers, value), (slopes, slope)))
        return float(energy), float(force)

    def _derivatives(self, r: Tensor) -> list[Tensor]:
        """[n, P] each: the energy and two derivatives, with a graph to the parameters where gradients are on."""
        trains = torch.is_grad_enabled() and any(p.requires_grad for p in self.module.parameters())
        with torch.inference_mode(False), torch.set_grad_enabled(True):
            r = r.detach().clone().requires_grad_()  # autograd takes no tensor of inference mode
            parts = [self.energy(r)]
            for _ in range(2):
                rows = [
                    torch.autograd.grad(
                        column.sum(), r, create_graph=True, allow_unused=True, materialize_grads=True
                    )[0]
                    for column in parts[-1].unbind(1)
                ]  # fmt: skip
                parts.append(torch.stack(rows, 1))
        return parts if trains else [part.detach() for part in parts]
