"""``gmkern bench``: what it makes of pytest-benchmark's numbers, one quick run, and its user's mistakes."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest
from click.testing import CliRunner

import gmkern
from gmkern.cli import bench
from gmkern.cli.app import app

BENCHMARKS = Path(gmkern.__file__).parents[1] / "benchmarks"
here = pytest.mark.skipif(not BENCHMARKS.exists(), reason="no benchmarks beside the package")


def entry(name: str, tool: str, median: float) -> dict:
    stats = {"median": median, "q1": 0.9 * median, "q3": 1.2 * median, "rounds": 5}
    return {"name": name, "params": {"tool": tool}, "stats": stats, "extra_info": {"commit": "abc"}}


def test_ratios_are_within_a_case_and_absent_tools_are_named():
    entries = [
        entry("test_op[gmkern-D=2 k=1]", "gmkern", 2e-3),
        entry("test_op[torch.cdist-D=2 k=1]", "torch.cdist", 5e-3),
        entry("test_op[D=3 k=1-gmkern]", "gmkern", 1e-3),
        entry("test_op[D=3 k=1-torch.cdist]", "torch.cdist", 4e-3),
    ]
    rows = bench.measured("neighbors", entries)
    assert [row.case for row in rows] == ["op, D=2 k=1"] * 2 + ["op, D=3 k=1"] * 2
    assert [row.ratio for row in rows] == [None, pytest.approx(2.5), None, pytest.approx(4.0)]
    assert (rows[1].low, rows[1].high) == (0.9 * 5e-3, 1.2 * 5e-3)
    assert rows[1].about == {"commit": "abc"}
    xml = """<testsuite>
      <testcase name="test_op[faiss-D=2]"><skipped message="faiss is not installed"/></testcase>
      <testcase name="test_op[faiss-D=3]"><skipped message="faiss is not installed"/></testcase>
      <testcase name="test_op[sklearn-D=3]"><failure message="AssertionError: other neighbours&#10;more"/></testcase>
      <testcase name="test_op[gmkern-D=3]"/></testsuite>"""
    missed = bench.missing("neighbors", ElementTree.fromstring(xml))
    assert missed == [
        bench.Missed("neighbors", "faiss", 2, "faiss is not installed", False),
        bench.Missed("neighbors", "sklearn-D=3", 1, "AssertionError: other neighbours", True),
    ]
    text = bench.markdown(rows, missed)
    assert "| neighbors | op, D=2 k=1 | torch.cdist | 5.0 ms | 4.5 ms – 6.0 ms | 2.5× | commit abc |" in text
    assert "- faiss is not installed (2 cases)" in text
    assert "sklearn-D=3: AssertionError: other neighbours (1 case)" in text


@here
def test_a_quick_run_measures_and_checks(tmp_path):
    done = CliRunner().invoke(app, ["bench", "neighbors", "--quick", "--json", "-o", str(tmp_path / "bench.md")])
    assert done.exit_code == 0, done.stderr
    found = json.loads(done.stdout)
    tools = {row["tool"]: row for row in found["rows"]}
    assert {"gmkern", "torch.cdist"} <= set(tools)
    assert tools["gmkern"]["ratio"] is None
    assert tools["torch.cdist"]["ratio"] == tools["torch.cdist"]["median"] / tools["gmkern"]["median"]
    assert all(0 < row["low"] <= row["median"] <= row["high"] for row in found["rows"])
    assert {"machine", "torch", "commit"} <= set(tools["gmkern"]["about"])
    assert len(tools) + len(found["missed"]) == 5  # every rival is measured or named
    assert (tmp_path / "bench.md").read_text().count("| neighbors |") == len(found["rows"])


def test_mistakes_are_named(tmp_path, monkeypatch):
    runner = CliRunner()
    for words, code, named in (
        (["bench", "neighbours"], 2, "neighbours"),
        (["bench", "--quik"], 2, "--quick"),
        (["bench", "latent", "-o", str(tmp_path)], 2, "--out"),
        (["bench", "latent", "-o", ""], 1, "--out"),
        (["bench", "latent", "-o", str(tmp_path / "absent" / "bench.md")], 1, "--out"),
    ):
        done = runner.invoke(app, words)
        assert done.exit_code == code, done.output
        assert named in done.stderr
        assert done.stdout == ""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(bench.gmkern, "__file__", str(tmp_path / "gmkern" / "__init__.py"))
    done = runner.invoke(app, ["bench"])
    assert done.exit_code == 1
    assert "clone" in done.stderr
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "benchmarks" / "_compare.py").touch()
    done = runner.invoke(app, ["bench", "latent", "--quick"])  # a folder without the benchmark: pytest's own words
    assert done.exit_code == 1
    assert "Error: latent: pytest ended with 4: ERROR" in done.stderr
