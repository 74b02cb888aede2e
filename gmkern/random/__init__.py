"""The noise contract: noise as a pure function of (seed, stream, sample id, step, element). See docs/noise.md."""

from gmkern.random.api import gumbel, normal, uniform
from gmkern.random.streams import (
    BOOTSTRAP,
    CONTEXT,
    EXPLORE,
    GIBBS,
    INITIAL,
    KICK,
    LATENT,
    PROJECTION,
    TOKEN,
    USER,
)

__all__ = [
    "BOOTSTRAP",
    "CONTEXT",
    "EXPLORE",
    "GIBBS",
    "INITIAL",
    "KICK",
    "LATENT",
    "PROJECTION",
    "TOKEN",
    "USER",
    "gumbel",
    "normal",
    "uniform",
]
