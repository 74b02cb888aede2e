"""The CUDA launchers and kernels of dynamics, built for the host: ``torch.ops.gmkern_on_host`` on CPU tensors.

Every launcher and kernel is the source that a GPU build compiles; the headers of ``on_host/`` stand in for CUDA's
runtime and for the checks of a tensor's device. So what is tested is all but the device itself.
"""

from __future__ import annotations

import functools
import re
import shutil
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

HERE = Path(__file__).parent / "on_host"
CSRC = Path(__file__).parents[2] / "csrc"
SOURCES = ("register.cpp", "field_cuda.cu", "cells_cuda.cu", "trajectory_cuda.cu", "trajectory_wide_cuda.cu",
           "trajectory_cuda.cpp", "energy_cuda.cu", "energy_cuda.cpp", "neighbor_list_cuda.cu",
           "neighbor_list_cuda.cpp")  # fmt: skip


@functools.cache
def ops_on_host():
    """The ops' namespace, built once a session."""
    compiler = shutil.which("g++") or shutil.which("c++")
    if not CSRC.exists() or compiler is None:
        pytest.skip("needs the source tree and a C++ compiler")
    folder = Path(tempfile.mkdtemp(prefix="gmkern_on_host"))
    torch_root = Path(torch.__file__).parent
    includes = (HERE, CSRC, torch_root / "include", torch_root / "include/torch/csrc/api/include")
    flags = ["-std=c++17", "-O1", "-ffp-contract=off", "-fPIC", "-pthread", "-w",
             "-DTORCH_TARGET_VERSION=0x020a000000000000", *(f"-I{path}" for path in includes)]  # fmt: skip

    def compiled(name: str) -> Path:
        text = (CSRC / "dynamics" / name).read_text()
        text = text.replace("LIBRARY_FRAGMENT(gmkern,", "LIBRARY_FRAGMENT(gmkern_on_host,")
        text = text.replace("LIBRARY_IMPL(gmkern, CUDA,", "LIBRARY_IMPL(gmkern_on_host, CPU,")
        text = re.sub(r"extern __shared__ double shared\[\];", "double* shared = shared_memory;", text)
        source, to = folder / f"{name}.cpp", folder / f"{name}.o"
        source.write_text(text)
        done = subprocess.run([compiler, *flags, "-c", "-o", to, source], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return to

    with ThreadPoolExecutor(2) as pool:
        objects = list(pool.map(compiled, SOURCES))
    library = folder / "on_host.so"
    link = [compiler, "-shared", "-pthread", "-o", library, *objects, f"-L{torch_root}/lib", "-ltorch_cpu"]
    done = subprocess.run(link, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    torch.ops.load_library(library)
    return torch.ops.gmkern_on_host
