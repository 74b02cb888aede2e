"""The data: scikit-learn's 1,797 handwritten digits, 8 x 8 pixels of 17 grey levels. Nothing is downloaded."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

SIDE = 8
PIXELS = SIDE * SIDE
LEVELS = 17
"""Grey levels, 0 (paper) to 16 (ink)."""
CLASSES = 10


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
