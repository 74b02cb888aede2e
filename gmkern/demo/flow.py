"""Dynamics, of images: a point of noise follows a learnt velocity field for one unit of time, and is an image.

Flow matching (Lipman et al., 2023; Liu et al., 2023): the field is regressed on straight lines from noise to images.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gmkern import random
from gmkern.demo.digits import PIXELS, Digits, bits_of_points, dequantised, to_levels
from gmkern.demo.training import Advance, fit_points
from gmkern.dynamics import Heun, VectorField, simulate

STEPS = 32
"""Heun steps from noise to image, two evaluations of the field each."""
_FREQUENCIES = 16


class Velocity(nn.Module):
    """A residual network f(x [S, 64], t [S]) -> [S, 64]."""

    frequencies: Tensor

    def __init__(self, width: int = 256, depth: int = 3):
        super().__init__()
        self.register_buffer("frequencies", torch.exp(torch.linspace(0, math.log(64.0), _FREQUENCIES)))
        self.time = nn.Sequential(nn.Linear(2 * _FREQUENCIES, width), nn.SiLU(), nn.Linear(width, width))
        self.enter = nn.Linear(PIXELS, width)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(depth))
        self.up = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.down = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.leave = nn.Linear(width, PIXELS)
        for layer in (*self.down, self.leave):
            nn.init.zeros_(layer.weight)  # each block begins as the identity, the field as zero

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        angle = t.unsqueeze(1) * self.frequencies
        time = self.time(torch.cat([angle.cos(), angle.sin()], 1))
        h = self.enter(x)
        for norm, up, down in zip(self.norms, self.up, self.down, strict=True):
            h = h + down(F.silu(up(norm(h + time))))
        return self.leave(self.norm(h))


def train(digits: Digits, *, steps: int, seed: int, advance: Advance) -> Velocity:
    """A velocity field, by flow matching."""

    def loss(model: Velocity, end: Tensor) -> Tensor:
        start, t = torch.randn_like(end), torch.rand(len(end))
        return F.mse_loss(model(torch.lerp(start, end, t.unsqueeze(1)), t), end - start)

    return fit_points(Velocity, loss, digits, steps=steps, seed=seed, weight_decay=0.01, advance=advance)


def draw(model: Velocity, n: int, *, seed: int, backend: str | None = None) -> Tensor:
    """``n`` images [n, 64], rounded to levels."""
    start = random.normal(seed, torch.arange(n), 0, PIXELS, stream=random.INITIAL, backend=backend)
    with torch.no_grad():
        end = simulate(VectorField(model), start, integrator=Heun(1 / STEPS), steps=STEPS, backend=backend).positions
    return to_levels(end)


def bits(model: Velocity, images: Tensor, *, seed: int) -> Tensor:
    """Bits a pixel of images [N, 64], dequantised: the flow run backwards, its divergence summed along the way.

    The divergence is Hutchinson's estimate, one vector of signs an image (Grathwohl et al., 2019), so that an image's
    number is noisy and the mean is not.
    """
    x, dt = dequantised(images), 1 / STEPS
    signs = random.uniform(seed, torch.arange(len(x)), 1, PIXELS).round() * 2 - 1
    log_density = torch.zeros(len(x))

    def slope(x: Tensor, time: float) -> tuple[Tensor, Tensor]:
        t = torch.full((len(x),), time)
        velocity, turned = torch.func.jvp(lambda x: model(x, t), (x,), (signs,))[:2]
        return velocity, (signs * turned).sum(1)

    with torch.no_grad():
        for step in range(STEPS, 0, -1):
            first, spread = slope(x, step * dt)
            second, spread_before = slope(x - dt * first, (step - 1) * dt)
            x = x - dt / 2 * (first + second)
            log_density -= dt / 2 * (spread + spread_before)
    return bits_of_points(log_density - (x * x).sum(1) / 2 - PIXELS / 2 * math.log(2 * math.pi))
