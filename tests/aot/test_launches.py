"""Kernels are launched as Triton can launch them: seen without a GPU."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

import gmkern

ROOT = Path(__file__).parents[2]
# what Triton's own launcher, which it writes for each kernel, calls what it holds beside the kernel's arguments
TAKEN = {"params", "specialization", "options", "backend", "specialize_impl", "grid", "warmup"}


def test_no_argument_has_a_name_that_the_launcher_takes():
    kernels = 0
    for path in Path(gmkern.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef) and node.name.endswith("_kernel") and node.decorator_list:
                kernels += 1
                assert not TAKEN & {argument.arg for argument in node.args.args}, f"{path}: {node.name}"
    assert kernels > 20


LAUNCHED = {
    "launches": {
        *("steps_kernel", "embed_kernel", "linear_kernel", "place_kernel", "attention_kernel", "norm_kernel"),
        *("head_kernel", "masses_kernel", "finish_kernel", "sample_kernel", "advance_kernel", "score_kernel"),
        *("gradient_kernel", "noise_kernel"),
    },
    "launches_of_neighbors": {
        *("nearest_kernel", "distances_kernel", "lanes_kernel", "sieve_kernel", "rerank_kernel", "extents_kernel"),
        *("halves_kernel", "count_kernel", "decide_kernel", "doubts_kernel", "sum_kernel", "total_kernel"),
        *("gradient_kernel", "attention_kernel", "fold_kernel", "draw_kernel", "network_kernel", "layer_kernel"),
        "noise_kernel",
    },
}


@pytest.mark.parametrize("module", LAUNCHED)
def test_launches(module):
    pytest.importorskip("triton")
    clean = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-m", f"tests.aot.{module}"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=clean | {"PYTHONPATH": str(Path(gmkern.__file__).parents[1])},
    )
    assert done.returncode == 0, done.stderr[-4000:]
    assert set(done.stdout.split()) == LAUNCHED[module]
