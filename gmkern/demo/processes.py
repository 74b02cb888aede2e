"""The processes that the demo runs, in one list: how each is trained, drawn from and scored."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor

from gmkern.demo import boltzmann, clouds, flow, latent, mixture, pixels, sets


class Process(NamedTuple):
    """One process: ``train(digits, steps=, seed=, advance=)`` gives a model, ``draw(model, n, seed=, backend=)`` levels
    [n, 64].
    """

    name: str
    path: str
    """The part of gmkern that draws."""
    about: str
    train: Callable[..., Any]
    draw: Callable[..., Tensor]
    steps: int
    """Of the training."""
    quick: int
    """The same for a run of a few seconds."""
    timed: int
    """How many of 10,000 images are drawn to time it."""
    bits: Callable[..., Tensor] | None = None
    """(model, images) -> [N] bits a pixel; None where the model has no likelihood that can be had."""
    bits_of: str = ""
    """Of what: levels or dequantised numbers, and whether it is a bound."""
    at_least: float = 0.99
    """The share of images on which kernel and reference have to agree: rounding now and then tips a choice."""


LEVELS, POINTS, BOUND = "levels, exact", "dequantised", "dequantised, at most"

PROCESSES = (
    Process(
        "latent decoder",
        "latent.sample",
        "sixteen normal numbers, pushed through the decoder of a variational autoencoder",
        latent.train,
        latent.draw,
        steps=1500,
        quick=150,
        timed=10_000,
        bits=lambda model, images: latent.bits(model, images, seed=0),
        bits_of=BOUND,
    ),
    Process(
        "pixel transformer",
        "decode.generate",
        "64 grey levels, one after another; told which digit to draw",
        pixels.train,
        pixels.draw,
        steps=400,
        quick=8,
        timed=200,
        bits=pixels.bits,
        bits_of=LEVELS,
    ),
    Process(
        "flow matching",
        "dynamics.simulate",
        "an image of noise that follows a learnt velocity field",
        flow.train,
        flow.draw,
        steps=2200,
        quick=60,
        timed=200,
        bits=lambda model, images: flow.bits(model, images, seed=0),
        bits_of=POINTS,
    ),
    Process(
        "point clouds",
        "dynamics.simulate",
        f"{clouds.POINTS} points in the plane, each at random in a cell of its own, moved by a learnt force field that "
        "is told which digit to draw, then rasterised",
        clouds.train,
        clouds.draw,
        steps=1000,
        quick=5,
        timed=50,
    ),
    Process(
        "set transformer",
        "context.sample",
        "ten random training images in, one like them out",
        sets.train,
        sets.draw,
        steps=500,
        quick=20,
        timed=1000,
    ),
    Process(
        "mixture of Gaussians",
        "classical.GaussianMixture",
        "classical: one of sixty Gaussians of a shared covariance",
        mixture.train,
        mixture.draw,
        steps=100,
        quick=20,
        timed=10_000,
        bits=mixture.bits,
        bits_of=POINTS,
    ),
    Process(
        "Boltzmann machine",
        "classical.RBM",
        f"classical: binary units that flip each other from coin flips on, {boltzmann.SWEEPS} times",
        boltzmann.train,
        boltzmann.draw,
        steps=100,
        quick=1,
        timed=200,
        at_least=0.95,
    ),
)
