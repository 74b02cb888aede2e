"""The Python in the README, in docs/ and in docstrings runs as it stands."""

from __future__ import annotations

import doctest
import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import gmkern

ROOT = Path(__file__).parents[2]
PAGES = [path for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))) if path.exists()]
SOURCES = sorted(Path(gmkern.__file__).parent.rglob("*.py"))
MODULES = [
    ".".join(path.relative_to(Path(gmkern.__file__).parents[1]).with_suffix("").parts)
    for path in SOURCES
    if re.search(r"^\s*>>> ", path.read_text(), flags=re.M)
]
BLOCK = re.compile(r"^```python\n(.*?)^```", flags=re.M | re.S)


def blocks(page: Path) -> list[str]:
    return BLOCK.findall(page.read_text())


@pytest.mark.skipif(not PAGES, reason="the pages are not beside an installed wheel")
@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page)], ids=lambda page: page.name)
def test_python_blocks_run(page, tmp_path):
    """The blocks of a page are one program: later ones use the names of earlier ones."""
    program = tmp_path / "page.py"
    program.write_text("\n".join(blocks(page)))
    environment = {**os.environ, "PYTHONPATH": str(Path(gmkern.__file__).parents[1])}
    done = subprocess.run([sys.executable, str(program)], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{page.name}:\n{done.stderr}"


@pytest.mark.parametrize("name", MODULES)
def test_docstring_examples_run(name):
    found = doctest.testmod(importlib.import_module(name), optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    assert found.attempted > 0
    assert found.failed == 0


@pytest.mark.skipif(not PAGES, reason="the pages are not beside an installed wheel")
def test_readme_shows_each_hot_path_in_ten_lines():
    shown = blocks(ROOT / "README.md")
    for call in ("generate(", "simulate(", "knn("):
        block = next(text for text in shown if call in text)
        assert len([line for line in block.splitlines() if line.strip()]) <= 10
