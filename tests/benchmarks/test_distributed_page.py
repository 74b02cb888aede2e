"""The costs of docs/scaling.md: the model's arithmetic, and tables that are those of the measured file."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
if not (ROOT / "benchmarks").exists():
    pytest.skip("no benchmarks beside the tests", allow_module_level=True)
bench = importlib.import_module("bench_distributed")
MEASURED = ROOT / "benchmarks" / "results" / "distributed.json"


def test_costs_of_a_search():
    job = bench.Job(queries=1e6, references=1e9, dim=64, k=10, ranks=64)
    took = bench.cost(job, bench.Rank(pairs=1e9, link=50e9, latency=1e-4))
    assert took["search"] == pytest.approx(1e6 * 1e9 / 64 / 1e9)
    assert took["links"] == pytest.approx(376e6 * 63 / 64 / 50e9)  # 256 bytes of a query, 120 of its candidates
    assert took["latency"] == pytest.approx(6 * 6e-4)
    assert bench.memory(job)["references"] == 4e9


@pytest.mark.skipif(not (ROOT / "docs").exists(), reason="docs/ is not beside an installed wheel")
def test_the_page_holds_what_was_measured():
    page = (ROOT / "docs" / "scaling.md").read_text()
    assert page.count(bench.BEGIN) == page.count(bench.END) == 1
    if MEASURED.exists():
        assert bench.written(page, bench.page(json.loads(MEASURED.read_text()))) == page
    else:
        assert bench.written(page, "Not measured yet.") == page


def test_tables_are_written_between_the_marks():
    row = bench.Job(2000, 100_000, 16, 10, 2)._asdict()
    row |= {"seconds": 0.5, "search": 0.25, "pairs": 4e8, "bytes": 184e3}
    links = {"ranks": 2, "agreement": 3e-4, "gather": 1.5e9, "exchange": 2e9}
    found = {"about": {"machine": "some", "torch": "2"}, "searches": [row], "links": [links]}
    text = bench.written(f"before\n{bench.BEGIN}\nold\n{bench.END}\nafter", bench.page(found))
    assert "old" not in text
    assert text.startswith("before\n")
    assert text.endswith("\nafter")
    assert "| 2 | 16 | 1,000 | 50,000 | 500 ms | 250 ms | 4.00e+08 | 0.18 MB |" in text
    assert "| 16 | 10.9 h | 3.62 ms | 10.8 ms | 1.0 GB | 0.30 GB |" in text
