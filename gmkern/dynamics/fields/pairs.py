"""Terms between all pairs of a system's atoms."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from gmkern import _validate
from gmkern.dynamics.fields.terms import COULOMB, DOUBLE_WELL, LENNARD_JONES, MORSE, SOFT_SPHERE, Term
from gmkern.dynamics.parameters import Given, as_tensor, between_types, check, energies, lengths, scalar


class _CutPair(Term):
    """A pair term that ends at ``cutoff``, by default with its energy shifted so as to end at 0."""

    cutoff: float | None
    shift: bool

    @property
    def reach(self) -> float | None:
        return self.cutoff

    def _check_cutoff(self) -> None:
        if self.cutoff is not None:
            _validate.number("cutoff", self.cutoff, above=0.0)
        if not isinstance(self.shift, bool):
            raise _validate.bad("shift", self.shift, "True or False", error=TypeError)

    def _energy(self, own: list[Tensor], r: float) -> Tensor:
        """The pair's energy at r, of tables [T, T] of its own parameters."""
        raise TypeError(f"{type(self).__name__} has no energy")  # a subclass says which

    def _table(self, own: list[Tensor]) -> Tensor:
        own = list(torch.broadcast_tensors(*own))
        cutoff = torch.full_like(own[0], math.inf if self.cutoff is None else self.cutoff)
        taken = torch.zeros_like(own[0])
        if self.cutoff is not None and self.shift:
            taken = self._energy(own, self.cutoff)
        return _pair_table(own, cutoff, taken)


@dataclass(frozen=True, eq=False)
class LennardJones(_CutPair):
    """4 epsilon ((sigma/r)^12 - (sigma/r)^6) between all pairs of a system's atoms.

    Parameters
    ----------
    epsilon : depth of the well, in the user's energy unit (>= 0): a number or a 0-d tensor; [T], one a type, mixed as
        sqrt(epsilon_a epsilon_b); or a symmetric [T, T].
    sigma : where the energy crosses zero, in the user's length unit (> 0): likewise, mixed as (sigma_a + sigma_b) / 2.
    cutoff : pairs at this distance or beyond it do not interact; None for no cutoff.
    shift : whether the energy at the cutoff is taken from each pair inside it, so that the energy is continuous there
        (the force jumps by its own value at the cutoff, small for a cutoff of 2.5 sigma). Without a cutoff it has no
        effect.

    Notes
    -----
    Source: J. E. Jones, Proc. R. Soc. A 106 (1924) 463; the mixing is that of Lorentz and Berthelot.

    Examples
    --------
    >>> import torch
    >>> from gmkern.dynamics import LennardJones, energy_and_forces
    >>> pair = torch.tensor([[[0.0, 0.0], [2 ** (1 / 6), 0.0]]])
    >>> round(float(energy_and_forces(LennardJones(), pair).energy), 4)  # the bottom of the well
    -1.0
    """

    epsilon: Given = 1.0
    sigma: Given = 1.0
    cutoff: float | None = None
    shift: bool = True

    kind: ClassVar[int] = LENNARD_JONES

    def __post_init__(self) -> None:
        check("epsilon", self.epsilon, low=0.0)
        check("sigma", self.sigma, above=0.0)
        self._check_cutoff()

    def _energy(self, own: list[Tensor], r: float) -> Tensor:
        s6 = (own[1] / r) ** 6
        return 4.0 * own[0] * s6 * (s6 - 1.0)

    def parameters_in(self, dim: int, device: torch.device) -> Tensor:
        return self._table([energies(self.epsilon, device), lengths(self.sigma, device)])


@dataclass(frozen=True, eq=False)
class WCA(Term):
    """The repulsive part of Lennard-Jones: 4 epsilon ((sigma/r)^12 - (sigma/r)^6) + epsilon below 2^(1/6) sigma.

    Parameters
    ----------
    epsilon, sigma : as of ``LennardJones``; each pair of types ends at its own minimum, where energy and force are 0.

    Notes
    -----
    Source: J. D. Weeks, D. Chandler and H. C. Andersen, J. Chem. Phys. 54 (1971) 5237.

    Examples
    --------
    >>> import torch
    >>> from gmkern.dynamics import WCA, energy_and_forces
    >>> pair = torch.tensor([[[0.0, 0.0], [1.0, 0.0]]])
    >>> round(float(energy_and_forces(WCA(), pair).energy), 4)
    1.0
    """

    epsilon: Given = 1.0
    sigma: Given = 1.0

    kind: ClassVar[int] = LENNARD_JONES

    def __post_init__(self) -> None:
        check("epsilon", self.epsilon, low=0.0)
        check("sigma", self.sigma, above=0.0)

    @property
    def reach(self) -> float | None:
        return 2.0 ** (1 / 6) * float(as_tensor(self.sigma).detach().max())

    def parameters_in(self, dim: int, device: torch.device) -> Tensor:
        epsilon, sigma = torch.broadcast_tensors(energies(self.epsilon, device), lengths(self.sigma, device))
        return _pair_table([epsilon, sigma], 2.0 ** (1 / 6) * sigma.detach(), -epsilon)


