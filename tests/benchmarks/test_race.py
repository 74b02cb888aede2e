"""The race of a benchmark's tools: turns, checks, threads, memory, and what pytest-benchmark is told."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest
import torch

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
if not BENCHMARKS.exists():
    pytest.skip("no benchmarks beside the tests", allow_module_level=True)

from _case import OURS, Case  # noqa: E402
from _race import LEAST, grown, race  # noqa: E402
from _rivals import PACKAGES, Package, versions  # noqa: E402


def case(tools: dict, check=lambda given, tool, ours, theirs: None) -> Case:
    return Case("case", lambda: "inputs", tools, check)


def test_tools_take_turns_and_see_their_threads(threads):
    told: list[tuple[str, int, int]] = []

    def tool(name: str):
        def make(given: str):
            assert given == "inputs"
            return lambda n: told.append((name, n, torch.get_num_threads()))

        return make

    threads(1)
    found = race(case({OURS: tool("a"), "rival": tool("b")}), [OURS, "rival"], rounds=5, budget=10)
    assert [name for name, _, _ in told] == ["a", "b"] + ["a", "b"] * 5
    assert all(n == torch_threads == 1 for _, n, torch_threads in told)
    assert all(len(raced.seconds) == 5 and raced.threads == 1 for raced in found.values())
    threads(2)
    del told[:]
    found = race(case({OURS: tool("a")}), [OURS], rounds=25, budget=0)
    assert [n for _, n, _ in told[:5]] == [2, 1, 1, 2, 2]  # the first run, and two of each number
    assert all(n == torch_threads for _, n, torch_threads in told)
    assert len(found[OURS].seconds) == LEAST
    assert torch.get_num_threads() == 2


def test_another_result_has_no_time():
    def check(given, tool, ours, theirs):
        assert ours == theirs, f"{tool} differs"

    def broken(given):
        raise ImportError("no such library")

    def ending(given):
        raise SystemExit(3)  # as a library does that finds no device

    tools = {
        OURS: lambda _: lambda n: 1,
        "same": lambda _: lambda n: 1,
        "other": lambda _: lambda n: 2,
        "broken": broken,
        "ending": ending,
    }
    found = race(case(tools, check), list(tools), rounds=3, budget=0)
    kinds = ["Raced", "Raced", "AssertionError", "ImportError", "SystemExit"]
    assert [type(found[name]).__name__ for name in tools] == kinds
    assert "other differs" in str(found["other"])
    with pytest.raises(AssertionError, match="gmkern differs"):  # there is nothing to hold the others to
        race(case({OURS: lambda _: lambda n: float("nan")}, check), [OURS], rounds=3, budget=0)


def test_a_package_that_another_brought_has_no_version(monkeypatch):
    """conda's faiss has no metadata of faiss-cpu."""
    monkeypatch.setitem(PACKAGES, "faiss", Package("json", "no-such-package"))
    monkeypatch.setitem(PACKAGES, "POT", Package("no_such_module", "POT"))
    assert versions(["faiss", "POT", "PyTorch"]) == {"no-such-package": "of unknown version", "POT": "absent"}


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Linux tells")
def test_memory_of_a_run_is_its_peak():
    def run() -> float:
        return float(torch.ones(64 << 20, dtype=torch.uint8).max())

    for _ in range(2):  # what the first has freed is not hidden from the second
        memory, result = grown(run)
        assert result == 1
        assert 0.95 * (64 << 20) < memory < 2 * (64 << 20)
    assert grown(lambda: None)[0] < 8 << 20


def test_every_case_has_gmkern_first_a_name_of_its_own_and_known_rivals():
    seen: dict[str, Case] = {}
    quick: set[str] = set()  # what --quick runs: of each test the first case
    for file in sorted({*BENCHMARKS.glob("bench_*.py")} - {BENCHMARKS / "bench_distributed.py"}):  # no rivals: a model
        module = importlib.import_module(file.stem)
        tests = [value for name, value in vars(module).items() if name.startswith("test_")]
        assert tests, file
        for mark in (mark for test in tests for mark in test.pytestmark if mark.name == "parametrize"):
            first = mark.args[1][0].values[0]
            quick |= set(first.tools if first.point is None else ())
            for case, tool in (pair.values for pair in mark.args[1]):
                assert next(iter(case.tools)) == OURS, case
                assert tool in case.tools
                assert seen.setdefault(str(case), case) is case
                assert (case.moved, case.flop) != (0, 0) or "sinkhorn" in case.name
    assert set(PACKAGES) <= quick
    assert len([case for case in seen.values() if case.point]) > 40
