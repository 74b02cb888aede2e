"""Latent: a normal vector is pushed through a network and is an image, in one kernel.

The network is the decoder of a variational autoencoder (Kingma and Welling, 2014), whose width of noise is learnt.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from gmkern import latent, random
from gmkern.demo.digits import PIXELS, Digits, bits_of_points, dequantised, to_levels
from gmkern.demo.training import Advance, fit_points

DIM = 16
WIDTH = 256
_DRAWS = 64


class Autoencoder(nn.Module):
    """p(x | z) = N(decoder(z), diag exp(2 log_width)), q(z | x) = N(m, diag s²) with (m, log s) = encoder(x)."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(PIXELS, WIDTH), nn.GELU(), nn.Linear(WIDTH, 2 * DIM))
        self.decoder = nn.Sequential(
            nn.Linear(DIM, WIDTH), nn.GELU(), nn.Linear(WIDTH, WIDTH), nn.GELU(), nn.Linear(WIDTH, PIXELS)
        )
        self.log_width = nn.Parameter(torch.full((PIXELS,), -1.0))

    def log_weight(self, x: Tensor, noise: Tensor) -> Tensor:
        """log p(x, z) - log q(z | x) at z = m + s noise, for x [..., 64] and noise [..., DIM]: log p(x) or less, on
        average.
        """
        mean, log_spread = self.encoder(x).chunk(2, -1)
        z = mean + log_spread.exp() * noise
        off = (x - self.decoder(z)) * (-self.log_width).exp()
        likelihood = -0.5 * (off * off).sum(-1) - self.log_width.sum() - PIXELS / 2 * math.log(2 * math.pi)
        return likelihood + 0.5 * (noise * noise - z * z).sum(-1) + log_spread.sum(-1)


def train(digits: Digits, *, steps: int, seed: int, advance: Advance) -> Autoencoder:
    """An autoencoder, by the evidence lower bound."""

    def loss(model: Autoencoder, x: Tensor) -> Tensor:
        return -model.log_weight(x, torch.randn(len(x), DIM)).mean() / PIXELS

    return fit_points(Autoencoder, loss, digits, steps=steps, seed=seed, weight_decay=0.05, advance=advance)


def draw(model: Autoencoder, n: int, *, seed: int, backend: str | None = None) -> Tensor:
    """``n`` images [n, 64]: the decoder's means, rounded to levels."""
    with torch.no_grad():
        return to_levels(latent.sample(model.decoder, n, seed=seed, backend=backend))


def bits(model: Autoencoder, images: Tensor, *, seed: int) -> Tensor:
    """Bits a pixel of images [N, 64], dequantised, or more: by 64 draws of z an image (Burda et al., 2016)."""
    rows = torch.arange(len(images))
    noise = torch.stack([random.normal(seed, rows, draw, DIM) for draw in range(_DRAWS)])
    with torch.no_grad():
        weights = model.log_weight(dequantised(images).expand(_DRAWS, -1, -1), noise)
    return bits_of_points(torch.logsumexp(weights, 0) - math.log(_DRAWS))
