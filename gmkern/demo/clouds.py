"""Dynamics, of points: a random cloud in the plane follows a learnt force field and is a digit, drawn in dots.

A digit's cloud holds so many points of its ink. The field sees all points of a cloud and moves each of them, whatever
their order: attention without positions of its own. It is trained by flow matching on straight lines, along which each
random point goes to an ink point such that the squares of the ways are the least in sum (Klein et al., 2023).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gmkern import random
from gmkern.demo.digits import CLASSES, LEVELS, PIXELS, SIDE, Digits
from gmkern.demo.training import Advance, fit
from gmkern.dynamics import Heun, VectorField, simulate

POINTS = 64
INK = 312.0
"""Levels in a digit, all pixels together, on average: a cloud does not say how much."""
STEPS = 12
"""Heun steps from random cloud to digit, two evaluations of the field each."""
_FREQUENCIES = 8
_BLOCK = 250  # clouds moved at once: the network's memory
_SCALE = 2.0  # pixels to the unit of length: ink then has about the spread of the random cloud


class Force(nn.Module):
    """f(x [S, N, 2], t [S]) -> [S, N, 2], the velocity of each point; ``digits`` [S] names what each cloud shall be."""

    frequencies: Tensor

    def __init__(self, width: int = 64, heads: int = 4, depth: int = 3):
        super().__init__()
        self.digits = torch.zeros(0, dtype=torch.long)
        self.register_buffer("frequencies", torch.exp(torch.linspace(math.log(0.5), math.log(16.0), _FREQUENCIES)))
        self.enter = nn.Linear(2 + 4 * _FREQUENCIES, width)
        self.time = nn.Sequential(nn.Linear(2 * _FREQUENCIES, width), nn.SiLU(), nn.Linear(width, width))
        self.digit = nn.Embedding(CLASSES, width)
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(
                width, heads, 2 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
            )
            for _ in range(depth)
        )
        self.norm = nn.LayerNorm(width)
        self.leave = nn.Linear(width, 2)
        nn.init.zeros_(self.leave.weight)  # the field begins as zero

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        asked = self.time(_waves(t, self.frequencies)) + self.digit(self.digits)
        h = self.enter(torch.cat([x, _waves(x, self.frequencies).flatten(2)], 2))
        for block in self.blocks:
            h = block(h + asked.unsqueeze(1))
        return self.leave(self.norm(h))


def train(digits: Digits, *, steps: int, seed: int, advance: Advance) -> Force:
    """A force field, by flow matching."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Force()

        def loss(rows: Tensor) -> Tensor:
            images = digits.train[rows]
            end = of_images(images, torch.rand(len(rows)), torch.rand(len(rows), POINTS, 2))
            start = _paired(torch.randn(end.shape), end)
            t = torch.rand(len(rows))
            model.digits = digits.train_labels[rows]
            return F.mse_loss(model(torch.lerp(start, end, t[:, None, None]), t), end - start)

        fit(
            model,
            loss,
            rows=len(digits.train),
            batch=32,
            steps=steps,
            learning_rate=3e-3,
            weight_decay=0.01,
            average=0.99,
            advance=advance,
        )
    return model


def draw(model: Force, n: int, *, seed: int, backend: str | None = None) -> Tensor:
    """``n`` images [n, 64] of levels: clouds of 0, 1, ..., 9 in turn, rasterised."""
    parts = [move(model, ids, seed=seed, backend=backend)[0] for ids in torch.arange(n).split(_BLOCK)]
    return rasterised(torch.cat(parts))


def move(
    model: Force, ids: Tensor, *, seed: int, record_every: int | None = None, backend: str | None = None
) -> tuple[Tensor, Tensor | None]:
    """The clouds with these ids [S, N, 2] at their ends, and the frames on the way there."""
    start = random.normal(seed, ids, 0, 2 * POINTS, stream=random.INITIAL, backend=backend).view(-1, POINTS, 2)
    model.digits = ids % CLASSES
    with torch.no_grad():
        path = simulate(
            VectorField(model),
            start,
            integrator=Heun(1 / STEPS),
            steps=STEPS,
            record_every=record_every,
            backend=backend,
        )
    return path.positions, path.frames


def of_images(images: Tensor, first: Tensor, within: Tensor) -> Tensor:
    """Images [S, 64] as clouds [S, N, 2]: points at equal steps of ink, pixel after pixel, near their pixels' middles.

    ``first`` [S] and ``within`` [S, N, 2] are uniforms: where the steps begin, and where near the middle a point lies.
    """
    ink = images.double().cumsum(1)
    at = (torch.arange(POINTS) + first[:, None].double()) / POINTS * ink[:, -1:]
    pixel = torch.searchsorted(ink, at, right=True).clamp_max(PIXELS - 1)
    corner = torch.stack([pixel % SIDE, pixel // SIDE], 2)
    return (corner + 0.25 + within / 2 - SIDE / 2) / _SCALE


def rasterised(clouds: Tensor) -> Tensor:
    """Clouds [S, N, 2] as images [S, 64] of levels: each point is so much ink, shared by the four pixels around it."""
    place = (clouds * _SCALE + (SIDE - 1) / 2).clamp(0, SIDE - 1)
    corner = place.floor().clamp_max(SIDE - 2)
    ink = torch.zeros(len(clouds), PIXELS)
    for right in (0, 1):
        for down in (0, 1):
            side = torch.tensor([right, down])
            at = (corner + side).long()
            share = (1 - (place - corner - side).abs()).prod(2)
            ink.scatter_add_(1, at[..., 1] * SIDE + at[..., 0], share)
    return (ink * (INK / POINTS)).round().clamp(0, LEVELS - 1).long()


def _paired(start: Tensor, end: Tensor) -> Tensor:
    """``start`` [S, N, 2] in the order that brings its points nearest to those of ``end``, in squares."""
    from scipy.optimize import linear_sum_assignment

    costs = torch.cdist(end, start).square().numpy()
    order = torch.stack([torch.from_numpy(linear_sum_assignment(cost)[1]) for cost in costs])
    return start.gather(1, order.unsqueeze(2).expand_as(start))


def _waves(x: Tensor, frequencies: Tensor) -> Tensor:
    """[...] -> [..., 2 F]."""
    angle = x.unsqueeze(-1) * frequencies
    return torch.cat([angle.cos(), angle.sin()], -1)
