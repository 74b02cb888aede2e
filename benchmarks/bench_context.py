"""context.draw beside what a trainer would write: python benchmarks/bench_context.py"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import torch
from _compare import circumstances, interleaved

from gmkern import context

CASES = {"digits": (1_797, 64, 1024), "CIFAR": (50_000, 3072, 256), "a million": (1_000_000, 64, 1024)}
SIZE = 10


def check(name: str, ours: Any, theirs: torch.Tensor) -> None:
    """Rivals draw other sets: the shape is compared, and that each of ours has no point twice."""
    assert theirs.shape == ours.points.shape, name
    assert (ours.indices.sort(1).values.diff(dim=1) > 0).all()


def by_randperm(train: torch.Tensor, sets: int) -> torch.Tensor:
    return torch.stack([train[torch.randperm(len(train))[:SIZE]] for _ in range(sets)])


def by_choice(train: torch.Tensor, sets: int) -> torch.Tensor:
    generator = np.random.default_rng(0)
    chosen = [generator.choice(len(train), SIZE, replace=False, shuffle=False) for _ in range(sets)]
    return train[torch.from_numpy(np.stack(chosen))]


def by_multinomial(train: torch.Tensor, sets: int) -> torch.Tensor:
    return train[torch.multinomial(torch.ones(1, len(train)).expand(sets, -1), SIZE)]


def main() -> None:
    for key, value in circumstances("numpy").items():
        print(f"{key}: {value}")
    for name, (count, dim, sets) in CASES.items():
        train = torch.randn(count, dim)
        rivals = {"numpy's choice": partial(by_choice, train, sets)}
        if count * sets < 1 << 25:  # elsewhere these take seconds, or gigabytes
            rivals |= {
                "randperm": partial(by_randperm, train, sets),
                "multinomial": partial(by_multinomial, train, sets),
            }
        ours = partial(context.draw, train, sets, SIZE, seed=1)
        print(interleaved(f"{name}: {sets} sets of {SIZE} of [{count}, {dim}]", ours, rivals, check))


if __name__ == "__main__":
    main()
