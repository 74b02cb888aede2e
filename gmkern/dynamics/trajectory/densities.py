"""Log densities of random steps and of their reversals, in float64 PyTorch: docs/dynamics.md has the maths."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Gaussians = Callable[..., Tensor]  # ``gaussians`` below, or a kernel in its place
Force = Callable[[Tensor, Tensor], Tensor]  # x [S, ...], t [S] -> [S, ...]

KINDS = ("same_drift", "reversed", "brownian", "bridge")  # as csrc/dynamics/dynamics.h numbers them
SAME_DRIFT, REVERSED, BROWNIAN, BRIDGE = range(4)

_HALF_LOG_2PI = 0.5 * math.log(2.0 * math.pi)


@dataclass(frozen=True)
class Backward:
    """The reversed step: its kind, another field's drift in place of the forward one's, and where a bridge starts."""

    kind: int = SAME_DRIFT
    force: Force | None = None
    pin: Tensor | None = None

    @property
    def needs_own_drift(self) -> bool:
        return self.force is None and self.kind in (SAME_DRIFT, REVERSED)

    def of_step(
        self,
        before: Tensor,
        after: Tensor,
        drift: Tensor | None,
        dt: Tensor,
        scale: Tensor,
        bridge: Tensor | None,
        over: Tensor,
        gaussian: Gaussians,
    ) -> Tensor:
        """[S]: the log density of going back from ``after`` to ``before``, ``drift`` being the field at ``after``.

        dt, scale and bridge (of Schedule.bridge, float64) broadcast to the positions.
        """
        if self.kind == BRIDGE:
            assert self.pin is not None  # it comes with the kind, and so does the bridge
            assert bridge is not None
            inside = torch.where(bridge > 0, bridge, torch.ones_like(bridge))
            log = gaussians(before, after, bridge, None, dt, scale.double() * torch.sqrt(inside), over, self.pin)
            return torch.where(bridge.reshape(-1) > 0, log, torch.zeros_like(log))  # with certainty to the pin
        if self.kind == BROWNIAN:
            drift = None
        return gaussian(before, after, None, drift, -dt if self.kind == REVERSED else dt, scale, over)


def gaussians(
    to: Tensor,
    start: Tensor,
    keep: Tensor | None,
    drift: Tensor | None,
    dt: Tensor,
    scale: Tensor,
    over: Tensor,
    pin: Tensor | None = None,
) -> Tensor:
    """[S] float64: log N(to; keep start + dt drift, scale^2), or about a pin, summed over the elements in ``over``."""
    to, start = to.double(), start.double()
    if pin is not None:
        to, start = to - pin.double(), start - pin.double()
    z = to - (start if keep is None else keep.double() * start)
    if drift is not None:
        z = z - dt.double() * drift.double()
    # what does not count has a scale of 1 and is where it should be, so that no gradient becomes NaN
    wide = torch.where(over, scale.double(), 1.0).expand(to.shape)
    z = torch.where(over, z, 0.0) / wide
    terms = torch.where(over, -0.5 * z * z - torch.log(wide) - _HALF_LOG_2PI, torch.zeros_like(z))
    return terms.reshape(to.shape[0], -1).sum(1)
