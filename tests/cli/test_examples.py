"""The examples run, and find what they say they find."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import gmkern

EXAMPLES = Path(__file__).parents[2] / "examples"
pytestmark = pytest.mark.skipif(not EXAMPLES.exists(), reason="the examples are not beside an installed wheel")


def output_of(name: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(Path(gmkern.__file__).parents[1])}
    done = subprocess.run([sys.executable, str(EXAMPLES / name)], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_each_example_is_tested():
    assert sorted(path.name for path in EXAMPLES.glob("*.py")) == [
        "decode.py",
        "dynamics.py",
        "neighbors.py",
        "rollouts.py",
    ]


def test_neighbors_finds_each_planted_copy():
    text = output_of("neighbors.py")
    assert "copies at distance 0: 25 by gmkern" in text
    assert re.search(r"honest: .* duplicates 0\n", text)
    assert re.search(r"thief: .* duplicates 25\n", text)


def test_dynamics_finds_the_icosahedron():
    text = output_of("dynamics.py")
    found = int(re.search(r"(\d+) of 256 clusters", text).group(1))
    assert found >= 10
    lowest = [float(number) for number in re.findall(r"lowest +(-[\d.]+)", text)]
    assert lowest[-1] == pytest.approx(-44.3268, abs=0.3)


def test_decode_learns_from_what_the_sampler_reports():
    text = output_of("decode.py")
    rewards = [float(number) for number in re.findall(r"reward ([\d.]+)", text)]
    gaps = [float(number) for number in re.findall(r"at most (\S+)", text)]
    assert rewards[0] < 0.3
    assert rewards[-1] > 0.6
    assert max(gaps) < 1e-4


def test_rollouts_have_ratios_of_exactly_one_and_learn():
    text = output_of("rollouts.py")
    rewards = [float(number) for number in re.findall(r"gmkern: step .* reward ([\d.]+)", text)]
    assert rewards[0] < 0.2
    assert rewards[-1] > 0.4
    assert float(re.search(r"gmkern: ratios are off 1 by at most (\S+);", text).group(1)) == 0
    if "not installed" not in text:  # the control: with another sampler than the trainer's model it is not so
        assert float(re.search(r"transformers: ratios are off 1 by at most (\S+);", text).group(1)) > 0
