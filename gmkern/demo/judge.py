"""Is a set of images near the training set (fidelity), everywhere in it (diversity), a copy of it (novelty)?"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from gmkern import metrics
from gmkern.demo.digits import LEVELS, Digits
from gmkern.metrics import _bootstrap
from gmkern.metrics._bootstrap import Estimate
from gmkern.metrics._resampling import HOLDOUT
from gmkern.metrics.report import Scores

NEIGHBOURS = 5
"""k of precision, density, recall and coverage."""
NUMBERS = ("precision", "density", "recall", "coverage", "distance", "authenticity", "duplicates", "c_t")
LEVEL = 0.95
REAL, PROCESS, CONTROL = "real", "process", "control"


class Judged(NamedTuple):
    """A set of images [N, 64] and what was found of it."""

    name: str
    kind: str
    """REAL, PROCESS or CONTROL."""
    images: Tensor
    scores: Scores
    bits: Estimate | None = None
    bits_of: str = ""


def judge(
    name: str,
    kind: str,
    images: Tensor,
    digits: Digits,
    *,
    resamples: int,
    bits: Tensor | None = None,
    bits_of: str = "",
) -> Judged:
    """Judges ``images`` [N, 64] against the training set, beside the held-out images; ``bits`` [H] are of those."""
    found = metrics.evaluate(
        images.float(),
        digits.train.float(),
        holdout=digits.held_out.float(),
        k=NEIGHBOURS,
        level=LEVEL,
        resamples=resamples,
    )
    spent = None
    if bits is not None:
        draws = _bootstrap.Resamples(len(bits), resamples, 0, HOLDOUT)
        spent = _bootstrap.intervals({"bits": _bootstrap.mean(bits)}, draws, LEVEL)["bits"]
    return Judged(name, kind, images, found.generated, spent, bits_of)


def copies(digits: Digits, n: int, seed: int) -> Tensor:
    """A control, the generator that copies: ``n`` training images."""
    rows = torch.randint(len(digits.train), (n,), generator=torch.Generator().manual_seed(seed))
    return digits.train[rows]


def noise(digits: Digits, n: int, seed: int) -> Tensor:
    """A control without shapes: each pixel of ``n`` images is any of the grey levels."""
    shape = (n, digits.train.shape[1])
    return torch.randint(LEVELS, shape, generator=torch.Generator().manual_seed(seed))
