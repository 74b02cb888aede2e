"""The kernels of block Gibbs chains, compiled for GPUs with no GPU: in budget, on tensor cores."""

from __future__ import annotations

import pytest

from tests.aot.compiling import ARCHITECTURES, compile_triton

SHARED = 48 * 1024  # inputs and weights of three steps, 12 KB each, and room


def compiled(kernel, architecture: int, constants: dict):
    from gmkern.classical.gibbs.triton_kernels import WARPS

    types = dict.fromkeys(("weight", "visible_bias", "hidden_bias", "visible", "hidden", "bias", "x", "to"), "*fp32")
    types |= dict.fromkeys(("seeds", "sample_ids", "first_step"), "*i64")
    aligned = tuple(name for name in kernel.arg_names if name in types)
    return compile_triton(
        kernel, architecture, types=types, constants=constants, aligned=aligned, num_warps=WARPS, enable_fp_fusion=False
    )


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_chain(architecture):
    pytest.importorskip("triton")
    from gmkern.classical.gibbs.triton_kernels import chain_kernel

    built = compiled(chain_kernel, architecture, {"V": 256, "H": 128})
    assert "mma" in built.ptx
    # One program of eight warps a multiprocessor, its chains' keys and both layers' addresses at hand in all sweeps
    assert built.registers <= 255
    assert built.spilled == 0
    assert built.shared <= SHARED


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("hidden", [False, True])
def test_layer(architecture, hidden):
    pytest.importorskip("triton")
    from gmkern.classical.gibbs.triton_kernels import layer_kernel

    shape = {"INPUTS": 784, "OUTPUTS": 500, "W_IN": 1, "W_OUT": 784}
    if not hidden:
        shape = {"INPUTS": 500, "OUTPUTS": 784, "W_IN": 784, "W_OUT": 1}
    built = compiled(layer_kernel, architecture, shape)
    assert "mma" in built.ptx
    assert built.registers <= 128  # 8 sums a thread, and as many uniforms: two programs of eight warps a multiprocessor
    assert built.spilled == 0
    assert built.shared <= SHARED
