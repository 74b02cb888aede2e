"""Importing gmkern compiles nothing, changes nothing and takes no time to speak of."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import gmkern

ROOT = Path(gmkern.__file__).parents[1]

PROGRAM = """
import json, os, sys, time, warnings, torch
warnings.simplefilter("error")
def state():
    return [dict(os.environ), torch.get_num_threads(), str(torch.get_default_dtype()), torch.initial_seed(),
            torch.get_float32_matmul_precision(), torch.is_grad_enabled(), torch.cuda.is_initialized(), list(sys.path)]
before, begin = state(), time.process_time()
def children(event, arguments):
    if event in ("subprocess.Popen", "os.system", "os.fork", "os.posix_spawn", "os.exec"):
        started.append(event)
    if event == "open" and isinstance(arguments[1], str) and any(c in arguments[1] for c in "wax+"):
        written.append(str(arguments[0]))
started, written = [], []
sys.addaudithook(children)
import gmkern
print(json.dumps({
    "seconds": time.process_time() - begin, "changed": [a for a, b in zip(before, state()) if a != b],
    "started": started, "written": written, "modules": sorted({name.split(".")[0] for name in sys.modules})}))
"""


def run(cwd: Path) -> dict:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    text = subprocess.check_output([sys.executable, "-c", PROGRAM], cwd=cwd, env=environment, text=True)
    return json.loads(text)


HEAVY = {
    "triton", "scipy", "sklearn", "matplotlib", "transformers", "rich", "click", "jinja2", "pandas", "pytest", "PIL",
    "ase", "peft",
}  # fmt: skip


def test_import_is_quick_and_leaves_no_trace(tmp_path):
    seconds = []
    for _ in range(5):
        found = run(tmp_path)
        assert found["changed"] == []
        assert found["started"] == []
        assert found["written"] == []
        assert HEAVY.isdisjoint(found["modules"])
        seconds.append(found["seconds"])
        # Beyond torch's own import, in the processor's time: a busy machine stretches the clock's. Its caches are then
        # others' too, and files come from the disk: another try.
        if seconds[-1] < 0.5:
            break
    assert min(seconds) < 0.5
    assert list(tmp_path.iterdir()) == []


def failing_import(program: str, path: Path) -> str:
    environment = {**os.environ, "PYTHONPATH": str(path), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    return done.stderr.splitlines()[-1]


def test_missing_library_is_a_clear_error(tmp_path):
    shutil.copytree(ROOT / "gmkern", tmp_path / "gmkern", ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    error = failing_import("import gmkern", tmp_path)
    assert error.startswith("ImportError: gmkern's compiled library is missing")
    assert "make build" in error


def test_old_torch_is_a_clear_error():
    error = failing_import("import torch; torch.__version__ = '2.9.1+cpu'; import gmkern", ROOT)
    assert error == "ImportError: gmkern needs torch >= 2.10; found 2.9.1+cpu"
