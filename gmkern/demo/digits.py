"""The data: scikit-learn's 1,797 handwritten digits, 8 x 8 pixels of 17 grey levels. Nothing is downloaded."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from gmkern import random

SIDE = 8
PIXELS = SIDE * SIDE
LEVELS = 17
"""Grey levels, 0 (paper) to 16 (ink)."""
CLASSES = 10
_HALF = (LEVELS - 1) / 2


class Digits(NamedTuple):
    """Images int64 [., 64] with levels 0 to 16 and their labels [.], split at random by seed."""

    train: Tensor
    train_labels: Tensor
    held_out: Tensor
    held_out_labels: Tensor


def load(held_out: int = 500, seed: int = 0) -> Digits:
    """The digits, ``held_out`` of them set aside.

    Raises
    ------
    ModuleNotFoundError : scikit-learn is not installed.
    """
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images, labels = torch.from_numpy(bunch.data).long(), torch.from_numpy(bunch.target).long()
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
    apart, kept = order[:held_out], order[held_out:]
    return Digits(images[kept], labels[kept], images[apart], labels[apart])


def to_points(images: Tensor, within: Tensor | None = None) -> Tensor:
    """Levels 0 to 16 as numbers from -1 to 1; with ``within``, uniforms, each anywhere in its level (dequantised)."""
    levels = images.float() if within is None else images + (within - 0.5)
    return levels / _HALF - 1


def to_levels(points: Tensor) -> Tensor:
    """Numbers from -1 to 1 rounded to levels."""
    return ((points + 1) * _HALF).round().clamp(0, LEVELS - 1).long()


def dequantised(images: Tensor, seed: int = 0) -> Tensor:
    """Images as points, each number anywhere in its level: a function of the seed and the image's row."""
    return to_points(images, random.uniform(seed, torch.arange(len(images)), 0, PIXELS))


def bits_of_levels(log_prob: Tensor) -> Tensor:
    """Bits a pixel of images of log-probability ``log_prob`` [N]."""
    return -log_prob.double() / (PIXELS * math.log(2))


def bits_of_points(log_density: Tensor) -> Tensor:
    """Bits a pixel of dequantised images, of log-density ``log_density`` [N] at their points.

    On average no less than the bits of the levels under the model's mass of each level (Theis et al., 2016).
    """
    return bits_of_levels(log_density) + math.log2(_HALF)