@dataclass(frozen=True, eq=False)
class Morse(_CutPair):
    """depth (E^2 - 2 E) with E = exp(-rate (r - distance)): a well of that depth at that distance.

    Parameters
    ----------
    depth (>= 0), rate (> 0, one over length), distance (> 0) : numbers, 0-d tensors, or symmetric [T, T].
    cutoff, shift : as of ``LennardJones``.

    Notes
    -----
    Source: P. M. Morse, Phys. Rev. 34 (1929) 57.

    Examples
    --------
    >>> import torch
    >>> from gmkern.dynamics import Morse, energy_and_forces
    >>> pair = torch.tensor([[[0.0, 0.0], [1.0, 0.0]]])
    >>> round(float(energy_and_forces(Morse(depth=2.0), pair).energy), 4)
    -2.0
    """

    depth: Given = 1.0
    rate: Given = 1.0
    distance: Given = 1.0
    cutoff: float | None = None
    shift: bool = True

    kind: ClassVar[int] = MORSE

    def __post_init__(self) -> None:
        check("depth", self.depth, low=0.0, mixes=False)
        check("rate", self.rate, above=0.0, mixes=False)
        check("distance", self.distance, above=0.0, mixes=False)
        self._check_cutoff()

    def _energy(self, own: list[Tensor], r: float) -> Tensor:
        e = torch.exp(-own[1] * (r - own[2]))
        return own[0] * e * (e - 2.0)

    def parameters_in(self, dim: int, device: torch.device) -> Tensor:
        return self._table([between_types(v, device) for v in (self.depth, self.rate, self.distance)])


@dataclass(frozen=True, eq=False)
class Coulomb(_CutPair):
    """constant q_a q_b / r between charges.

    Parameters
    ----------
    charges : of each type, [T]; or a number or a 0-d tensor, that of all atoms.
    constant : the energy of two unit charges at unit distance; a number or a 0-d tensor.
    cutoff : as of ``LennardJones``.
    shift : whether the energy at the cutoff is taken away.
    dielectric : with a cutoff, a reaction field of this dielectric constant (> 0, inf for a conductor) beyond it: the
        pair's energy becomes constant q_a q_b (1/r + k r^2 - 1/cutoff - k cutoff^2), k = (dielectric - 1) / ((2
        dielectric + 1) cutoff^3).

    Notes
    -----
    Source of the reaction field: I. G. Tironi et al., J. Chem. Phys. 102 (1995) 5451. Charges have no sum over images:
    a periodic box needs a cutoff.

    Examples
    --------
    >>> import torch
    >>> from gmkern.dynamics import Coulomb, energy_and_forces
    >>> pair = torch.tensor([[[0.0, 0.0], [2.0, 0.0]]])
    >>> round(float(energy_and_forces(Coulomb([1.0, -1.0]), pair, types=[0, 1]).energy), 4)
    -0.5
    """

    charges: Given = 1.0
    constant: Given = 1.0
    cutoff: float | None = None
    shift: bool = True
    dielectric: float | None = None

    kind: ClassVar[int] = COULOMB

    def __post_init__(self) -> None:
        check("charges", self.charges, tables=False)
        scalar("constant", self.constant)
        self._check_cutoff()
        if self.dielectric is not None:
            if self.cutoff is None:
                raise ValueError("dielectric: got one without a cutoff, beyond which it would begin; pass cutoff")
            if self.dielectric != math.inf:
                _validate.number("dielectric", self.dielectric, above=0.0)

    def _energy(self, own: list[Tensor], r: float) -> Tensor:
        return own[0] * (1.0 / r + own[1] * r * r)

    def parameters_in(self, dim: int, device: torch.device) -> Tensor:
        charges = as_tensor(self.charges, device).reshape(-1)
        strength = as_tensor(self.constant, device) * charges[:, None] * charges[None, :]
        field = 0.0
        if self.dielectric is not None and self.cutoff is not None:
            e = self.dielectric
            field = (0.5 if e == math.inf else (e - 1.0) / (2.0 * e + 1.0)) / self.cutoff**3
        return self._table([strength, torch.full_like(strength, field)])


