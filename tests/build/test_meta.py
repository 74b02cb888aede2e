"""A tensor that holds no numbers is refused by name, wherever tensors are taken."""

from __future__ import annotations

import pytest
import torch

from gmkern import random
from gmkern.decode import SamplingParams, sample, token_logprobs
from gmkern.dynamics import LennardJones, VelocityVerlet, energy_and_forces, simulate
from gmkern.metrics import novelty, prdc
from gmkern.neighbors import count_within, kernel_sum, knn

POINTS = torch.zeros(6, 4, 3, device="meta")
CALLS = {
    "queries": lambda: knn(POINTS, k=1),
    "references": lambda: count_within(torch.zeros(6, 3), POINTS[0], 1.0),
    "radii": lambda: count_within(torch.zeros(6, 3), torch.zeros(4, 3), POINTS[:, 0, 0]),
    "weights": lambda: kernel_sum(torch.zeros(6, 3), bandwidth=1.0, weights=POINTS[:, 0, 0]),
    "real": lambda: prdc(POINTS[0], torch.zeros(4, 3)),
    "generated": lambda: novelty(POINTS[0], torch.zeros(4, 3)),
    "logits": lambda: sample(POINTS[0], SamplingParams(), seed=1, sample_ids=torch.arange(4), step=0),
    "tokens": lambda: token_logprobs(torch.zeros(4, 3), torch.zeros(4, dtype=torch.int64, device="meta")),
    "positions": lambda: simulate(LennardJones(), POINTS, integrator=VelocityVerlet(0.1), steps=2),
    "cell": lambda: energy_and_forces(LennardJones(1, 1, 1), torch.zeros(6, 4, 3), cell=POINTS[0, :3], pbc=True),
    "sample_ids": lambda: random.normal(1, torch.arange(3, device="meta"), 0, 4),
}


@pytest.mark.parametrize("name", CALLS)
def test_refused_by_name(name):
    with pytest.raises(ValueError, match=f"^{name}: got a tensor on meta"):
        CALLS[name]()
