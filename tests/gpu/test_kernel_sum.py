"""Kernel sums on a real GPU: the CPU's values and gradients to rounding, the same bits each time."""

from __future__ import annotations

import pytest
import torch

from gmkern.neighbors import kernel_sum, log_kernel_sum
from gmkern.neighbors.kernel_sum import KERNELS
from gmkern.neighbors.kernel_sum.api import SCALED

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize(("n", "m", "d"), [(1, 1, 1), (1000, 20001, 3), (257, 500, 65)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("log", [False, True])
def test_values_and_gradients(kernel, n, m, d, dtype, log):
    if log and kernel not in SCALED:
        pytest.skip("has no logarithm")
    made = torch.Generator().manual_seed(0)
    points = [torch.randn(rows, d, generator=made).to(dtype) for rows in (n, m)]
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    weights = torch.rand(m, generator=made).to(wide)
    options = {"kernel": kernel, "bandwidth": d**0.5} if kernel in SCALED else {"kernel": kernel}

    def run(device: str, cast: torch.dtype | None = None) -> list[torch.Tensor]:
        x, y, w = (t.to(device, cast).requires_grad_() for t in (*points, weights))
        sums = (log_kernel_sum if log else kernel_sum)(x, y, weights=w, **options)
        return [t.detach().cpu() for t in (sums, *torch.autograd.grad(sums.sum(), (x, y, w)))]

    first, again = run("cuda"), run("cuda")
    for ours, same, truth in zip(first, again, run("cpu", torch.float64), strict=True):
        assert torch.equal(ours, same)
        # terms' exponents, below 50, are rounded d / 16 + 8 times; gradients are rounded to the points' dtype
        bound = 50 * (d / 16 + 8) * torch.finfo(wide).eps + torch.finfo(ours.dtype).eps
        scale = float(truth.abs().max())
        torch.testing.assert_close(ours.double(), truth, rtol=bound, atol=bound * scale)


def test_a_row_depends_on_itself_alone():
    x, y = torch.randn(300, 10).cuda(), torch.randn(30_000, 10).cuda()
    for total in (kernel_sum, log_kernel_sum):
        whole = total(x, y, bandwidth=2.0)
        assert torch.equal(whole[100:103], total(x[100:103].contiguous(), y, bandwidth=2.0))
