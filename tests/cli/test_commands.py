"""What a user types: right and wrong, in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

import gmkern
from gmkern.cli.app import app

ROOT = str(Path(gmkern.__file__).parents[1])


def run(*words: str, code: str | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    """``gmkern WORDS`` (or ``code`` with these arguments) in a new process."""
    start = ["-m", "gmkern"] if code is None else ["-c", code]
    paths = os.pathsep.join(filter(None, (ROOT, os.environ.get("PYTHONPATH"))))
    return subprocess.run(
        [sys.executable, *start, *words],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": paths, **environment},
    )


def test_info_prints_and_gives_json():
    plain, asked = run("info"), run("info", "--json")
    assert (plain.returncode, asked.returncode) == (0, 0)
    found, truth = json.loads(asked.stdout), gmkern.info()
    assert (found["version"], found["torch"], found["isas"]) == (truth.version, truth.torch, list(truth.isas))
    assert [owner["op"] for owner in found["owners"]] == [owner.op for owner in truth.owners]
    for text in (truth.version, truth.torch, *(owner.op for owner in truth.owners)):
        assert text in plain.stdout
    assert "\x1b" not in plain.stdout  # no colours where nobody sees them


@pytest.mark.parametrize("command", ["info", "evaluate"])
def test_a_wrong_instruction_set_is_named(tmp_path, command):
    np.save(tmp_path / "points.npy", np.random.default_rng(0).normal(size=(20, 3)))
    words = [] if command == "info" else [str(tmp_path / "points.npy")] * 2
    done = run(command, *words, GMKERN_ISA="mmx")
    assert done.returncode == 1
    assert "GMKERN_ISA" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("command", [(), ("info",), ("bench",), ("demo",), ("evaluate",), ("generate",), ("simulate",)])
def test_help_explains_and_has_examples(command):
    done = CliRunner().invoke(app, [*command, "--help"])
    assert done.exit_code == 0
    assert "gmkern demo --quick" in done.stdout if command == ("demo",) else "gmkern" in done.stdout
    assert "Examples:" in done.stdout if command else "Commands:" in done.stdout


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (("demo", "--seed", "-1"), "--seed"),
        (("demo", "--seed", "4294967296"), "--seed"),
        (("demo", "--seed", "one"), "--seed"),
        (("demo", "--quik"), "--quick"),  # click guesses what was meant
        (("demo", "here"), "here"),
        (("dmeo",), "dmeo"),
        (("demo", "--output", __file__), "--output"),
    ],
)
def test_wrong_arguments_are_named(words, named):
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 2
    assert named in done.stderr
    assert done.stdout == ""


def test_a_process_says_the_same():
    helped, wrong = run("demo", "--help"), run("dmeo")
    assert (helped.returncode, wrong.returncode) == (0, 2)
    assert "gmkern demo --quick" in helped.stdout
    assert "dmeo" in wrong.stderr
    assert "Traceback" not in wrong.stderr
    assert wrong.stdout == ""


def test_an_output_that_cannot_be_made_fails_at_once(tmp_path):
    (tmp_path / "file").write_text("")
    done = run("demo", "--output", str(tmp_path / "file" / "report"))
    assert done.returncode == 1
    assert str(tmp_path / "file" / "report") in done.stderr
    assert "train" not in done.stderr  # before the work, not after
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("missing", "package"), [("click", "click"), ("rich", "rich"), ("jinja2", "jinja2"), ("sklearn", "scikit-learn")]
)
def test_a_missing_package_is_named_with_its_extra(tmp_path, missing, package):
    """The package is hidden from a process that runs the command."""
    hide = (
        "import sys\n"
        f"sys.modules[{missing!r}] = None\n"  # import raises ModuleNotFoundError, as for an absent package
        "from gmkern.cli import main\n"
        "main()\n"
    )
    done = run("demo", "--quick", "--output", str(tmp_path / "report"), code=hide)
    assert done.returncode == 1
    assert package in done.stderr
    assert "pip install 'gmkern[cli]'" in done.stderr
    assert "Traceback" not in done.stderr
