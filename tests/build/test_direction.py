"""Imports run one way: public -> ops -> kernels; a reference knows torch alone."""

from __future__ import annotations

import ast
import re
import sys
from fnmatch import fnmatch
from pathlib import Path

import pytest

import gmkern

PACKAGE = Path(gmkern.__file__).parent
CSRC = Path(__file__).parents[2] / "csrc"
MODULES = sorted(PACKAGE.rglob("*.py"))

# What a file of a name may not import from gmkern.
FORBIDDEN = {
    "reference.py": r"gmkern\.(?!_exact$|random$|random\.reference|random\.streams|.*\b(reference|densities)$)",
    "densities.py": r"gmkern\.(?!_exact$)",  # plain mathematics that a reference shares with a loop in Python
    "ops.py": r".*\bapi$",
    "triton_*.py": r".*\b(api|ops)$",
}


def imported(path: Path) -> set[str]:
    """The modules that a file imports when it runs, `from a import b` counted as a.b where that is a module."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            node.body = []
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            for alias in node.names:
                inner = PACKAGE.parent / node.module.replace(".", "/") / alias.name
                is_module = inner.is_dir() or inner.with_suffix(".py").exists()
                found.add(f"{node.module}.{alias.name}" if is_module else node.module)
    return found


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_run_one_way(path):
    names = imported(path)
    forbidden = [pattern for name, pattern in FORBIDDEN.items() if fnmatch(path.name, name)]
    against = [name for name in names for pattern in forbidden if re.match(pattern, name)]
    assert against == []
    if path.name == "reference.py":
        outside = {name.split(".")[0] for name in names} - {"gmkern", "torch"} - set(sys.stdlib_module_names)
        assert outside == set()
    if path.parent == PACKAGE and path.name in ("_library.py", "_backend.py", "_validate.py", "_owners.py"):
        assert {name for name in names if re.match(r"gmkern\.[a-z]", name)} == set()
    of_cli = path.parent == PACKAGE or path.relative_to(PACKAGE).parts[0] == "cli"
    assert not any(name.startswith(("gmkern.testing", "gmkern.cli")) for name in names) or of_cli


def test_there_are_files_to_check():
    names = [path.name for path in MODULES]
    assert names.count("reference.py") >= 3
    assert names.count("api.py") >= 3


def test_the_import_check_can_fail(tmp_path):
    path = tmp_path / "reference.py"
    path.write_text("from gmkern.random import api\n")
    assert [name for name in imported(path) if re.match(FORBIDDEN["reference.py"], name)] == ["gmkern.random.api"]


@pytest.mark.skipif(not CSRC.exists(), reason="reads the sources, which are not beside an installed wheel")
def test_cuda_and_body_files_include_no_torch_header():
    """.cu files know raw pointers alone; bodies instantiate no std:: template, whose weak code would be shared."""
    headers = re.compile(r'#include [<"]([^>"]+)[>"]')
    containers = {"vector", "string", "algorithm", "functional", "memory", "map", "unordered_map", "sstream", "numeric"}

    def closure(path: Path, seen: set[str]) -> set[str]:
        for name in headers.findall(path.read_text()):
            if name not in seen:
                seen.add(name)
                if (CSRC / name).exists():
                    closure(CSRC / name, seen)
        return seen

    files = [path for suffix in ("*.cu", "*.inl") for path in sorted(CSRC.rglob(suffix))]
    assert files
    for path in files:
        names = closure(path, set())
        assert not [name for name in names if name.startswith(("torch/", "ATen/", "c10/"))], path
        if path.suffix == ".inl":
            assert names.isdisjoint(containers), path
