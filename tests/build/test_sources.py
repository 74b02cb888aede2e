"""What the tracked files promise: one version, no machine's paths, a source archive that builds, plain failures."""

from __future__ import annotations

import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

import gmkern

ROOT = Path(__file__).parents[2]
IS_CHECKOUT = (ROOT / ".git").exists() and shutil.which("git") is not None
pytestmark = pytest.mark.skipif(not IS_CHECKOUT, reason="reads the tracked files of a checkout")


def tracked() -> list[Path]:
    names = subprocess.check_output(["git", "-C", str(ROOT), "ls-files", "-z"], text=True).split("\0")
    return [ROOT / name for name in names if name and (ROOT / name).exists()]


def test_version_is_written_in_one_place():
    version = re.escape(gmkern.__version__)
    code = [path for path in tracked() if path.suffix in (".py", ".toml", ".txt", ".cpp", ".h", ".cu", ".inl")]
    holders = [path.relative_to(ROOT) for path in code if re.search(rf"[\"']{version}[\"']", path.read_text())]
    assert holders == [Path("gmkern/_version.py")]


def test_version_is_the_installed_one():
    try:
        installed = importlib.metadata.version("gmkern")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("gmkern is on the path, not installed")
    assert installed == gmkern.__version__


def test_no_file_names_a_machine():
    """Paths, addresses and keys of one machine do not belong in the sources."""
    machine = re.compile(r"(?<![\w.])/(root|home|work|opt|mnt|Users)/\w")
    found = []
    for path in tracked():
        if path.suffix in (".png", ".npz", ".so") or path == Path(__file__):
            continue
        found += [f"{path.relative_to(ROOT)}: {line}" for line in path.read_text().splitlines() if machine.search(line)]
    assert found == []


REPOSITORYS_OWN = {".ci/run", ".clang-format", ".gitignore", ".pre-commit-config.yaml"}
MADE = {"PKG-INFO", "setup.cfg"}  # by setuptools, beside gmkern.egg-info


def test_source_archive_holds_what_is_tracked(tmp_path):
    copy = tmp_path / "copy"
    for path in tracked():
        target = copy / path.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, target)
    program = "from setuptools import build_meta; print(build_meta.build_sdist('dist'))"
    subprocess.run([sys.executable, "-c", program], cwd=copy, check=True, capture_output=True)
    (archive,) = (copy / "dist").glob("*.tar.gz")
    with tarfile.open(archive) as opened:
        names = {member.name.partition("/")[2] for member in opened.getmembers() if member.isfile()}
        made = [opened.extractfile(member) for member in opened.getmembers() if "egg-info/" in member.name]
        assert not any(str(tmp_path).encode() in text.read() for text in made if text is not None)
    names -= {name for name in names if name in MADE or name.startswith("gmkern.egg-info/")}
    assert names == {str(path.relative_to(ROOT)) for path in tracked()} - REPOSITORYS_OWN


def test_every_op_runs_without_torch_too():
    """The driver of tests/native, which the thread sanitizer and other processors run, calls each op of the CPU."""
    launchers = [path for path in tracked() if path.suffix == ".cpp" and "csrc" in path.parts]
    ops = {op for path in launchers for op in re.findall(r"m\.impl\(\"(\w+)\"", path.read_text())}
    told = {"isa", "best_isa", "has_cuda", "set_interpreter", "take_raised"}  # no kernels
    told |= {"symmetric_eigen", "cholesky"}  # PyTorch's
    assert told < ops
    cases = "\n".join(path.read_text() for path in (ROOT / "tests" / "native").glob("*.cpp"))
    assert {op for op in ops - told if f'("{op}")' not in cases} == set()


def test_every_source_is_built():
    """CMake's lists are explicit: a file that nobody lists is dead code."""
    cmake = (ROOT / "CMakeLists.txt").read_text()
    sources = [path for path in tracked() if path.suffix in (".cpp", ".inl", ".cu") and "csrc" in path.parts]
    unlisted = [path.name for path in sources if str(path.relative_to(ROOT / "csrc")) not in cmake]
    included = "\n".join(path.read_text() for path in tracked() if path.suffix in (".cpp", ".h", ".cu", ".inl"))
    assert [name for name in unlisted if not re.search(rf'#include ".*{re.escape(name)}"', included)] == []


def test_set_up_says_what_is_missing():
    environment = {**os.environ, "CXX": "no-such-compiler"}
    command = [sys.executable, str(ROOT / "tools" / "bootstrap.py"), "--venv", "never-made"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "gmkern cannot be built here; missing:" in done.stderr
    assert "a C++17 compiler, no-such-compiler is none" in done.stderr
    assert not Path("never-made").exists()


def test_make_says_what_is_missing():
    command = ["make", "-C", str(ROOT), "-B", ".venv/.ready", "PYTHON=no-such-python"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "missing: Python >= 3.10 (no-such-python is not on the PATH)" in done.stdout
