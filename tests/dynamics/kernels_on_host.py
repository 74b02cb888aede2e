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

from gmkern.dynamics.systems import model_of, systems_of
from gmkern.dynamics.trajectory.schedule import schedule_of

HERE = Path(__file__).parent / "on_host"
CSRC = Path(__file__).parents[2] / "csrc"
SOURCES = ("register.cpp", "field_cuda.cu", "cells_cuda.cu", "near_cuda.cu", "trajectory_cuda.cu",
           "trajectory_wide_cuda.cu", "trajectory_cuda.cpp", "energy_cuda.cu", "energy_cuda.cpp",
           "neighbor_list_cuda.cu", "neighbor_list_cuda.cpp")  # fmt: skip

# Lists of neighbours serve systems of fewer atoms here, and have little room: some atoms of a liquid have too many.
FEW_LISTED = {"kFewestListed = 3000": "kFewestListed = 400", "? 512 : 256": "? 30 : 30"}
FEW_ON_AVERAGE = {"kFewestOnAverage = 1000": "kFewestOnAverage = 350"}


def with_few(text: str, changes: dict[str, str]) -> str:
    for ours, theirs in changes.items():
        assert ours in text
        text = text.replace(ours, theirs)
    return text


@functools.cache
def ops_on_host():
    """The ops' namespace, built once a session."""
    compiler = shutil.which("g++") or shutil.which("c++")
    if not CSRC.exists() or compiler is None:
        pytest.skip("needs the source tree and a C++ compiler")
    folder = Path(tempfile.mkdtemp(prefix="gmkern_on_host"))
    torch_root = Path(torch.__file__).parent
    (folder / "dynamics").mkdir()
    (folder / "dynamics/near_cuda.h").write_text(with_few((CSRC / "dynamics/near_cuda.h").read_text(), FEW_LISTED))
    includes = (folder, HERE, CSRC, torch_root / "include", torch_root / "include/torch/csrc/api/include")
    flags = ["-std=c++17", "-O1", "-ffp-contract=off", "-fPIC", "-pthread", "-w",
             "-DTORCH_TARGET_VERSION=0x020a000000000000", *(f"-I{path}" for path in includes)]  # fmt: skip

    def compiled(name: str) -> Path:
        text = (CSRC / "dynamics" / name).read_text()
        if name == "energy_cuda.cpp":
            text = with_few(text, FEW_ON_AVERAGE)
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


def model(field, x, sizes, types=None, cell=None, pbc=None):
    ptr = torch.tensor([0, *sizes]).cumsum(0)
    return model_of(field, systems_of(x, ptr), types, cell, cell is not None if pbc is None else pbc, x.device)


def steps_of(ops, made, x, v, integrator, *, steps, record_every=0, phase=0, first=3, backward=0, log_probs=None):
    """The op simulate: x, v, frames, energies, log_probs."""
    systems = made.systems
    table = schedule_of(integrator, systems.count, first, steps, 0.0, x.device).table(backward == 3)
    if log_probs is None:
        log_probs = torch.zeros(2, 0, dtype=torch.float64)
    return ops.simulate(
        x, v, torch.full((len(x),), 1 / 1.5, dtype=x.dtype), *made.arguments, integrator.kind, table,
        torch.tensor(5), torch.arange(systems.count) + 4, torch.tensor(first), steps, record_every, phase,
        systems.largest, log_probs, backward, x if backward == 3 else x[:0],
    )  # fmt: skip
