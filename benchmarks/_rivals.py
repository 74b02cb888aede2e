"""Every library that stands beside gmkern: what it is imported as, and what pip calls it."""

from __future__ import annotations

import atexit
import functools
import importlib.metadata
import importlib.util
import os
import shutil
import tempfile
from collections.abc import Iterable
from typing import Any, NamedTuple


class Package(NamedTuple):
    module: str
    pip: str


PACKAGES = {
    "CTranslate2": Package("ctranslate2", "ctranslate2"),
    "faiss": Package("faiss", "faiss-cpu"),
    "jax-md": Package("jax_md", "jax-md"),
    "matscipy": Package("matscipy", "matscipy"),
    "OpenMM": Package("openmm", "openmm"),
    "package prdc": Package("prdc", "prdc"),
    "POT": Package("ot", "POT"),
    "pykeops": Package("pykeops", "pykeops"),
    "scikit-learn": Package("sklearn", "scikit-learn"),
    "SciPy": Package("scipy", "scipy"),
    "torchsde": Package("torchsde", "torchsde"),
    "transformers": Package("transformers", "transformers"),
    "vesin": Package("vesin", "vesin"),
}
"""By the tool's name; tools that are not here need PyTorch and NumPy alone."""


def absent(tool: str) -> str | None:
    """Why a tool cannot run here; None where it can."""
    package = PACKAGES.get(tool)
    if package is None or importlib.util.find_spec(package.module) is not None:
        return None
    return f"{tool} is not installed (pip install {package.pip})"


def versions(tools: Iterable[str]) -> dict[str, str]:
    """The package of each of ``tools`` that has one of its own, and its version, or that it is absent."""
    packages = {PACKAGES[tool].pip: absent(tool) for tool in sorted(set(tools) & set(PACKAGES), key=str.lower)}
    return {package: _version(package) if why is None else "absent" for package, why in packages.items()}


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:  # the module came in another way, as conda's and faiss-gpu's do
        return "of unknown version"


@functools.cache
def lazy_tensor() -> Any:
    """KeOps' LazyTensor. What it compiles, a library for each formula, lies in a folder that goes with the process."""
    folder = tempfile.mkdtemp()
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    os.environ |= {"KEOPS_CACHE_FOLDER": folder, "PYKEOPS_VERBOSE": "0"}
    from pykeops.torch import LazyTensor

    return LazyTensor
