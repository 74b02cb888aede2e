"""``gmkern bench``: what it makes of pytest-benchmark's numbers, one quick run, and its user's mistakes."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from xml.etree import ElementTree

import click
import pytest
from click.testing import CliRunner

import gmkern
from gmkern.cli import bench
from gmkern.cli.app import app
from gmkern.cli.bench import page, rows
from gmkern.cli.bench.curves import curves
from gmkern.cli.bench.run import _watched
from gmkern.cli.bench.summary import summary
from gmkern.cli.bench.table import markdown

BENCHMARKS = Path(gmkern.__file__).parents[1] / "benchmarks"
PAGE = BENCHMARKS.parent / "docs" / "performance.md"
here = pytest.mark.skipif(not BENCHMARKS.exists(), reason="no benchmarks beside the package")


def entry(case: str, tool: str, median: float, size: int | None = None, **told: object) -> dict:
    """As pytest-benchmark writes it, with what the benchmarks add: 10 GB/s, 100 Gflop/s."""
    stats = {"median": median, "q1": 0.9 * median, "q3": 1.2 * median, "rounds": 5}
    point = None if size is None else {"curve": "op", "against": "N", "size": size}
    extra = {
        "case": case, "tool": tool, "threads": 2, "memory": 3 << 20, "moved": 1e6, "flop": 1e6, "point": point,
        "ceilings": {"read": 1e10, "fp32": 1e11}, "about": {"machine": "M", "commit": "abc"},
    }  # fmt: skip
    return {"stats": stats, "extra_info": extra | told}


ENTRIES = [
    entry("op, D=2", "gmkern", 2e-3),
    entry("op, D=2", "torch.cdist", 5e-3),
    entry("op, D=3", "gmkern", 1e-3, flop=5e7),
    entry("op, D=3", "torch.cdist", 4e-3, flop=5e7, memory=None),
    *(entry(f"op, N={n}", "gmkern", 1e-6 * n**1.5, n) for n in (100, 400, 1600)),
]
ABSENT = rows.Missed("neighbors", "faiss", 2, "faiss is not installed (pip install faiss-cpu)", False)


def test_ratios_and_shares_are_within_a_case():
    found = rows.rows_of("neighbors", ENTRIES[:4])
    assert [row.ratio for row in found] == [None, pytest.approx(2.5), None, pytest.approx(4.0)]
    assert (found[1].low, found[1].high) == (0.9 * 5e-3, 1.2 * 5e-3)
    # 1e6 bytes at 10 GB/s are 0.1 ms; 1e6 operations at 100 Gflop/s are 0.01 ms, 5e7 are 0.5 ms.
    assert [row.bound for row in found] == ["reading", "reading", "products", "products"]
    assert [row.share for row in found] == [pytest.approx(share) for share in (0.05, 0.02, 0.5, 0.125)]
    assert found[0].about["read"] == "10.0 GB/s"
    nothing = rows.rows_of("neighbors", [entry("op", "gmkern", 1.0, moved=0.0, flop=0.0)])[0]
    assert (nothing.share, nothing.bound) == (None, None)


def test_absent_and_failed_tools_are_named():
    xml = """<testsuite>
      <testcase name="test_op[D=2-faiss]"><skipped message="faiss is not installed (pip install faiss-cpu)"/></testcase>
      <testcase name="test_op[D=3-faiss]"><skipped message="faiss is not installed (pip install faiss-cpu)"/></testcase>
      <testcase name="test_op[D=3-POT]"><skipped message="POT cannot be loaded: no module x"/></testcase>
      <testcase name="test_op[D=3-sklearn]"><failure message="AssertionError: other neighbours&#10;more"/></testcase>
      <testcase name="bench_op.py"><error message="collection failure"/></testcase>
      <testcase name="bench_new.py"><error message="collection failure">x.py:1: in x
