"""The command that is run on a GPU machine, gone through without one."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

CHECK = Path(__file__).parents[2] / "benchmarks" / "gpu_check.py"
pytestmark = pytest.mark.skipif(not CHECK.exists(), reason="no benchmarks beside the tests")


def test_dry_run_goes_through_every_case(tmp_path):
    done = subprocess.run(
        [sys.executable, str(CHECK), "--dry-run", "--out", str(tmp_path)], capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads((tmp_path / "gpu_check.json").read_text())
    assert report["dry_run"] is True
    assert [row["status"] for row in report["rows"]] == ["ok"] * len(report["rows"])
    cases = {row["case"] for row in report["rows"]}
    assert {"ceilings", "noise.normal", "decode.sample", "dynamics.simulate"} <= cases
    assert all(min(row["seconds"].values()) > 0 for row in report["rows"] if "seconds" in row)
    assert "no figure below is a measurement" in done.stdout


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what happens without a GPU")
def test_says_that_there_is_no_gpu(tmp_path):
    done = subprocess.run(
        [sys.executable, str(CHECK), "--out", str(tmp_path)], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 2
    assert "no CUDA device; nothing was measured" in done.stderr
    assert list(tmp_path.iterdir()) == []
