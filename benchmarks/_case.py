"""What one benchmark is: a case, which several tools solve from the same inputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import pytest
from _race import CLOCK

OURS = "gmkern"
Run = Callable[[int], Any]
"""One run on so many threads; gives its result. Threads of torch, OpenMP and BLAS are set by whoever calls."""
Tool = Callable[[Any], Run]
"""Of a case's inputs: loads its library and prepares what is not timed."""


class Point(NamedTuple):
    """A case's place on a curve of cost against size."""

    curve: str
    against: str
    size: float


@dataclass(frozen=True, eq=False)
class Case:
    """One work, and who does it. ``tools`` holds gmkern, whose result the others are held to."""

    name: str
    inputs: Callable[[], Any]
    tools: Mapping[str, Tool]
    check: Callable[[Any, str, Any, Any], None]
    """(inputs, tool, gmkern's result, the tool's): raises where they are not one. Called for gmkern too."""
    moved: float = 0.0
    """Bytes that have to be read from memory and written to it."""
    flop: float = 0.0
    """Floating-point operations of the direct method; a tool may need fewer."""
    moved_by: Mapping[str, float] = field(default_factory=dict)
    """The bytes of tools that hold the inputs narrower."""
    point: Point | None = None

    def __str__(self) -> str:
        return self.name if self.point is None else f"{self.name} ({self.point.against} grows)"


def across(cases: Sequence[Case]) -> Callable[[Any], Any]:
    """Marks a test of (case, tool, raced): a test for each tool of each case, those of a case one after another."""

    def mark(test: Any) -> Any:
        pairs = [pytest.param(case, tool, id=f"{case}-{tool}") for case in cases for tool in case.tools]
        return pytest.mark.benchmark(timer=CLOCK)(pytest.mark.parametrize(("case", "tool"), pairs)(test))

    return mark
