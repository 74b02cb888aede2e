"""A classical generator: a restricted Boltzmann machine, whose chains begin with coin flips and end as images.

A pixel is four binary units, each on where the level is above a threshold of its own; their number is the level again.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gmkern.classical import RBM
from gmkern.demo.digits import PIXELS, Digits
from gmkern.demo.training import Advance

THRESHOLDS = (2, 6, 10, 14)
_GREYS = torch.tensor([0, 4, 8, 12, 16])  # the level of a pixel with so many of its units on
HIDDEN = 128
SWEEPS = 300
"""Gibbs steps of a chain that draws an image."""


def train(digits: Digits, *, steps: int, seed: int, advance: Advance) -> RBM:
    """A machine, by persistent contrastive divergence; ``steps`` are epochs."""
    units = torch.cat([digits.train > threshold for threshold in THRESHOLDS], 1).float()
    machine = RBM(units.shape[1], HIDDEN, seed=seed).fit(units, epochs=steps, seed=seed, learning_rate=0.05)
    advance(steps)
    return machine


def draw(model: RBM, n: int, *, seed: int, backend: str | None = None) -> Tensor:
    """``n`` images [n, 64]."""
    units = model.sample(n, steps=SWEEPS, seed=seed, backend=backend)
    return _GREYS[units.view(n, len(THRESHOLDS), PIXELS).sum(1).long()]
