"""The kernels of latent.sample, compiled for GPUs with no GPU: in budget, on tensor cores."""

from __future__ import annotations

import pytest

from tests.aot.compiling import ARCHITECTURES, compile_triton

SHARED = 64 * 1024  # inputs and weights of three steps, 16 KB each, and room


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("activation", [4, 5])  # of two forms of GELU: the longest
def test_layer(architecture, activation):
    pytest.importorskip("triton")
    from gmkern.latent.sample.triton_kernels import WARPS, layer_kernel

    compiled = compile_triton(
        layer_kernel,
        architecture,
        types=dict.fromkeys(("x", "weight", "bias", "to"), "*fp32"),
        constants={"INPUTS": 128, "OUTPUTS": 64, "ACTIVATION": activation, "SLOPE": 0.0},
        aligned=("x", "weight", "bias", "to"),
        num_warps=WARPS,
        enable_fp_fusion=False,
    )
    assert "mma" in compiled.ptx
    # 16 sums a thread and operands in terms: two programs of eight warps a multiprocessor, one on sm_80
    assert compiled.registers <= (168 if architecture == 80 else 128)
    assert compiled.spilled <= 8  # of stack for a call, on sm_80
    assert compiled.shared <= SHARED


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_network(architecture):
    pytest.importorskip("triton")
    from gmkern.latent.sample.triton_kernels import WARPS, network_kernel

    compiled = compile_triton(
        network_kernel,
        architecture,
        types=dict.fromkeys(("weights", "biases"), ("*fp32",) * 3)
        | dict.fromkeys(("seeds", "sample_ids"), "*i64")
        | dict.fromkeys(("rooms", "out"), "*fp32"),
        constants={"WIDTHS": (16, 128, 128, 64), "ACTIVATIONS": (4, 5, 0), "SLOPES": (0.0,) * 3, "DEPTH": 3},
        aligned=("seeds", "sample_ids", "weights", "biases", "rooms", "out", "width"),
        num_warps=WARPS,
        enable_fp_fusion=False,
    )
    assert "mma" in compiled.ptx
    # One program of eight warps a multiprocessor, with its 255: addresses of each layer, unrolled, and a tile's noise.
    assert compiled.registers <= 255
    assert compiled.spilled <= 8
    assert compiled.shared <= SHARED
