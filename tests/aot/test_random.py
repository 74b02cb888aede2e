"""The noise kernels compiled for GPUs with no GPU: nothing approximate, nothing fused, within their budgets."""

from __future__ import annotations

import pytest

from tests.aot.compiling import ARCHITECTURES, compile_triton, nvcc_ptx, unpromised_instructions

# Bytes of shared memory: the shuffle that puts four words side by side, 4 floats or 2 doubles of 256 blocks.
SHARED = 4 * 4 * 256


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("fp64", [False, True])
@pytest.mark.parametrize("kind", [0, 1, 2])
def test_triton_noise(kind, fp64, architecture):
    pytest.importorskip("triton")
    from gmkern.random.triton_kernels import noise_kernel

    compiled = compile_triton(
        noise_kernel,
        architecture,
        types={"out": "*fp64" if fp64 else "*fp32", "seeds": "*i64", "sample_ids": "*i64", "steps": "*i64"},
        constants={"KIND": kind, "FP64": fp64, "BLOCK": 256},
        enable_fp_fusion=False,
    )
    assert unpromised_instructions(compiled.ptx) == []
    assert compiled.shared <= SHARED
    # 128 registers leave 4 blocks of 128 threads a multiprocessor; two Philox blocks a thread are alive at once
    assert compiled.registers <= 128
    assert compiled.spilled == 0


CUDA_SOURCE = """
#include "common/noise.h"
extern "C" __global__ void draw(float* f, double* d, const uint32_t* w, const uint64_t* v, int64_t seed) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    const auto n = gm::noise_block<uint32_t>(gm::noise_key(seed, gm::kStreamUser), i, 0u, w[i]);
    const auto p = gm::normals_from_words<float>(n.w[0], n.w[1]);
    const auto q = gm::normals_from_words<double>(v[i], v[i + 1]);
    f[4 * i] = p.first;
    f[4 * i + 1] = p.second;
    f[4 * i + 2] = gm::gumbel_from_word<float>(n.w[2]) + gm::gumbel_from_tail(n.w[2], n.w[3]);
    f[4 * i + 3] = gm::uniform_from_word<float>(n.w[3]);
    d[4 * i] = q.first;
    d[4 * i + 1] = q.second;
    d[4 * i + 2] = gm::gumbel_from_word<double>(v[i]);
    d[4 * i + 3] = gm::uniform_from_word<double>(v[i]);
}
"""


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_cuda_header(architecture, tmp_path):
    assert unpromised_instructions(nvcc_ptx(CUDA_SOURCE, architecture, tmp_path)) == []


def test_the_reader_of_instructions_can_fail(tmp_path):
    """The control: a contracted multiply-add, an approximate division and a fast sine are all seen."""
    source = 'extern "C" __global__ void k(float* x) { x[0] = x[1] * x[2] + x[3]; x[4] = __fdividef(x[5], x[6]); }'
    found = unpromised_instructions(nvcc_ptx(source, 90, tmp_path, flags=("-fmad=true",)))
    assert any("fma" in f for f in found)
    assert any("approx" in f for f in found)
