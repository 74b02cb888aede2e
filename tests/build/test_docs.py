"""What pages and docstrings show runs as it stands, links lead somewhere, and the reference lists every name."""

from __future__ import annotations

import doctest
import importlib
import inspect
import os
import re
import subprocess
import sys
import unicodedata
from pathlib import Path

import pytest
import torch.distributed as dist

import gmkern

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = [path for path in (ROOT / "README.md", *sorted(DOCS.rglob("*.md"))) if path.exists()]
SOURCES = sorted(Path(gmkern.__file__).parent.rglob("*.py"))
MODULES = [
    ".".join(path.relative_to(Path(gmkern.__file__).parents[1]).with_suffix("").parts)
    for path in SOURCES
    if re.search(r"^\s*>>> ", path.read_text(), flags=re.M)
]
BLOCK = re.compile(r"^```python\n(.*?)^```", flags=re.M | re.S)
PICTURE = re.compile(r"^<!-- picture (\w+): .+? -->$", flags=re.M | re.S)
PUBLIC = (
    "classical", "context", "decode", "distributed", "dynamics", "integrations.ase", "latent", "metrics", "neighbors",
    "random", "testing",
)  # fmt: skip

in_a_checkout = pytest.mark.skipif(not DOCS.exists(), reason="the pages are not beside an installed wheel")


def blocks(page: Path) -> list[str]:
    return BLOCK.findall(page.read_text())


@in_a_checkout
@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page)], ids=lambda page: str(page.relative_to(ROOT)))
def test_python_blocks_run(page, tmp_path):
    """The blocks of a page are one program: later ones use the names of earlier ones."""
    program = tmp_path / "page.py"
    program.write_text("\n".join(blocks(page)))
    environment = {**os.environ, "PYTHONPATH": str(Path(gmkern.__file__).parents[1])}
    done = subprocess.run([sys.executable, str(program)], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{page.name}:\n{done.stderr}"


@pytest.fixture
def group_of_one(tmp_path):
    """What ``torchrun`` and ``init_process_group`` give a program, for one rank."""
    dist.init_process_group("gloo", f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.parametrize("name", MODULES)
def test_docstring_examples_run(name, request):
    if name.startswith("gmkern.distributed"):
        request.getfixturevalue("group_of_one")
    found = doctest.testmod(importlib.import_module(name), optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    assert found.attempted > 0
    assert found.failed == 0


@in_a_checkout
def test_readme_shows_each_hot_path_in_ten_lines():
    shown = blocks(ROOT / "README.md")
    for call in ("generate(", "simulate(", "knn("):
        block = next(text for text in shown if call in text)
        assert len([line for line in block.splitlines() if line.strip()]) <= 10


def public() -> dict[str, object]:
    """What users import, by its name in the module that they import it from."""
    found: dict[str, object] = {"gmkern.info": gmkern.info}
    for name in PUBLIC:
        module = importlib.import_module(f"gmkern.{name}")
        own = [key for key, value in vars(module).items() if getattr(value, "__module__", "") == module.__name__]
        names = getattr(module, "__all__", [key for key in own if not key.startswith("_")])
        found |= {f"gmkern.{name}.{key}": getattr(module, key) for key in names}
    return found


def test_every_public_module_is_known():
    """A module with a face of its own is listed above, or here with why it is none."""
    tools = {"cli", "demo", "report", "decode.adapters"}  # programs, and what decode loads by itself
    packages = {path.parent for path in SOURCES if path.name == "__init__.py" and "__all__" in path.read_text()}
    names = {".".join(path.relative_to(Path(gmkern.__file__).parent).parts) for path in packages} - {""}
    inner = {name for name in names if name.count(".") and name.partition(".")[0] in PUBLIC}  # an op's own folder
    assert names - inner - set(PUBLIC) - tools == set()


@in_a_checkout
def test_the_reference_lists_every_public_name():
    """Each page of docs/api lists names after a `currentmodule`, in the block that Sphinx makes their pages from."""
    listed = []
    for page in sorted((DOCS / "api").glob("*.md")):
        for block in re.findall(r"^```\{eval-rst\}\n(.*?)^```", page.read_text(), flags=re.M | re.S):
            module = re.search(r"^\.\. currentmodule:: (\S+)$", block, flags=re.M)[1]
            listed += [f"{module}.{name}" for name in re.findall(r"^   (\w+)$", block, flags=re.M)]
    assert len(listed) == len(set(listed))
    assert set(listed) == set(public())


def test_every_public_function_and_class_has_an_example():
    """Results, which users never make, are shown where a function gives them."""
    results = set()
    lacking = []
    for name, value in public().items():
        if not callable(value):
            continue
        is_result = inspect.isclass(value) and (issubclass(value, tuple) or "report" in value.__module__)
        if is_result or name.rpartition(".")[2] in ("Generation", "FinishedRow", "Score", "Structures"):
            results.add(name)
        elif ">>> " not in (inspect.getdoc(value) or ""):
            lacking.append(name)
    assert lacking == []
    assert "gmkern.neighbors.KNN" in results
    assert "gmkern.neighbors.knn" not in results


@in_a_checkout
def test_each_picture_has_its_drawing():
    asked = [name for page in PAGES for name in PICTURE.findall(page.read_text())]
    drawn = re.findall(r"^def (\w+)\(names: ", (DOCS / "pictures.py").read_text(), flags=re.M)
    assert sorted(asked) == sorted(drawn)
    assert {"decode", "dynamics", "neighbors", "latent", "context", "classical"} <= set(asked)


def anchors(page: Path) -> set[str]:
    """The fragments that a code host, and the site, give a page's headings."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.M | re.S)
    found = set()
    for heading in re.findall(r"^#+ (.+)$", text, flags=re.M):
        kept = [c for c in heading.lower() if c in " -_" or unicodedata.category(c)[0] in "LN"]
        found.add("".join(kept).replace(" ", "-"))
    return found


def broken(page: Path) -> list[str]:
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.M | re.S)
    bad = []
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", link):
            continue
        target, _, fragment = link.partition("#")
        path = (page.parent / target).resolve() if target else page
        if not path.exists() or (fragment and fragment not in anchors(path)):
            bad.append(f"{page.relative_to(ROOT)}: {link}")
    return bad


@in_a_checkout
def test_links_lead_to_files_and_headings():
    """As a code host reads them; `make docs` checks the site's own."""
    pages = [*PAGES, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"]
    assert [line for page in pages for line in broken(page)] == []


@in_a_checkout
def test_a_broken_link_is_found(monkeypatch, tmp_path):
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    page = tmp_path / "page.md"
    page.write_text("# A `name`, here\n[1](#a-name-here) [2](page.md#a-name-here) [3](#there) [4](gone.md)\n")
    assert broken(page) == ["page.md: #there", "page.md: gone.md"]


@in_a_checkout
def test_sources_name_pages_that_exist():
    """Comments and docstrings say docs/page.md."""
    named = {}
    for path in [*SOURCES, *(ROOT / "csrc").rglob("*.*")]:
        for name in re.findall(r"docs/[\w/-]+\.md", path.read_text()):
            named[name] = path
    assert len(named) > 5
    assert {name: str(path) for name, path in named.items() if not (ROOT / name).exists()} == {}
