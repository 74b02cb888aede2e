"""The CUDA trajectory kernel compiled with no GPU: within its registers, nothing approximate, no torch in it."""

from __future__ import annotations

import re
import shutil
import subprocess

import pytest

from tests.aot.compiling import ARCHITECTURES, CSRC, NVCC_FLAGS, nvcc_ptx, unpromised_instructions

SOURCE = CSRC / "dynamics" / "trajectory_cuda.cu"
KERNELS = 4  # float and double, in 2 and 3 dimensions


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="nvcc is not installed")
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_registers_and_spills(architecture, tmp_path):
    command = ["nvcc", *NVCC_FLAGS, f"-arch=sm_{architecture}", "-Xptxas=-v", f"-I{CSRC}", "-c", str(SOURCE)]
    done = subprocess.run(
        [*command, "-o", str(tmp_path / "kernel.o")], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "warning" not in done.stderr, done.stderr
    registers = [int(n) for n in re.findall(r"Used (\d+) registers", done.stderr)]
    spilled = [int(n) for n in re.findall(r"(\d+) bytes spill stores", done.stderr)]
    assert len(registers) == len(spilled) == KERNELS
    # 128 registers leave two blocks of 256 threads a multiprocessor; what is spilled (constants of the step, before the
    # first one) is less than a line of cache a thread
    assert max(registers) <= 128
    assert max(spilled) <= 64


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_nothing_is_approximate_and_only_written_products_are_fused(architecture, tmp_path):
    """exp(), expm1() and sqrt() of a step's constants come from CUDA's own library, which fuses and seeds divisions."""
    text = SOURCE.read_text()
    constants = r"keep = static_cast<R>\(::exp.*?c\[1\]\)\);"
    assert len(re.findall(constants, text, flags=re.S)) == 1
    ptx = nvcc_ptx(re.sub(constants, "keep = static_cast<R>(c[1]);", text, flags=re.S), architecture, tmp_path)
    assert {i.split(".")[0] for i in unpromised_instructions(ptx)} == {"fma"}
    assert not [i for i in unpromised_instructions(ptx) if "approx" in i or "ftz" in i]


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


def test_the_source_includes_no_torch():
    seen, queue = set(), ["dynamics/trajectory_cuda.cu"]
    while queue:
        name = queue.pop()
        if name in seen or not (CSRC / name).exists():
            continue
        seen.add(name)
        includes = re.findall(r'#include [<"]([^>"]+)[>"]', (CSRC / name).read_text())
        assert not [i for i in includes if i.startswith(("torch", "ATen", "c10"))], name
        queue += includes
    assert "common/noise.h" in seen
