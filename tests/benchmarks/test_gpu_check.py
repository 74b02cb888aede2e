"""The command that is run on a GPU machine, gone through without one."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from gmkern._owners import OWNERS

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
CHECK = BENCHMARKS / "gpu_check.py"
pytestmark = pytest.mark.skipif(not CHECK.exists(), reason="no benchmarks beside the tests")

# What a GPU machine need not have: neither the tests' packages nor any rival.
NOT_THERE = ("pytest", "hypothesis", "scipy", "sklearn", "transformers", "peft", "ase", "matplotlib", "rich", "click",
             "threadpoolctl", "pybind11", "flashinfer", "flash_kmeans", "gmkern._host")  # fmt: skip
RIVAL = "softmax + torch.multinomial"
STATIC = "transformers, static cache, compiled"
FLASH = "flash-kmeans' assignment, of fp16"
SHARE, RATE = "share of the ceiling that binds", "rate"
MARKS = {
    ("decode.attention", 0.8, SHARE),
    ("decode.sample", 0.7, SHARE),
    ("decode.sample", 1.0, RIVAL),
    ("decode.sample", 1.0, "flashinfer"),
    ("decode.generate", 20.0, STATIC),
    ("decode.generate one row", 0.5, SHARE),
    *((f"neighbors.knn D={dim} k={k}", 3.0, "matmul + topk") for dim, k in ((16, 1), (64, 1), (128, 1), (64, 5))),
    *((f"neighbors.knn D={dim} k=1", 1.0, FLASH) for dim in (16, 64, 128, 512, 2048)),
    ("neighbors.knn D=2048 k=1", 0.5, SHARE),
    ("dynamics.simulate", 5e9, RATE),
    ("dynamics.simulate one system", 1e5, RATE),
    ("dynamics.EGNN", 4.0, "eager PyTorch"),
}


@pytest.fixture(scope="module")
def report(tmp_path_factory) -> dict:
    """A dry run where nothing is installed but PyTorch, NumPy and Triton."""
    folder = tmp_path_factory.mktemp("run")
    (folder / "sitecustomize.py").write_text(f"import sys\nsys.modules.update(dict.fromkeys({NOT_THERE}))\n")
    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"PYTHONPATH": str(folder)}
    done = subprocess.run(
        [sys.executable, str(CHECK), "--dry-run", "--seconds", "600", "--out", str(folder)],
        capture_output=True, text=True, timeout=600, env=env, cwd=folder,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "no figure below is a measurement" in done.stdout
    return json.loads((folder / "gpu_check.json").read_text()) | {"table": done.stdout}


def test_dry_run_goes_through_every_case(report):
    assert report["dry_run"] is True
    assert [row["status"] for row in report["rows"]] == ["ok"] * len(report["rows"])
    assert report["rows"][0]["case"] == "ceilings"
    for row in report["rows"]:
        assert {"device", "torch", "triton", "commit", "when"} <= row["environment"].keys()
        assert row["case"] in report["table"]
    for row in report["rows"][1:]:
        assert min(row["seconds"].values()) > 0
        assert row["ratio"].keys() == row["seconds"].keys() - {"gmkern"}
        assert row["not measured"] == {}
        assert row["ratio"] or row["absent"], f"{row['case']} stands beside nothing"
        for rival, why in row["absent"].items():
            assert f"{rival}: {why}" in report["table"]


def test_every_op_and_every_mark_has_a_case(report):
    cases = {row["case"] for row in report["rows"]}
    for op in {owner.op for owner in OWNERS}:
        named = op.replace("random.", "noise.")
        assert any(case == named or case.startswith(f"{named} ") for case in cases), f"{op} is not timed"
    marks = {(row["case"], mark["least"], mark["of"]) for row in report["rows"] for mark in row.get("marks", ())}
    assert marks >= MARKS
    assert all(mark["met"] is None for row in report["rows"] for mark in row.get("marks", ()))


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what happens without a GPU")
def test_says_that_there_is_no_gpu(tmp_path):
    done = subprocess.run(
        [sys.executable, str(CHECK), "--out", str(tmp_path)], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 2
    assert "no CUDA device; nothing was measured" in done.stderr
    assert list(tmp_path.iterdir()) == []


WORKER = """
import json, os, sys, time
def say(**said): print(json.dumps(said), flush=True)
full = {"seconds": {"gmkern": 1.0}, "not measured": {"slow": "not finished in its time"}}
for line in sys.stdin:
    name, budget = json.loads(line)
    if name == "hangs": time.sleep(600)
    if name == "dies": os.kill(os.getpid(), 9)
    if name == "fails": say(failed="AssertionError: another result"); sys.exit(1)
    say(row=full | {"doing": "gmkern"})
    if name == "dies late": os.kill(os.getpid(), 9)
    say(row=full | {"doing": "slow"})
    if name == "slow rival": time.sleep(600)
    if name == "deadly rival": os.kill(os.getpid(), 9)
    say(row={"pid": os.getpid()} | ({"not captured": {}} if name == "waits" else {}))
    say(done=name)
