"""Context: a network is shown ten random training images and makes a new one, like one of them.

It learns to make, of ten images, an image near one of the ten: which one, and how near, is what its noise stands for.
An encoder reads that noise off the image while training, as in a conditional variational autoencoder (Sohn et al.,
2015), and is then thrown away.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from gmkern import context
from gmkern.demo.digits import PIXELS, Digits, to_levels, to_points
from gmkern.demo.training import Advance, fit
from gmkern.neighbors import knn

SIZE = 10
NOISE = 10
WIDTH = 96
_FELLOWS = 5  # a target is one of so many nearest training images of an image that is shown


class Model(NamedTuple):
    """The network, and the images [M, 64] that it is shown ten of."""

    network: context.SetTransformer
    shown: Tensor


class _Autoencoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(PIXELS, 256), nn.GELU(), nn.Linear(256, 2 * NOISE))
        self.network = context.SetTransformer([PIXELS], noise_dim=NOISE, width=WIDTH, layers=1)
        self.log_width = nn.Parameter(torch.tensor(-1.0))

    def loss(self, points: Tensor, target: Tensor) -> Tensor:
        """Minus the evidence lower bound of ``target`` [B, 64] given ``points`` [B, 10, 64], but for a constant."""
        mean, log_spread = self.encoder(target).chunk(2, 1)
        z = mean + log_spread.exp() * torch.randn_like(mean)
        off = (target - self.network(points, z)) * (-self.log_width).exp()
        surprise = 0.5 * (off * off).sum(1) + PIXELS * self.log_width
        divergence = (0.5 * (mean * mean + (2 * log_spread).exp() - 1) - log_spread).sum(1)
        return (surprise + divergence).mean() / PIXELS


def train(digits: Digits, *, steps: int, seed: int, advance: Advance) -> Model:
    """A set transformer, by the evidence lower bound of images near the ones that it is shown."""
    points = to_points(digits.train)
    near = knn(points, k=_FELLOWS, exclude_self=True).indices
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = _Autoencoder()
        drawn = 0

        def loss(rows: Tensor) -> Tensor:
            nonlocal drawn
            ids = torch.arange(drawn, drawn + len(rows))
            drawn += len(rows)
            sets = context.draw(points, len(rows), SIZE - 1, seed=seed, sample_ids=ids).points
            target = near[rows, torch.randint(_FELLOWS, rows.shape)]
            return model.loss(torch.cat([points[rows, None], sets], 1), points[target])

        fit(
            model,
            loss,
            rows=len(points),
            batch=128,
            steps=steps,
            learning_rate=2e-3,
            weight_decay=0.05,
            average=0.99,
            advance=advance,
        )
    return Model(model.network, points)


def draw(model: Model, n: int, *, seed: int, backend: str | None = None) -> Tensor:
    """``n`` images [n, 64], each of ten training images of its own and noise, rounded to levels."""
    with torch.no_grad():
        made = context.sample(model.network, model.shown, n, SIZE, seed=seed, noise_dim=NOISE, backend=backend)
    return to_levels(made)
