"""Searches and sums of two ranks by the Triton kernels, in the interpreter."""

from __future__ import annotations

import torch

from gmkern import neighbors
from tests.distributed import ranks
from tests.distributed.processes import start


def test_ranks_of_triton_kernels(tmp_path):
    parts = start(2, tmp_path, ranks.by_triton)
    x, y = ranks.cloud(9, 0), ranks.cloud(31, 1)

    def all_of(name: str) -> torch.Tensor:
        return torch.cat([part[name] for part in parts])

    want = neighbors.knn(x, y, 3)
    assert torch.equal(torch.cat([part["knn"][0] for part in parts]), want.distances)
    assert torch.equal(torch.cat([part["knn"][1] for part in parts]), want.indices)
    assert torch.equal(all_of("count"), neighbors.count_within(x, y, 3.0))
    # A term's exponent, below 20, is rounded some 20 times in float32; each rank's sum and the whole once more.
    bound = (20 * 20 + 3) * 2.0**-24
    truth = neighbors.kernel_sum(x.double(), y.double(), bandwidth=1.5)
    torch.testing.assert_close(all_of("sum").double(), truth, rtol=bound, atol=0)
    truth = neighbors.log_kernel_sum(x.double(), y.double(), kernel="laplace", bandwidth=1.5)
    torch.testing.assert_close(all_of("log").double(), truth, rtol=bound, atol=bound)
    for part in parts:
        assert "triton: takes CUDA tensors where a gradient is wanted" in part["gradient"]
