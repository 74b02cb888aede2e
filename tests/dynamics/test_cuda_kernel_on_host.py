"""The CUDA trajectory kernel's own source on host threads, against the CPU kernel: its logic needs no GPU."""

from __future__ import annotations

import ctypes
import math
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from gmkern.dynamics import BAOAB, EulerMaruyama, Harmonic, LennardJones, VelocityVerlet, simulate
from gmkern.dynamics.fields import packed
from gmkern.dynamics.systems import box_of, systems_of
from tests.dynamics.truth import lattice

HERE = Path(__file__).parent
CSRC = HERE.parents[1] / "csrc"
I64, F64, POINTER = ctypes.c_int64, ctypes.c_double, ctypes.c_void_p


class Arguments(ctypes.Structure):
    """CudaTrajectory of csrc/dynamics/trajectory_cuda.h."""

    _fields_ = [
        ("fp64", ctypes.c_bool), ("device", ctypes.c_int), ("stream", POINTER),
        ("systems", I64), ("atoms", I64), ("dim", I64), ("largest", I64),
        ("terms", ctypes.c_int32), ("kinds", ctypes.c_int32 * 8), ("parameters", POINTER),
        ("boxes", I64), ("cell", POINTER), ("inverse", POINTER),
        ("integrator", I64), ("coefficients", POINTER), ("coefficient_rows", I64), ("system_ptr", POINTER),
        ("seed", POINTER), ("sample_ids", POINTER), ("step", POINTER), ("seed_stride", I64),
        ("steps", I64), ("record_every", I64), ("phase", I64), ("inverse_masses", POINTER),
        ("x_in", POINTER), ("v_in", POINTER),
        ("x", POINTER), ("v", POINTER), ("frames", POINTER), ("energies", POINTER),
    ]  # fmt: skip


@pytest.fixture(scope="module")
def kernel(tmp_path_factory):
    """launch_trajectory of the kernel's source, built for the host."""
    source, compiler = CSRC / "dynamics" / "trajectory_cuda.cu", shutil.which("g++") or shutil.which("c++")
    if not source.exists() or compiler is None:
        pytest.skip("needs the source tree and a C++ compiler")
    text = source.read_text().replace("#include <cuda_runtime.h>", '#include "cuda_on_host.h"')
    launch = r"(trajectory<R, D>)\s*<<<(.*?),\s*static_cast<cudaStream_t>\(a.stream\)>>>\(\s*a\);"
    text, launches = re.subn(launch, r"run_kernel(\1, \2, a);", text, flags=re.S)
    text, arrays = re.subn(r"extern __shared__ double shared\[\];", "double* shared = shared_memory;", text)
    assert (launches, arrays) == (1, 1)
    text += '\nextern "C" const char* run(const gm::CudaTrajectory* a) { return gm::launch_trajectory(*a); }\n'
    folder = tmp_path_factory.mktemp("kernel")
    (folder / "kernel.cpp").write_text(text)
    command = [compiler, "-std=c++17", "-O2", "-ffp-contract=off", "-shared", "-fPIC", "-pthread",
               f"-I{CSRC}", f"-I{HERE}", "-o", "kernel.so", "kernel.cpp"]  # fmt: skip
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    run = ctypes.CDLL(str(folder / "kernel.so")).run
    run.restype = ctypes.c_char_p
    return run


def run_kernel(kernel, field, x, v, sizes, integrator, *, steps, record_every, phase=0, cell=None, seed=5, step=3):
    """What torch.ops.gmkern.simulate would give on a GPU: x, v, frames, energies."""
    ptr = torch.tensor([0, *sizes]).cumsum(0)
    systems = systems_of(x, ptr)
    box = box_of(cell, cell is not None, systems, field, x.device)
    terms = packed(field, x.shape[1], x.device)
    kinds, parameters = terms.kinds, terms.parameters
    names = ("dt", "temperature", "friction", "noise", "bridge")
    coefficients = torch.tensor([float(getattr(integrator, name, 0.0)) for name in names], dtype=torch.float64)
    count = (phase + steps) // record_every - phase // record_every
    outputs = [torch.full_like(x, math.nan), torch.full_like(v, math.nan), x.new_full((count, *x.shape), math.nan),
               x.new_full((count, len(sizes)), math.nan)]  # fmt: skip
    tensors = {
        "parameters": parameters, "cell": box.cell, "inverse": box.inverse, "coefficients": coefficients,
        "system_ptr": ptr, "seed": torch.tensor(seed), "sample_ids": torch.arange(len(sizes)) + 4,
        "step": torch.tensor(step), "inverse_masses": torch.full((len(x),), 1 / 1.5, dtype=x.dtype),
        "x_in": x, "v_in": v, **dict(zip(("x", "v", "frames", "energies"), outputs, strict=True)),
    }  # fmt: skip
    a = Arguments(
        fp64=x.dtype == torch.float64, systems=len(sizes), atoms=len(x), dim=x.shape[1], largest=max(sizes),
        terms=len(kinds), kinds=(ctypes.c_int32 * 8)(*kinds), boxes=box.cell.shape[0], integrator=integrator.kind,
        coefficient_rows=1, seed_stride=0, steps=steps, record_every=record_every, phase=phase,
        **{name: tensor.data_ptr() for name, tensor in tensors.items()},
    )  # fmt: skip
    assert kernel(ctypes.byref(a)) is None
    return outputs


