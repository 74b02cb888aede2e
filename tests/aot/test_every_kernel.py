"""Every kernel that is launched on a GPU has its budget in one of these files."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import gmkern

PACKAGE, HERE = Path(gmkern.__file__).parent, Path(__file__).parent
CSRC = HERE.parents[1] / "csrc"


def launched(source: str) -> set[str]:
    """Names of functions with @triton.jit that some Python function launches: ``name[grid](...)``."""
    tree = ast.parse(source)
    return {
        call.func.value.id
        for call in ast.walk(tree)
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Subscript) and isinstance(call.func.value, ast.Name)
        if call.func.value.id.endswith("_kernel")
    }


def jitted(source: str) -> set[str]:
    return {
        node.name
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.FunctionDef) and any("triton.jit" in ast.unparse(d) for d in node.decorator_list)
    }


def compiled_here() -> set[str]:
    """Names that are used, not imported alone, in a file whose tests look at spills and shared memory.

    Registers have a bound of their own where more programs than one are to share a multiprocessor.
    """
    names: set[str] = set()
    for file in HERE.glob("test_*.py"):
        source = file.read_text()
        if all(f".{budget}" in source for budget in ("spilled", "shared")):
            names |= {node.id for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Name)}
            names |= {node.attr for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Attribute)}
    return names


SOURCES = {file: file.read_text() for file in PACKAGE.rglob("*.py")}
LAUNCHED = {name: file for file, text in SOURCES.items() if "triton" in text for name in launched(text)}


def test_kernels_are_found():
    known = {name for text in SOURCES.values() if "triton.jit" in text for name in jitted(text)}
    assert LAUNCHED.keys() <= known
    assert {name for name in known if name.endswith("_kernel")} == LAUNCHED.keys()  # nor one that nothing launches
    assert len(LAUNCHED) > 20


@pytest.mark.parametrize("name", sorted(LAUNCHED))
def test_triton_kernel_has_a_budget(name):
    assert name in compiled_here(), f"{name} of {LAUNCHED[name].relative_to(PACKAGE)} has no budget in tests/aot"


@pytest.mark.skipif(not CSRC.exists(), reason="no sources beside the tests")
def test_every_cuda_kernel_is_budgeted():
    """nvcc compiles whole files: each .cu with a kernel is in the table of tests/aot/test_dynamics_cuda.py."""
    table = (HERE / "test_dynamics_cuda.py").read_text()
    for file in CSRC.rglob("*.cu"):
        if re.search(r"\b__global__\b", file.read_text()):
            assert file.name in table or file.stem in table, f"{file.name} has no budget"
