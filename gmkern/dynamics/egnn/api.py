"""Public class: an equivariant graph network as a force field."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from gmkern import _backend, _validate
from gmkern.dynamics.egnn import ops, reference
from gmkern.dynamics.systems import Box, Systems, box_within, positions_of, systems_of, types_of

_MOST_DIM = 8  # csrc/dynamics/egnn.h
_Layer = Callable[..., tuple[Tensor, Tensor, Tensor]]  # the compiled op


class Layer(nn.Module):
    """The linear layers of one round of messages."""

    def __init__(self, width: int, moves: bool) -> None:
        super().__init__()
        self.message_in = nn.Linear(2 * width + 1, width)
        self.message_out = nn.Linear(width, width)
        self.update_in = nn.Linear(2 * width, width)
        self.update_out = nn.Linear(width, width)
        if moves:
            self.move_in = nn.Linear(width, width)
            self.move_out = nn.Linear(width, 1, bias=False)
            nn.init.xavier_uniform_(self.move_out.weight, gain=1e-3)  # a field that begins near 0

    def packed(self, dtype: torch.dtype) -> Tensor:
        """All of them, one after another: what the compiled op takes."""
        return torch.cat([parameter.reshape(-1) for parameter in self.parameters()]).to(dtype)


class EGNN(nn.Module):
    """A learnt many-body force field: an equivariant graph network, of time and types if wanted.

    Called as ``field(positions, t)`` it gives the velocity (or, where ``conservative``, the force) on each atom; it is
    a ``field`` of :func:`gmkern.dynamics.simulate` and :func:`gmkern.dynamics.path_log_prob`, and a conservative one of
    :func:`gmkern.dynamics.energy_and_forces` too.

    Parameters
    ----------
    width : features an atom has, H (>= 1).
    layers : rounds of messages (>= 1).
    types : how many types of atoms there are (>= 1).
    time : whether the field depends on time.
    conservative : False: each layer moves the atoms, and the field is how far they came. True: positions stay, the
        features' last values give an energy, and the field is minus its gradient.
    cutoff : distance from which atoms do not see each other, in the positions' unit; None: all of a system do.
    neighbors : what sums over neighbours are divided by (> 0): about as many as there are, for large systems.
    start_time : the time of a call without ``t``, and at step 0 of a run.

    Notes
    -----
    With s = |x_i - x_j|^2 and w = (1 - s / cutoff^2)^3 (1 without a cutoff), a layer is m_ij = f(h_i, h_j, s), x_i +=
    sum_j w (x_i - x_j) / (1 + |x_i - x_j|) g(m_ij) / neighbors, h_i += u(h_i, sum_j w m_ij / neighbors), with two
    linear layers in each of f, g and u, SiLU after both of f and after the first of g and u. Features start as the
    type's vector plus t times another. Equivariant to rotations, reflections, translations and to the order of like
    atoms. Source: V. G. Satorras, E. Hoogeboom and M. Welling, E(n) equivariant graph neural networks, ICML 2021.

    On "cpu" (C++) and "triton" (CUDA tensors), up to 8 dimensions, a layer is one compiled call in which edges never
    reach memory, and so is its adjoint, which computes the messages again: memory is that of the atoms' features alone.
    Velocities and forces are the same bits alone or in any batch, order or thread count; energies and the gradients of
    parameters agree to rounding. Differentiable without limit; all but the first derivatives of a layer are plain
    PyTorch, with memory for all pairs. With a cutoff an atom still looks at all others of its system. On "cpu" the
    adjoint gives one thread a system; on "triton" it goes over the edges twice, without atomics. A call looks at the
    values of its arguments: for CUDA graphs, and under ``torch.compile``, call ``torch.ops.gmkern.egnn_layer``, which
    does not synchronise on a GPU.

    Examples
    --------
    >>> import torch
    >>> from gmkern.dynamics import EGNN, Heun, simulate
    >>> field = EGNN(width=16, layers=2)
    >>> end = simulate(field, torch.randn(4, 13, 3), integrator=Heun(0.1), steps=10).positions
    >>> end.shape
    torch.Size([4, 13, 3])
    """

    def __init__(
        self,
        width: int = 64,
        layers: int = 4,
        *,
        types: int = 1,
        time: bool = True,
        conservative: bool = False,
        cutoff: float | None = None,
        neighbors: float = 1.0,
        start_time: float = 0.0,
    ) -> None:
        super().__init__()
        self.width = _validate.integer("width", width, low=1)
        self.types = _validate.integer("types", types, low=1)
        self.conservative = _validate.flag("conservative", conservative)
        self.cutoff = None if cutoff is None else _validate.number("cutoff", cutoff, above=0.0)
        self.neighbors = _validate.number("neighbors", neighbors, above=0.0)
        self.start_time = _validate.number("start_time", start_time)
        self.of_type = nn.Embedding(types, width)
        # linear in time: its place in the first messages makes it what is wanted, and a product has the same bits in
        # any batch
        self.of_time = nn.Parameter(torch.randn(width)) if _validate.flag("time", time) else None
        depth = _validate.integer("layers", layers, low=1)
        self.layers = nn.ModuleList(Layer(width, not conservative) for _ in range(depth))
        if conservative:
            self.energy_of_features = nn.Linear(width, 1, bias=False)
            self.energy_of_type = nn.Parameter(torch.zeros(types))

    def forward(
        self,
        positions: Tensor | np.ndarray,
        t: float | Tensor | None = None,
        *,
        types: Tensor | np.ndarray | Sequence[int] | None = None,
        system_ptr: Tensor | np.ndarray | Sequence[int] | None = None,
        cell: Tensor | np.ndarray | None = None,
        pbc: bool | Sequence[bool] = False,
        backend: str | None = None,
    ) -> Tensor:
        """The field at each atom, in the shape and dtype of ``positions``.

        Parameters
        ----------
        positions, types, system_ptr, cell, pbc : as in :func:`gmkern.dynamics.energy_and_forces`; any dimension.
        t : the time, a number or [S]; ``start_time`` without. A field without ``time`` takes none but what a run passes
            and does not look at it.
        backend : None, "cpu" (C++), "triton" (CUDA) or "reference" (plain PyTorch, any device and dimension).

        Raises
        ------
        TypeError, ValueError : naming the argument, what it got and what it takes.
        """
        x = positions_of(positions)
        bound = self.bind(systems_of(x, system_ptr), x, types, cell, pbc, backend)
        return bound.field(x, bound.time_of(t, x))

    def energy(
        self,
        positions: Tensor | np.ndarray,
        t: float | Tensor | None = None,
        *,
        types: Tensor | np.ndarray | Sequence[int] | None = None,
        system_ptr: Tensor | np.ndarray | Sequence[int] | None = None,
        cell: Tensor | np.ndarray | None = None,
        pbc: bool | Sequence[bool] = False,
        backend: str | None = None,
    ) -> Tensor:
        """The energy of each system, [S], of a conservative field; parameters as of a call."""
        if not self.conservative:
            raise ValueError("energy: got an EGNN with conservative=False, which has none; takes one with it")
        x = positions_of(positions)
        bound = self.bind(systems_of(x, system_ptr), x, types, cell, pbc, backend)
        return bound.energy(x, bound.time_of(t, x))

    def bind(
        self,
        systems: Systems,
        like: Tensor,
        types: Tensor | np.ndarray | Sequence[int] | None,
        cell: Tensor | np.ndarray | None,
        pbc: bool | Sequence[bool],
        backend: str | None,
    ) -> Bound:
        """The field of given systems, once types, box and backend are known to fit; ``like`` are positions."""
        here = self.of_type.weight.device
        if here != like.device:
            raise ValueError(f"positions: got a tensor on {like.device}; takes the field's device, {here}")
        box = box_within([("EGNN", self.cutoff)], cell, pbc, systems, like.device)
        own = types_of(types, systems, self.types, like.device)
        too_wide = None if systems.dim <= _MOST_DIM else f"takes up to {_MOST_DIM} dimensions, got {systems.dim}"
        candidates = [
            ("cpu", _backend.on_cpu(like.device) or too_wide),
            ("triton", self._why_not_triton(like) or too_wide),
            ("reference", None),
        ]
        return Bound(self, systems, own, box, _layer_of(_backend.choose("EGNN", backend, candidates), like.device))

    def _why_not_triton(self, positions: Tensor) -> str | None:
        wanted = any(w.requires_grad for w in (positions, *self.parameters())) and torch.is_grad_enabled()
        in_interpreter = positions.device.type == "cpu" and (wanted or self.conservative)
        return _backend.on_triton(positions.device) or (
            "takes CUDA tensors where a gradient is wanted" if in_interpreter else None
        )


def _layer_of(chosen: str, device: torch.device) -> _Layer | None:
    """A layer on the backend that was chosen; None for the reference."""
    if chosen == "triton" and device.type == "cpu":
        from gmkern.dynamics.egnn import triton_kernels  # in the interpreter

        return triton_kernels.egnn_layer
    return None if chosen == "reference" else ops.egnn_layer


@dataclass(frozen=True)
class Bound:
    """An EGNN of given systems; positions are of the shape that the systems were made of."""

    network: EGNN
    systems: Systems
    types: Tensor  # [M] or [0]
    box: Box
    layer: _Layer | None  # compiled; None for the reference

    def time_of(self, t: float | Tensor | None, x: Tensor) -> Tensor:
        """[S] in x's dtype."""
        if t is None:
            t = self.network.start_time
        if not isinstance(t, Tensor):
            t = torch.tensor(_validate.number("t", t), dtype=torch.float64)
        if t.ndim > 1 or t.shape not in ((), (1,), (self.systems.count,)) or not t.is_floating_point():
            raise _validate.bad("t", t, f"a number, or floats [{self.systems.count}]")
        return t.to(dtype=x.dtype, device=x.device).expand(self.systems.count)

    def field(self, x: Tensor, t: Tensor) -> Tensor:
        """Velocities or forces of positions x at times t [S]."""
        return self.energy_and_field(x, t)[1] if self.network.conservative else self._messages(x, t, self._packed(x))[0]

    def energy(self, x: Tensor, t: Tensor) -> Tensor:
        """Energies [S]."""
        return self._energy(x, t, self._packed(x))

    def energy_and_field(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Energies [S] and forces."""
        if torch.is_inference_mode_enabled():  # whose tensors autograd does not take
            with torch.inference_mode(False), torch.no_grad():
                return self._copied().energy_and_field(x.clone(), t.clone())
        weights = self._packed(x)  # without a graph where gradients are off, so that none is computed
        trains = torch.is_grad_enabled() and (x.requires_grad or any(w.requires_grad for w in weights))
        with torch.enable_grad():
            at = x if x.requires_grad and trains else x.detach().requires_grad_()
            energy = self._energy(at, t, weights)
            (slope,) = torch.autograd.grad(energy.sum(), at, create_graph=trains)
        return (energy, -slope) if trains else (energy.detach(), -slope)

    def _copied(self) -> Bound:
        systems = replace(self.systems, ptr=self.systems.ptr.clone())
        return replace(
            self, systems=systems, types=self.types.clone(), box=Box(self.box.cell.clone(), self.box.inverse.clone())
        )

    def _packed(self, x: Tensor) -> list[Tensor]:
        """The weights of each layer, then of the start and of the end, in x's dtype."""
        net = self.network
        start = [net.of_type.weight] + ([] if net.of_time is None else [net.of_time])
        end = [net.energy_of_features.weight[0], net.energy_of_type] if net.conservative else []
        layers = [layer.packed(x.dtype) for layer in net.layers]  # type: ignore[operator, union-attr]
        return [*layers, *[w.to(x.dtype) for w in (*start, *end)]]

    def _energy(self, x: Tensor, t: Tensor, weights: list[Tensor]) -> Tensor:
        features = self._messages(x, t, weights)[1]  # [M, H]
        by_feature, by_type = weights[-2:]
        each = (features.double() * by_feature.double()).sum(-1)
        each = each + (by_type.expand(each.shape) if self.network.types == 1 else by_type[self.types])
        inside = self.systems.mask()
        padded = self.systems.padded(each.reshape(*self.systems.shape[:-1], 1).expand(self.systems.shape))[..., 0]
        return torch.where(inside, padded, torch.zeros_like(padded)).sum(1).to(x.dtype)

    def _messages(self, x: Tensor, t: Tensor, weights: list[Tensor]) -> tuple[Tensor, Tensor]:
        """How far the atoms come, in x's shape, and their features [M, H] after all layers."""
        net, systems = self.network, self.systems
        depth = len(net.layers)
        of_type, *of_time = weights[depth : depth + (1 if net.of_time is None else 2)]
        flat = systems.flat(x)
        features = of_type.expand(flat.shape[0], -1) if net.types == 1 else of_type[self.types]
        if of_time:
            sizes = systems.ptr[1:] - systems.ptr[:-1]
            of_atom = torch.repeat_interleave(t, sizes, output_size=flat.shape[0])
            features = features + of_atom[:, None] * of_time[0]
        cutoff = math.inf if net.cutoff is None else net.cutoff
        moves = not net.conservative
        if self.layer is not None:
            place, h = flat, features.contiguous()
            for w in weights[:depth]:
                place, h, _ = self.layer(
                    place, h, w, systems.ptr, self.box.cell, self.box.inverse, moves, cutoff, net.neighbors
                )
            return (place - flat).reshape(x.shape), h
        start, mask = systems.padded(x), systems.mask()
        spread = systems.padded_features(features)
        place = start
        for w in weights[:depth]:
            own = reference.unpacked(w, net.width, moves)
            place, spread = reference.egnn_layer(
                place, spread, own, mask, self.box.cell, self.box.inverse, cutoff, net.neighbors
            )
        return systems.unpadded(place - start), systems.unpadded_features(spread)