def state(sizes, dim, dtype):
    x = torch.cat([lattice(n, dim=dim) + 0.05 * torch.randn(n, dim, dtype=torch.float64) for n in sizes]).to(dtype)
    return x, (0.5 * torch.randn(*x.shape)).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("dim", [2, 3])
@pytest.mark.parametrize("integrator", [VelocityVerlet(0.003), BAOAB(0.003, 0.5, 2.0), EulerMaruyama(3e-4, 1.0)])
def test_against_the_cpu_kernel(kernel, dtype, dim, integrator):
    """Sizes on both sides of every group and block size: 4 threads an atom to 64 atoms, 2 to 128, then turns of 256."""
    sizes = [13, 0, 1, 65, 32]
    x, v = state(sizes, dim, dtype)
    field = LennardJones(cutoff=2.5) + Harmonic(0.2, 0.3)
    got = run_kernel(kernel, field, x, v, sizes, integrator, steps=3, record_every=2)
    want = simulate(
        field, x, velocities=v if integrator.has_velocities else None, masses=1.5, integrator=integrator, steps=3,
        seed=5, sample_ids=torch.arange(5) + 4, record_every=2, system_ptr=[0, 13, 13, 14, 79, 111],
        start_step=3,
    )  # fmt: skip
    # as kernel against reference in test_simulate.py: a few roundings a step
    bound = 30 * 3 * torch.finfo(dtype).eps * float(x.abs().max() + 1)
    assert float((got[0] - want.positions).abs().max()) < bound
    assert float((got[2] - want.frames[1:]).abs().max()) < bound
    assert float((got[3] - want.energies[1:]).abs().max()) < bound * 1e3
    if integrator.has_velocities:
        assert float((got[1] - want.velocities).abs().max()) < bound * 100
    else:
        assert torch.equal(got[1], v)


def test_large_systems_and_boxes(kernel):
    sizes = [130, 300]
    x, v = state(sizes, 3, torch.float64)
    cell = 9.0 * torch.eye(3, dtype=torch.float64) + 0.3 * torch.rand(3, 3, dtype=torch.float64)
    got = run_kernel(kernel, LennardJones(cutoff=2.5), x, v, sizes, VelocityVerlet(0.003), steps=2, record_every=1,
                     cell=cell)  # fmt: skip
    want = simulate(LennardJones(cutoff=2.5), x, velocities=v, masses=1.5, integrator=VelocityVerlet(0.003), steps=2,
                    record_every=1, system_ptr=[0, 130, 430], cell=cell, pbc=True)  # fmt: skip
    assert float((got[0] - want.positions).abs().max()) < 1e-12
    assert float((got[2] - want.frames[1:]).abs().max()) < 1e-12
    assert float((got[3] - want.energies[1:]).abs().max()) < 1e-8


def test_noise_is_the_contract_and_a_system_is_the_same_in_any_batch(kernel):
    sizes = [7, 40]
    x, v = state(sizes, 3, torch.float32)
    still = run_kernel(kernel, Harmonic(0.0), torch.zeros_like(x), v, sizes, EulerMaruyama(1.0, 1.0), steps=1,
                       record_every=1)  # fmt: skip
    cpu = simulate(Harmonic(0.0), torch.zeros_like(x), integrator=EulerMaruyama(1.0, 1.0), steps=1, seed=5,
                   start_step=3, sample_ids=[4, 5], system_ptr=[0, 7, 47])  # fmt: skip
    assert torch.equal(still[0], cpu.positions)
    integrator = BAOAB(0.003, 0.5, 2.0)
    both = run_kernel(kernel, LennardJones(), x, v, sizes, integrator, steps=3, record_every=2)
    alone = run_kernel(kernel, LennardJones(), x[:7], v[:7], sizes[:1], integrator, steps=3, record_every=2)
    assert torch.equal(both[0][:7], alone[0])
    assert torch.equal(both[3][:, :1], alone[3])
    first = run_kernel(kernel, LennardJones(), x[:7], v[:7], sizes[:1], integrator, steps=1, record_every=2)
    rest = run_kernel(kernel, LennardJones(), first[0], first[1], sizes[:1], integrator, steps=2, record_every=2,
                      phase=1, step=4)  # fmt: skip
    assert torch.equal(rest[0], alone[0])
    assert torch.equal(rest[2], alone[2])
