"""What a case is, what it is to reach, and inputs that no cache holds."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

SHARE, RATE = "share of the ceiling that binds", "rate"


@dataclass(frozen=True)
class Mark:
    """What a case is to reach on one H200: at least ``least`` of a share, of a rate, or of a rival's time over ours."""

    least: float
    of: str
    """SHARE, RATE (of the case's units a second), or a rival's name."""


Rivals = dict[str, Callable[[], object] | str]
"""What else does the work of one run, or why it cannot here: a rival that is absent is named, never left out."""


@dataclass
class Case:
    """One kernel, ready to run."""

    shape: str
    run: Callable[[], object]
    check: Callable[[], None]  # raises AssertionError where the result is wrong
    rivals: Rivals = field(default_factory=dict)
    moved: float = 0.0  # bytes that one run must read and write: held to the copy's bandwidth
    read: float = 0.0  # bytes of a run that reads alone, but for a little: held to a read's bandwidth
    flop: float = 0.0  # of the run's products, which tensor cores could do: held to the bf16 rate
    work: float = 0.0  # units of `unit` that one run does
    unit: str = ""
    rival_scale: float = 1.0  # runs of a rival that do the work of one of ours
    captures: bool = True  # a run that is short is timed in a graph as well; False: it needs the host
    marks: tuple[Mark, ...] = ()


def rotating(make: Callable[[], Tensor], nbytes: int, device: torch.device) -> Callable[[], Tensor]:
    """Inputs in turn, together over four times the L2, so that no run finds its input in the cache."""
    cache = torch.cuda.get_device_properties(device).L2_cache_size if device.type == "cuda" else 0
    inputs = [make() for _ in range(math.ceil(4 * cache / nbytes) + 1)]
    state = {"at": 0}

    def following() -> Tensor:
        state["at"] = (state["at"] + 1) % len(inputs)
        return inputs[state["at"]]

    return following


def absent(module: str, package: str, device: torch.device) -> str | None:
    """Why a rival that needs ``module`` and a GPU cannot run, or None."""
    if device.type != "cuda":
        return "takes CUDA tensors"
    try:
        found = importlib.util.find_spec(module)
    except ModuleNotFoundError:  # of the package that it would be in
        found = None
    return None if found else f"not installed (pip install {package})"


def with_gradient(run: Callable[[], Tensor], leaves: list[Tensor]) -> Callable[[], object]:
    """A run forward and back: gradients of the sum, given to ``leaves`` anew each time."""
    return lambda: torch.autograd.grad(run().sum(), leaves)