E   ImportError: cannot import name 'new'</error></testcase>
      <testcase name="test_op[D=3-gmkern]"/></testsuite>"""
    missed = rows.missing("neighbors", ElementTree.fromstring(xml))
    assert missed == [
        ABSENT,
        rows.Missed("neighbors", "POT", 1, "POT cannot be loaded: no module x", False),
        rows.Missed("neighbors", "D=3-sklearn", 1, "AssertionError: other neighbours", True),
        rows.Missed("neighbors", "bench_op.py", 1, "collection failure", True),
        rows.Missed("neighbors", "bench_new.py", 1, "collection failure: ImportError: cannot import name 'new'", True),
    ]
    text = markdown(rows.rows_of("neighbors", ENTRIES), missed)
    row = "| neighbors | op, D=2 | torch.cdist | 5.0 ms | 4.5 ms – 6.0 ms | 2.5× | 2.0% reading | 3 MiB | 2 | 1 |"
    assert row in text.splitlines()
    assert "| op | gmkern | 100: 1.0 ms, 400: 8.0 ms, 1600: 64 ms | N^1.50 |" in text
    assert "- faiss is not installed (pip install faiss-cpu) (2 cases)" in text
    assert "D=3-sklearn: AssertionError: other neighbours (1 case)" in text
    assert "1. neighbors: machine M; commit abc; read 10.0 GB/s; fp32 products 100 Gflop/s" in text


def test_exponents_are_fitted_to_sizes_in_any_order():
    entries = [
        entry(f"op, N={n}", tool, 1e-6 * n**power, n) for n in (64, 4, 16) for tool, power in (("a", 2), ("b", 1))
    ]
    found = curves(rows.rows_of("neighbors", [*entries, entry("op, alone", "c", 1.0, 8), entry("op", "a", 1.0)]))
    assert [(one.tool, one.sizes) for one in found] == [("a", (4, 16, 64)), ("b", (4, 16, 64))]
    assert [one.exponent for one in found] == [pytest.approx(2), pytest.approx(1)]


@here
def test_rows_of_several_files_make_one_page(tmp_path):
    first, second = rows.rows_of("neighbors", ENTRIES), rows.rows_of("neighbors", [entry("op, D=2", "gmkern", 7e-3)])
    for name, told, missed in (("a", first, [ABSENT]), ("b", second, [])):
        (tmp_path / f"{name}.json").write_text(json.dumps(rows.to_json(told, missed)))
    words = ["bench", "--json", "--page", str(tmp_path / "performance.md")]
    done = CliRunner().invoke(app, [*words, "--from", str(tmp_path / "a.json"), "--from", str(tmp_path / "b.json")])
    assert done.exit_code == 0, done.stderr
    found = json.loads(done.stdout)["rows"]
    assert len(found) == len(ENTRIES) - 1  # the later file's case, with all its tools
    assert [row["median"] for row in found if row["case"] == "op, D=2"] == [7e-3]
    page, folder = (tmp_path / "performance.md").read_text(), tmp_path / "performance"
    for shown in ("neighbors-ratios.svg", "neighbors-curves.svg"):
        assert f"](performance/{shown})" in page
        assert "<svg" in (folder / shown).read_text()
    assert json.loads((folder / "rows.json").read_text())["rows"] == found
    again = tmp_path / "again" / "performance.md"
    again.parent.mkdir()
    done = CliRunner().invoke(app, ["bench", "--from", str(folder / "rows.json"), "--page", str(again)])
    assert done.exit_code == 0, done.stderr
    assert again.read_text() == page
    for file in folder.iterdir():
        assert (again.parent / "performance" / file.name).read_bytes() == file.read_bytes()


@pytest.mark.skipif(not PAGE.exists(), reason="the pages are not beside an installed wheel")
def test_the_page_is_what_its_rows_and_its_template_make():
    folder = PAGE.with_suffix("")
    found, missed = rows.from_files([folder / "rows.json"])
    assert page.text(folder.name, BENCHMARKS / "performance.md.jinja", found, missed) == PAGE.read_text()
    shown = {line.partition("](")[2].removesuffix(")") for line in PAGE.read_text().splitlines() if line[:2] == "!["}
    assert shown == {f"{folder.name}/{file.name}" for file in folder.glob("*.svg")}


def test_the_summary_is_of_the_rows():
    narrow = [entry("op, D=3", "gmkern, int8", 1e-4), entry("op, N=4", "torch.cdist", 1.0, 4)]
    others = [entry("pair, D=3", tool, t) for tool, t in (("gmkern", 1e-3), ("torch.cdist", 7e-4), ("faiss", 2e-2))]
    text = summary(rows.rows_of("neighbors", [*ENTRIES, *narrow, *others]))
    assert text.splitlines()[0].startswith("In short, on M, at commit abc: ")
    assert text.splitlines()[2:] == [
        "- **neighbors**: `op` beside torch.cdist (2.5× to 4.0×); `pair` beside torch.cdist (0.7×), faiss (20×).",
        "- **Behind** in 1 of 4 rows: pair, D=3 beside torch.cdist (0.70×).",
    ]
    assert summary(rows.rows_of("neighbors", [entry("op", "gmkern", 1.0)])) == ""


@here
@pytest.mark.parametrize("kept", [slice(0, 4), slice(4, None), slice(0, 1)])
def test_a_page_shows_the_pictures_that_there_are(tmp_path, kept):
    """A quick run has no curves, a path without rivals no ratios."""
    (tmp_path / "a.json").write_text(json.dumps(rows.to_json(rows.rows_of("neighbors", ENTRIES[kept]), [])))
    written = tmp_path / "performance.md"
    done = CliRunner().invoke(app, ["bench", "--from", str(tmp_path / "a.json"), "--page", str(written)])
    assert done.exit_code == 0, done.stderr
    drawn = {file.name for file in (tmp_path / "performance").glob("*.svg")}
    assert len(drawn) == (kept != slice(0, 1))
    assert all((f"](performance/{name})" in written.read_text()) for name in drawn)
    assert written.read_text().count("![") == len(drawn)


@here
def test_a_page_without_rows_says_so(tmp_path):
    (tmp_path / "none.json").write_text(json.dumps(rows.to_json([], [])))
    page = tmp_path / "performance.md"
    done = CliRunner().invoke(app, ["bench", "--from", str(tmp_path / "none.json"), "--page", str(page)])
    assert done.exit_code == 0, done.stderr
    assert "Nothing has been measured for this page yet" in page.read_text()
    assert "## On a GPU\n\nNot measured." in page.read_text()


@here
def test_a_quick_run_measures_and_checks(tmp_path):
    words = ["bench", "neighbors", "--quick", "--rounds", "2", "--json", "-o", str(tmp_path / "bench.md")]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.stderr
    found = json.loads(done.stdout)
    first = [row for row in found["rows"] if row["case"].startswith("knn")]
    tools = {row["tool"]: row for row in first}
    assert {"gmkern", "torch.cdist"} <= set(tools)
    assert tools["gmkern"]["ratio"] is None
    assert tools["torch.cdist"]["ratio"] == tools["torch.cdist"]["median"] / tools["gmkern"]["median"]
    for row in found["rows"]:
        assert 0 < row["low"] <= row["median"] <= row["high"]
        assert row["rounds"] == 2
        assert row["point"] is None
        assert row["share"] > 0
        assert {"machine", "torch", "commit", "faiss-cpu", "read"} <= set(row["about"])
    # 2,000 x 5,000 distances in float32 are 40 MB, of which torch.cdist holds 1,000 rows at a time.
    assert tools["torch.cdist"]["memory"] > 1000 * 5000 * 4
    lacking = {one["tool"] for one in found["missed"]}
    assert set(tools) | lacking == {"gmkern", "torch.cdist", "scikit-learn", "SciPy", "faiss", "pykeops"}
    assert set(tools) & lacking == set()  # every rival is measured or named
    assert (tmp_path / "bench.md").read_text().count("| neighbors |") == len(found["rows"])


@here
def test_a_process_that_dies_costs_no_other_path_its_rows(monkeypatch):
    def run(path, *_):
        if path == "decode":
            raise click.ClickException("decode: pytest ended with -11: why")
        return ENTRIES[:2], []

    monkeypatch.setattr(bench, "run", run)
    done = CliRunner().invoke(app, ["bench", "neighbors", "decode", "latent", "--json"])
    assert done.exit_code == 1
    assert "Error: decode, every tool: pytest ended with -11: why" in done.stderr
    told = json.loads(done.stdout)
    assert {row["path"] for row in told["rows"]} == {"neighbors", "latent"}
    assert [one["path"] for one in told["missed"]] == ["decode"]


def test_where_a_process_died_is_told():
    lines = [
        "x.py::test[knn-faiss] Fatal Python error: Segmentation fault",
        "",
        "Current thread:",
        '  File "a.py", line 1',
    ]
    assert _watched([*lines, '  File "b.py", line 2', "Extension modules: c"], lambda percent: None) == (
        'x.py::test[knn-faiss] Fatal Python error: Segmentation fault: File "a.py", line 1'
    )


def test_mistakes_are_named(tmp_path, monkeypatch):
    runner = CliRunner()
    for words, code, named in (
        (["bench", "neighbours"], 2, "neighbours"),
        (["bench", "--quik"], 2, "--quick"),
        (["bench", "--rounds", "0"], 2, "--rounds"),
        (["bench", "latent", "-o", str(tmp_path)], 2, "--out"),
        (["bench", "latent", "-o", ""], 1, "--out"),
        (["bench", "latent", "-o", str(tmp_path / "absent" / "bench.md")], 1, "--out"),
        (["bench", "--from", str(tmp_path / "absent.json")], 2, "--from"),
        (["bench", "latent", "--from", __file__], 2, "--from"),
        (["bench", "--from", __file__], 1, "--from"),
        (["bench", "--compare", "HEAD", "--json"], 2, "--compare"),
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
    (tmp_path / "benchmarks" / "conftest.py").touch()
    done = runner.invoke(app, ["bench", "latent"])  # a folder without the benchmark: pytest's own words
    assert done.exit_code == 1
    assert "Error: latent, every tool: pytest ended with 4: ERROR" in done.stderr
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    for revision in ("no-such-revision", "--force"):
        done = runner.invoke(app, ["bench", "latent", f"--compare={revision}"])
        assert done.exit_code == 1
        assert f"--compare {revision}: git rev-parse --verify: fatal: " in done.stderr
        assert "REV is a commit, branch or tag" in done.stderr
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(bench.compare.sys, "executable", str(tmp_path / "python"))  # whose folder is searched, too
    done = runner.invoke(app, ["bench", "latent", "--compare", "HEAD"])
    assert done.exit_code == 1
    assert "--compare needs git, which is not installed" in done.stderr