"""


@pytest.fixture
def modules(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    yield importlib.import_module("gpu_check"), importlib.import_module("gpu_cases.judging")
    for name in [name for name in sys.modules if name.split(".")[0] in ("gpu_check", "gpu_cases", "timing")]:
        del sys.modules[name]


def test_a_case_that_goes_wrong_is_red_and_the_others_go_on(modules, monkeypatch):
    monkeypatch.setattr(modules[0], "SHORTEST_CASE", 0.1)
    with modules[0].Worker(tiny=False) as worker:
        worker.command = [sys.executable, "-c", WORKER]
        begin = time.monotonic()
        first, second = worker.measure("one", 30), worker.measure("two", 30)
        assert first["status"] == second["status"] == "ok"
        assert first["pid"] == second["pid"]  # imports are paid for once
        assert worker.measure("fails", 30)["status"] == "FAILED: AssertionError: another result"
        assert worker.measure("dies", 30)["status"] == "FAILED: its process ended with status -9"
        assert worker.measure("dies late", 30)["status"] == "FAILED: its process ended with status -9"
        assert worker.measure("hangs", 1.0)["status"] == "FAILED: not finished in 1 s"
        for name, why in (("slow rival", "not finished in 1 s"), ("deadly rival", "its process ended with status -9")):
            row = worker.measure(name, 1.0 if name == "slow rival" else 30)
            assert (row["status"], row["not measured"]) == ("ok", {"slow": why})
        third = worker.measure("waits", 30)
        assert third["status"] == "ok"
        assert worker.measure("three", 30)["pid"] != third["pid"]  # a capture that failed may spoil what follows
        assert third["status"] == "ok"
        assert third["pid"] != first["pid"]
        assert worker.measure("four", 0.05)["status"] == "not run: the time budget was spent"
        assert time.monotonic() - begin < 60


def test_a_rival_that_is_not_installed_is_told(modules):
    absent, gpu = importlib.import_module("gpu_cases.case").absent, torch.device("cuda")
    assert absent("no_such_package.inner", "no-such", gpu) == "not installed (pip install no-such)"
    assert absent("no_such_package", "no-such", gpu) == "not installed (pip install no-such)"
    assert absent("torch.nn", "torch", gpu) is None
    assert absent("torch", "torch", torch.device("cpu")) == "takes CUDA tensors"


def test_cases_share_the_time_that_is_left(modules):
    allowed = modules[0].allowed
    assert allowed(1000.0, 3) == 90.0
    assert allowed(200.0, 40) == 4 * 200.0 / 43
    left = 100.0
    for cases in range(30, 0, -1):  # whatever is slow takes all that it may
        left -= allowed(left, cases)
    assert left >= -1e-9


def test_a_short_run_is_captured_before_its_rivals(modules, monkeypatch):
    """With a stand-in for the device: a run takes as many seconds as it says."""
    measuring, of = importlib.import_module("gpu_cases.measuring"), importlib.import_module("gpu_cases.case")
    happened: list[str] = []

    def in_a_graph(run, calls):
        happened.append(f"graph of {run()}")
        if run() == "waits":
            raise RuntimeError("operation not permitted when stream is capturing")
        return lambda: run() + " captured"

    took = {"ours": 1e-3, "ours captured": 1e-2, "slow": 4e-3, "slow captured": 3e-2, "waits": 2e-3}
    monkeypatch.setattr(measuring, "in_a_graph", in_a_graph)
    monkeypatch.setattr(measuring, "seconds", lambda run, device, budget: happened.append(run()) or [took[run()]])
    monkeypatch.setattr(
        measuring, "side_by_side", lambda runs, device, budget: {name: took[run()] for name, run in runs.items()}
    )

    def fails() -> str:
        raise ValueError("no such shape\nmore")

    rivals = {"a": lambda: "slow", "b": fails, "c": lambda: "waits", "d": "not installed"}
    case = of.Case("[1]", lambda: "ours", lambda: happened.append("check"), rivals, read=5e-3)
    *_, row = measuring.rows_of(lambda *_: case, torch.device("cuda"), False, 1.0)
    assert happened == ["check", "ours", "graph of ours", "ours captured", "graph of slow", "graph of waits"]
    assert row["in a graph"] == {"gmkern": 1e-2 / 20, "a": 3e-2 / 20}
    assert row["absent"] == {"d": "not installed"}
    assert row["not measured"] == {"b": "failed: ValueError: no such shape"}
    assert "not permitted" in row["not captured"]["c"]
    row = modules[1].judged(row | {"status": "ok", "case": "x"}, {"read, bytes a second": 5.0}, tiny=False)
    assert row["ratio"] == pytest.approx({"a": 3.0, "c": 2.0})  # in graphs; as they are called
    assert row[SHARE] == pytest.approx(2.0)


ROW = {
    "case": "x", "status": "ok", "shape": "[1]", "seconds": {"gmkern": 2.0, "r": 6.0, "s": 5.0},
    "ours beside": {"r": 3.0, "s": 2.0}, "in a graph": {"gmkern": 1.0, "s": 0.5}, "absent": {"t": "not installed"},
    "not measured": {}, "rival scale": 1.0, "moved": 0.0, "read": 6.0, "flop": 2.0, "work": 10.0, "unit": "tokens",
}  # fmt: skip
CEILINGS = {"copy, bytes a second": 8.0, "read, bytes a second": 10.0, "bf16 matrix, flop a second": 100.0}


@pytest.mark.parametrize(
    ("least", "of", "reached", "met"),
    [
        (0.5, SHARE, 0.6, True),  # 6 bytes take 0.6 s of a read, against 1.0 s in a graph; products would take 0.02 s
        (0.7, SHARE, 0.6, False),
        (9.0, RATE, 10.0, True),
        (3.0, "r", 2.0, False),  # as they are called, side by side
        (0.5, "s", 0.5, True),  # both in graphs
        (1.0, "t", None, None),
    ],
)
def test_marks(modules, least, of, reached, met):
    judging = modules[1]
    row = judging.judged(ROW | {"marks": [{"least": least, "of": of}]}, CEILINGS, tiny=False)
    assert row["ceiling"] == "read, bytes a second"
    assert row["marks"][0]["reached"] == (None if reached is None else pytest.approx(reached))
    assert row["marks"][0]["met"] is met
    line = judging.told(row)
    assert "t: not installed" in line
    assert {True: "MET", False: "MISSED", None: "UNDECIDED"}[met] in line
