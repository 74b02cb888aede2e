"""The CUDA kernels of dynamics compiled with no GPU: within their registers, nothing approximate, no torch in them."""

from __future__ import annotations

import functools
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

from tests.aot.compiling import ARCHITECTURES, CSRC, NVCC_FLAGS, nvcc_ptx, unpromised_instructions

# (registers, bytes spilled) that a thread may have, by source and kernel. 128 registers leave two blocks of 256 threads
# a multiprocessor, or four of 128.
BUDGETS = {
    "field_cuda": {"prepare": (64, 16)},  # once a call
    "trajectory_cuda": {
        # without types, bonds, splines and log-probabilities; what is spilled is a step's constants, less than a line
        # of cache a thread
        "trajectory plain": (128, 64),
        # with all of them the constants and the sums of log-probabilities are spilled, and are used once a step
        "trajectory": (128, 256),
        "make_constants": (64, 0),
    },
    # 80: six blocks of 128 threads a multiprocessor; what is spilled is used once a step, after the sums
    "trajectory_wide_cuda": {"look": (80, 64), "sum_up": (64, 16)},
    # survey: a block of 256 threads a system
    "cells_cuda": {"survey": (128, 0), "assign": (64, 0), "running_sums": (64, 0), "place": (64, 0)},
    "near_cuda": {"list": (80, 0), "find_reach": (64, 0)},
    # six blocks of 128 threads a multiprocessor; what is spilled is a bound of the loop over images
    "neighbor_list_cuda": {"count": (80, 0), "running_sums": (64, 0), "pad": (64, 0), "fill": (80, 8)},
    "energy_cuda": {
        "per_atom": (128, 64), "sum_energies": (64, 0), "sum_systems": (64, 0),
        "per_system": (128, 64),  # a block of 256 threads a system
    },
}  # fmt: skip
# exp(), expm1() and sqrt() of a step's constants come from CUDA's own library, which fuses and seeds divisions.
OWN_LIBRARY = ("make_constants",)


def kernel_of(mangled: str) -> str:
    name = next(n for budgets in BUDGETS.values() for n in budgets if re.search(rf"\d{n.split()[0]}[IE]", mangled))
    return "trajectory plain" if name == "trajectory plain" and mangled.endswith(PLAIN) else name.split()[0]


PLAIN = "Lb0EEEvNS_14CudaTrajectoryE"


@functools.cache
def compiled(name: str, architecture: int) -> tuple[str, str]:
    """What ptxas says and the PTX, of one compilation."""
    folder = Path(tempfile.mkdtemp(prefix="gmkern_aot"))
    command = ["nvcc", *NVCC_FLAGS, f"-arch=sm_{architecture}", "-Xptxas=-v", f"-I{CSRC}", "--keep", "-cubin",
               str(CSRC / "dynamics" / f"{name}.cu"), "-o", "kernel.cubin"]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, check=False)
    assert done.returncode == 0, done.stderr
    ptx = next(folder.glob("*.ptx")).read_text()
    shutil.rmtree(folder)
    return done.stderr, ptx


needs_nvcc = pytest.mark.skipif(shutil.which("nvcc") is None, reason="nvcc is not installed")


@needs_nvcc
@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("name", BUDGETS)
def test_registers_and_spills(name, architecture):
    said, _ = compiled(name, architecture)
    assert "warning" not in said, said
    found = re.findall(
        r"Compiling entry function '(\w+)'.*?(\d+) bytes spill stores.*?Used (\d+) registers", said, flags=re.S
    )
    assert {kernel_of(mangled) for mangled, _, _ in found} == set(BUDGETS[name])
    for mangled, spilled, registers in found:
        most_registers, most_spilled = BUDGETS[name][kernel_of(mangled)]
        assert int(registers) <= most_registers, mangled
        assert int(spilled) <= most_spilled, mangled


@needs_nvcc
@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("name", BUDGETS)
def test_nothing_is_approximate_only_written_products_are_fused_and_only_counts_are_atomic(name, architecture):
    _, ptx = compiled(name, architecture)
    entries = ptx.split(".entry ")[1:]
    assert len(entries) >= 2
    for entry in entries:
        if kernel_of(re.match(r"\w+", entry)[0]) in OWN_LIBRARY:
            continue
        unpromised = unpromised_instructions(entry)
        assert {i.split(".")[0] for i in unpromised} <= {"fma"}
        assert not [i for i in unpromised if "approx" in i or "ftz" in i]
        assert not re.search(r"\b(atom|red)\.\S*f(16|32|64)", entry)  # whole numbers have one sum in any order


NOISE = """
#include "dynamics/field.h"
#include "common/noise.h"
extern "C" __global__ void draw(float* f, double* d, int64_t seed, int64_t id, uint32_t step) {
    const int block = threadIdx.x;
    const auto n = gm::noise_block<uint32_t>(gm::noise_key(seed, gm::kStreamKick), id, step, uint32_t(block));
    f[block] = gm::normals_from_words<float>(n.w[0], n.w[1]).first;
    const uint64_t low = n.w[0] | (uint64_t(n.w[1]) << 32), high = n.w[2] | (uint64_t(n.w[3]) << 32);
    d[block] = gm::normals_from_words<double>(low, high).second;
}
"""


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_kicks_beside_the_fields_stay_exact(architecture, tmp_path):
    """field.h defines fma() for the pairs: the noise may not catch it."""
    assert unpromised_instructions(nvcc_ptx(NOISE, architecture, tmp_path)) == []


@pytest.mark.parametrize("name", BUDGETS)
def test_the_sources_include_no_torch(name):
    seen, queue = set(), [f"dynamics/{name}.cu"]
    while queue:
        header = queue.pop()
        if header in seen or not (CSRC / header).exists():
            continue
        seen.add(header)
        includes = re.findall(r'#include [<"]([^>"]+)[>"]', (CSRC / header).read_text())
        assert not [i for i in includes if i.startswith(("torch", "ATen", "c10"))], header
        queue += includes
    assert {"common/macros.h", "dynamics/launch_cuda.h"} <= seen
