"""What a case is, and inputs that no cache holds."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass
class Case:
    """One kernel, ready to run."""

    shape: str
    run: Callable[[], object]
    check: Callable[[], None]  # raises AssertionError where the result is wrong
    rivals: dict[str, Callable[[], object]] = field(default_factory=dict)
    moved: int = 0  # bytes that one run must read and write: share of the copy bandwidth
    work: float = 0.0  # units of `unit` that one run does
    unit: str = ""
    rival_scale: float = 1.0  # runs of a rival that do the work of one of ours


def rotating(make: Callable[[], Tensor], nbytes: int, device: torch.device) -> Callable[[], Tensor]:
    """Inputs in turn, together over four times the L2, so that no run finds its input in the cache."""
    cache = torch.cuda.get_device_properties(device).L2_cache_size if device.type == "cuda" else 0
    inputs = [make() for _ in range(max(1, math.ceil(4 * cache / nbytes)))]
    state = {"at": 0}

    def following() -> Tensor:
        state["at"] = (state["at"] + 1) % len(inputs)
        return inputs[state["at"]]

    return following
