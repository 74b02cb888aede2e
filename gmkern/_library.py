"""Loads the shared library of compiled ops, once. After import, they are at ``torch.ops.gmkern``."""

from __future__ import annotations

from pathlib import Path

import torch

LIBRARY = Path(__file__).parent / "lib" / "libgmkern.so"


def _load() -> None:
    if tuple(int(part) for part in torch.__version__.split("+")[0].split(".")[:2]) < (2, 10):
        raise ImportError(f"gmkern needs torch >= 2.10; found {torch.__version__}")
    if not LIBRARY.exists():
        raise ImportError(
            f"gmkern's compiled library is missing ({LIBRARY}). Install the wheel, or build it in a checkout with "
            "`make build` (it needs a C++17 compiler, CMake and the installed torch's headers)."
        )
    try:
        torch.ops.load_library(str(LIBRARY))
    except OSError as error:
        raise ImportError(f"gmkern's compiled library does not load: {error}") from error


_load()
ops = torch.ops.gmkern