@dataclass(frozen=True, eq=False)
class SoftSphere(Term):
    """epsilon / exponent (1 - r / sigma)^exponent for r < sigma: spheres that resist overlap, finite as r goes to 0.

    Parameters
    ----------
    epsilon (>= 0), sigma (> 0) : as of ``LennardJones``, and mixed as there.
    exponent : 2 (harmonic), 2.5 (Hertz), or any multiple of 1/2 from 2 to 16.

    Examples
    --------
    >>> import torch
    >>> from gmkern.dynamics import SoftSphere, energy_and_forces
    >>> pair = torch.tensor([[[0.0, 0.0], [0.5, 0.0]]])
    >>> round(float(energy_and_forces(SoftSphere(), pair).energy), 4)
    0.125
    """

    epsilon: Given = 1.0
    sigma: Given = 1.0
    exponent: float = 2.0

    kind: ClassVar[int] = SOFT_SPHERE

    def __post_init__(self) -> None:
        check("epsilon", self.epsilon, low=0.0)
        check("sigma", self.sigma, above=0.0)
        exponent = _validate.number("exponent", self.exponent, low=2.0)
        if exponent > 16.0 or (2.0 * exponent) % 1.0 != 0.0:
            raise _validate.bad("exponent", repr(self.exponent), "a multiple of 1/2 from 2 to 16")

    @property
    def reach(self) -> float | None:
        return float(as_tensor(self.sigma).detach().max())

    def parameters_in(self, dim: int, device: torch.device) -> Tensor:
        epsilon, sigma = torch.broadcast_tensors(energies(self.epsilon, device), lengths(self.sigma, device))
        own = [epsilon, sigma, torch.full_like(sigma, float(self.exponent))]
        return _pair_table(own, sigma.detach(), torch.zeros_like(sigma))


@dataclass(frozen=True, eq=False)
class DoubleWell(_CutPair):
    """linear y + quadratic y^2 + quartic y^4 with y = r - distance, between all pairs: two preferred distances.

    Parameters
    ----------
    linear, quadratic, quartic, distance : numbers, 0-d tensors, or symmetric [T, T]. With the values by default, four
        atoms in the plane are the DW-4 system of the sampling literature at temperature 1.
    cutoff, shift : as of ``LennardJones``.

    Notes
    -----
    Source: J. Koehler, L. Klein and F. Noe, Equivariant flows, ICML 2020 (whose factor 1/2 over all ordered pairs is
    one over each pair here).

    Examples
    --------
    >>> import torch
    >>> from gmkern.dynamics import DoubleWell, energy_and_forces
    >>> pair = torch.tensor([[[0.0, 0.0], [4.0, 0.0]]])
    >>> round(float(energy_and_forces(DoubleWell(), pair).energy), 4)  # the top between the wells
    0.0
    """

    linear: Given = 0.0
    quadratic: Given = -4.0
    quartic: Given = 0.9
    distance: Given = 4.0
    cutoff: float | None = None
    shift: bool = True

    kind: ClassVar[int] = DOUBLE_WELL

    def __post_init__(self) -> None:
        for name in ("linear", "quadratic", "quartic", "distance"):
            check(name, getattr(self, name), mixes=False)
        self._check_cutoff()

    def _energy(self, own: list[Tensor], r: float) -> Tensor:
        y = r - own[3]
        return own[0] * y + own[1] * y**2 + own[2] * y**4

    def parameters_in(self, dim: int, device: torch.device) -> Tensor:
        given = (self.linear, self.quadratic, self.quartic, self.distance)
        return self._table([between_types(v, device) for v in given])


def _pair_table(own: list[Tensor], cutoff: Tensor, taken: Tensor) -> Tensor:
    own = [*own, *[torch.zeros_like(cutoff)] * (4 - len(own))]
    return torch.stack([*own, cutoff, taken], -1)
