"""Dynamics, of points: a random cloud in the plane follows a learnt force field and is a digit, drawn in dots.

A digit's cloud holds so many points of its ink. A random cloud has one point in each of as many cells of the plane, all
of equal chance under a normal law: points drawn without regard to one another would come in clumps, which the field
would have to undo before it could draw. The field is a mesh's (Hockney and Eastwood, 1988): the points' density on the
pixels goes through a network, and each point feels what comes out at its place, whatever the order of the points. It is
trained by flow matching on straight lines, along which each random point goes to an ink point such that the squares of
the ways are the least in sum (Klein et al., 2023).
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

POINTS = 96
INK = 312.0
"""Levels in a digit, all pixels together, on average: a cloud does not say how much."""
STEPS = 12
"""Heun steps from random cloud to digit, two evaluations of the field each."""
_CELLS = (8, 12)  # across and down: one for each point of a random cloud
_FREQUENCIES = 8
_BLOCK = 250  # clouds moved at once: the network's memory
_SCALE = 2.0  # pixels to the unit of length: ink then has about the spread of the random cloud
_MARGIN = 2  # pixels of the mesh beyond the image on each side, where random points begin
_MESH = SIDE + 2 * _MARGIN
_KEPT = 4  # pairs of a random cloud and an image's that are made for an image; finding one costs as much as using it


class Force(nn.Module):
    """f(x [S, N, 2], t [S]) -> [S, N, 2], the velocity of each point; ``digits`` [S] names what each cloud shall be."""

    frequencies: Tensor

    def __init__(self, width: int = 256, depth: int = 3, channels: int = 16, near: int = 64):
        super().__init__()
        self.digits = torch.zeros(0, dtype=torch.long)
        self.register_buffer("frequencies", torch.exp(torch.linspace(math.log(0.5), math.log(16.0), _FREQUENCIES)))
        self.time = nn.Sequential(nn.Linear(2 * _FREQUENCIES, width), nn.SiLU(), nn.Linear(width, width))
        self.digit = nn.Embedding(CLASSES, width)
        self.enter = nn.Linear(_MESH**2, width)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(depth))
        self.up = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.down = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.mesh = nn.Linear(width, channels * _MESH**2)
        self.whole = nn.Linear(width, near)
        self.place = nn.Linear(channels + 1 + 2 + 4 * _FREQUENCIES, near)
        self.point = nn.Sequential(nn.SiLU(), nn.Linear(near, near), nn.SiLU())
        self.leave = nn.Linear(near, 2)
        for layer in (*self.down, self.leave):
            nn.init.zeros_(layer.weight)  # each block begins as the identity, the field as zero

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        asked = self.time(_waves(t, self.frequencies)) + self.digit(self.digits)
        density = _spread(x, _MARGIN) * (PIXELS / x.shape[1])  # [S, mesh], about 1 where there is ink
        h = self.enter(density)
        for norm, up, down in zip(self.norms, self.up, self.down, strict=True):
            h = h + down(F.silu(up(norm(h + asked))))
        h = self.norm(h)
        mesh = torch.cat([self.mesh(h), density], 1).view(len(x), -1, _MESH, _MESH)
        at = (_places(x, _MARGIN) / (_MESH - 1) * 2 - 1).unsqueeze(1)
        felt = F.grid_sample(mesh, at, padding_mode="border", align_corners=True)[:, :, 0].transpose(1, 2)
        near = self.place(torch.cat([felt, x, _waves(x, self.frequencies).flatten(2)], 2))
        return self.leave(self.point(near + self.whole(h + asked).unsqueeze(1)))


def train(digits: Digits, *, steps: int, seed: int, advance: Advance) -> Force:
    """A force field, by flow matching."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Force()
        starts, ends = torch.empty(2, len(digits.train), _KEPT, POINTS, 2)
        made = torch.zeros(starts.shape[:2], dtype=torch.bool)

        def loss(rows: Tensor) -> Tensor:
            which = torch.randint(_KEPT, rows.shape)
            new = ~made[rows, which]
            if new.any():
                at, images = (rows[new], which[new]), digits.train[rows[new]]
                ends[at] = of_images(images, torch.rand(len(images)), torch.rand(len(images), POINTS, 2))
                starts[at] = _paired(_scattered(torch.rand(len(images), POINTS, 2)), ends[at])
                made[at] = True
            start, end, t = starts[rows, which], ends[rows, which], torch.rand(len(rows))
            model.digits = digits.train_labels[rows]
            return F.mse_loss(model(torch.lerp(start, end, t[:, None, None]), t), end - start)

        fit(
            model,
            loss,
            rows=len(digits.train),
            batch=64,
            steps=steps,
            learning_rate=4e-3,
            weight_decay=0.01,
            average=0.995,
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
    within = random.uniform(seed, ids, 0, 2 * POINTS, stream=random.INITIAL, backend=backend)
    start = _scattered(within.view(-1, POINTS, 2))
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
    return (_spread(clouds, 0) * (INK / POINTS)).round().clamp(0, LEVELS - 1).long()


def _scattered(within: Tensor) -> Tensor:
    """Uniforms [S, N, 2], where in its cell each point lies, as clouds whose points are normal, one to a cell."""
    across, down = _CELLS
    cell = torch.arange(POINTS)
    corner = torch.stack([cell % across, cell // across], 1)
    return torch.special.ndtri((corner + within) / torch.tensor([across, down]))


def _places(clouds: Tensor, margin: int) -> Tensor:
    """Points as pixels from the first of a mesh with so many around the image; those beyond it are moved to its rim."""
    return (clouds * _SCALE + (SIDE - 1) / 2 + margin).clamp(0, SIDE - 1 + 2 * margin)


def _spread(clouds: Tensor, margin: int) -> Tensor:
    """How much of the points of each cloud [S, N, 2] every pixel has [S, mesh]: the four around a point share it."""
    side = SIDE + 2 * margin
    place = _places(clouds, margin)
    corner = place.floor().clamp_max(side - 2)
    mesh = torch.zeros(len(clouds), side * side)
    for right in (0, 1):
        for down in (0, 1):
            step = torch.tensor([right, down])
            at = (corner + step).long()
            share = (1 - (place - corner - step).abs()).prod(2)
            mesh.scatter_add_(1, at[..., 1] * side + at[..., 0], share)
    return mesh


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
