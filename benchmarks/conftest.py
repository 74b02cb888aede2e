"""What the benchmarks share under pytest: options, and the fixture that hands a race to pytest-benchmark."""

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import pytest
from _case import OURS, Case
from _machine import ceilings, circumstances
from _race import CLOCK, Raced, race
from _rivals import absent, versions

CHOSEN = pytest.StashKey[dict[Case, list[str]]]()
"""The tools of each case that is run."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--quick", action="store_true", help="of each benchmark the first case alone, with every rival")
    parser.addoption("--ours", action="store_true", help="gmkern alone, and no curves")
    parser.addoption("--rounds", type=int, default=25, help="rounds of a case at most")
    parser.addoption("--budget", type=float, default=1.5, help="seconds of a case's rounds, once there are three")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keeps what was asked for; a case's tools are together already (``across``)."""
    quick, ours = config.getoption("--quick"), config.getoption("--ours")
    first: dict[Any, Case] = {}
    kept, left = [], []
    for item in items:
        case, tool = item.callspec.params["case"], item.callspec.params["tool"]  # type: ignore[attr-defined]
        alone = first.setdefault(item.function, case) is case  # type: ignore[attr-defined]
        wanted = (not quick or alone) and not (case.point and (quick or ours)) and not (ours and tool != OURS)
        (kept if wanted else left).append(item)
    config.hook.pytest_deselected(items=left)
    items[:] = kept
    chosen: dict[Case, list[str]] = defaultdict(list)
    for item in kept:
        chosen[item.callspec.params["case"]].append(item.callspec.params["tool"])  # type: ignore[attr-defined]
    config.stash[CHOSEN] = chosen


@pytest.fixture
def raced(benchmark: Any, request: pytest.FixtureRequest) -> Callable[[Case, str], None]:
    """Runs the race of a case at its first tool, and hands each tool's rounds and facts to its benchmark."""
    config = request.config

    def hand_over(case: Case, tool: str) -> None:
        if (why := absent(tool)) is not None:
            pytest.skip(why)
        roofs = ceilings(config.getoption("--quick"))
        names = tuple(name for name in config.stash[CHOSEN][case] if absent(name) is None)
        result = _race(case, names, config.getoption("--rounds"), config.getoption("--budget"))[tool]
        if isinstance(result, ImportError):
            pytest.skip(f"{tool} cannot be loaded: {result}")
        if not isinstance(result, Raced):
            raise result
        benchmark.extra_info.update(
            case=str(case),
            tool=tool,
            threads=result.threads,
            memory=result.memory,
            moved=case.moved_by.get(tool, case.moved),
            flop=case.flop,
            ceilings=roofs,
            point=case.point and case.point._asdict(),
            about=circumstances() | versions(name for names in config.stash[CHOSEN].values() for name in names),
        )
        CLOCK.replay(benchmark, result.seconds)

    return hand_over


_race = functools.lru_cache(maxsize=1)(
    lambda case, names, rounds, budget: race(case, names, rounds=rounds, budget=budget)
)
