"""The numbers of each step: constants, or tables whose row n is step n's."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from gmkern.dynamics.integrators import Integrator, numbers_of

_NAMES = ("dt", "temperature", "friction", "noise")  # the columns of the compiled ops' coefficients, before the bridge


@dataclass(frozen=True)
class Schedule:
    """What an integrator's numbers are at the steps of one call."""

    columns: dict[str, Tensor]  # float64 [1 | rows, 1 | S]
    first: int  # the number of the call's first step
    steps: int
    start_time: float = 0.0

    def at(self, step: int) -> dict[str, Tensor]:
        """The numbers of step ``step``: float64 [1] or [S]."""
        return {name: column[step if column.shape[0] > 1 else 0] for name, column in self.columns.items()}

    def used(self, name: str) -> Tensor:
        """The rows of the call's own steps, [1 | steps, 1 | S]."""
        column = self.columns[name]
        return column if column.shape[0] == 1 else column[self.first : self.first + max(self.steps, 1)]

    def time(self, step: int, fraction: float) -> Tensor:
        """The time ``fraction`` of the way through step ``step``: float64 [1] or [S]."""
        dt = self.columns["dt"]
        if dt.shape[0] == 1:
            return self.start_time + (step + fraction) * dt[0]
        if fraction == 1:  # the next step's start, to the bit
            return self.start_time + self._elapsed[step + 1]
        return self.start_time + self._elapsed[step] + fraction * dt[step]

    @cached_property
    def _elapsed(self) -> Tensor:
        dt = self.columns["dt"]
        return torch.cat([torch.zeros_like(dt[:1]), dt.cumsum(0)])

    @cached_property
    def bridge(self) -> Tensor:
        """[steps, 1 | S]: the variance from the call's start to each step over that to the step's end."""
        noise, dt = self.used("noise"), self.used("dt")
        counts = torch.arange(self.steps + 1, dtype=torch.float64, device=dt.device)[:, None]
        variance = noise * noise * dt
        if variance.shape[0] == 1:
            return (counts[:-1] / counts[1:]).expand(-1, variance.shape[1])
        total = torch.cat([torch.zeros_like(variance[:1]), variance.cumsum(0)])
        return total[:-1] / total[1:]

    def table(self, with_bridge: bool) -> Tensor:
        """The compiled ops' coefficients [1 | steps, 1 | S, 5]."""
        none = torch.zeros(1, 1, dtype=torch.float64, device=self.columns["dt"].device)
        columns = [self.used(name) if name in self.columns else none for name in _NAMES]
        columns.append(self.bridge if with_bridge and self.steps else none)
        return torch.stack(torch.broadcast_tensors(*columns), dim=-1).contiguous()


def schedule_of(
    integrator: Integrator, systems: int, first: int, steps: int, start_time: float, device: torch.device
) -> Schedule:
    """The integrator's numbers, once their shapes are known to fit."""
    columns = numbers_of(integrator, systems, first + steps, device)
    return Schedule(columns, first, steps, start_time)
