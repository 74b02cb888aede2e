"""Who copied? Find planted copies exactly, and judge two generators for fidelity, diversity and novelty.

Run: python examples/neighbors.py
"""

import torch

from gmkern.metrics import novelty, prdc
from gmkern.neighbors import knn

torch.manual_seed(0)
D = 128
train = torch.randn(5000, D) + 10.0
honest = torch.randn(500, D) + 10.0
thief = torch.cat([train[:25], torch.randn(475, D) + 10.0])  # 25 of its 500 samples are training points

# A copy is at distance exactly 0. Through |q|² + |r|² - 2 q·r, as torch.cdist computes it, it is not.
exact = knn(thief, train, k=1)
usual = torch.cdist(thief, train).min(1).values
print(f"copies at distance 0: {int((exact.distances == 0).sum())} by gmkern, {int((usual == 0).sum())} by torch.cdist")
print(f"torch.cdist puts a copy as far away as {float(usual[:25].max()):.3f}")

for name, samples in (("honest", honest), ("thief", thief)):
    near, new = prdc(train, samples, k=5), novelty(samples, train)
    print(
        f"{name:>6}: precision {near.precision:.2f}, recall {near.recall:.2f}, coverage {near.coverage:.2f}, "
        f"authenticity {new.authenticity:.2f}, duplicates {new.duplicates}"
    )
