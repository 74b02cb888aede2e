"""What the benchmarks share under pytest: an order, and ``--quick``."""

from __future__ import annotations

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--quick", action="store_true", help="of each benchmark the first case alone, with every rival")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Has the tools of one case run one after another: parametrisation alone would part them by minutes."""
    order: dict[tuple[str, str], int] = {}
    first: dict[str, str] = {}
    for item in items:
        test, case = _case(item)
        order.setdefault((test, case), len(order))
        first.setdefault(test, case)
    items.sort(key=lambda item: order[_case(item)])
    if config.getoption("--quick"):
        left = [item for item in items if first[_case(item)[0]] != _case(item)[1]]
        config.hook.pytest_deselected(items=left)
        items[:] = [item for item in items if first[_case(item)[0]] == _case(item)[1]]


def _case(item: pytest.Item) -> tuple[str, str]:
    """The test, and its parameters without the tool."""
    test, _, parameters = item.nodeid.partition("[")
    called = getattr(item, "callspec", None)
    tool = "" if called is None else str(called.params.get("tool", called.params.get("who", "")))
    return test, parameters.removesuffix("]").replace(tool, "", 1)
