"""No public function is forgotten by the cases beside this file."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest

import gmkern
from tests.robustness.fuzzing import names_an_argument, public

PATHS = ("classical", "context", "decode", "dynamics", "latent", "metrics", "neighbors", "random")
# What is made by functions, and not by users; the base class of potentials; and what those that are collectives of
# several processes add to the functions of one (tests/distributed).
MADE = {"metrics.Report", "metrics.Scores", "dynamics.Potential", "dynamics.NeighborList"}


def functions() -> set[str]:
    """Every public function and class of the paths, but for results (named tuples)."""
    found = set()
    for path in PATHS:
        for name in public(path).__all__:
            thing = public(f"{path}.{name}")
            if callable(thing) and not (inspect.isclass(thing) and issubclass(thing, tuple)):
                found.add(f"{path}.{name}")
    return found - MADE


def fuzzed() -> set[str]:
    text = "".join(path.read_text() for path in Path(__file__).parent.glob("test_*.py"))
    cases = set(re.findall(r'\bfuzz\(\s*"([\w.]+)"', text))
    return cases | {f"dynamics.{name}" for name in re.findall(r'\bmade\("(\w+)"', text)}


def test_every_public_function_has_a_case():
    assert functions() - fuzzed() == set()
    assert {path for path in gmkern.__all__ if inspect.ismodule(public(path))} == set(PATHS)


def test_a_case_names_a_public_function():
    for name in fuzzed():
        assert callable(public(name)), name


@pytest.mark.parametrize(
    ("text", "clear"),
    [
        ("k: got 0; takes an int >= 1", True),
        ("params.top_p: got 2; takes a number", True),
        ("kernel: something", False),
        ("k must be positive", False),
        ("expected scalar type Float", False),
    ],
)
def test_what_a_clear_error_is(text, clear):
    """The check of errors can fail."""
    assert names_an_argument(ValueError(text), ["k", "params"]) == clear
