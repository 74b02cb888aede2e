"""context.draw beside what a trainer would write."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import torch
from _case import OURS, Case, Run, Tool, across
from torch import Tensor

from gmkern import context

SIZE = 10


def ours(sets: int, train: Tensor) -> Run:
    return lambda _: context.draw(train, sets, SIZE, seed=1)


def by_randperm(sets: int, train: Tensor) -> Run:
    return lambda _: torch.stack([train[torch.randperm(len(train))[:SIZE]] for _ in range(sets)])


def by_choice(sets: int, train: Tensor) -> Run:
    generator = np.random.default_rng(0)

    def run(_: int) -> Tensor:
        chosen = [generator.choice(len(train), SIZE, replace=False, shuffle=False) for _ in range(sets)]
        return train[torch.from_numpy(np.stack(chosen))]

    return run


def by_multinomial(sets: int, train: Tensor) -> Run:
    return lambda _: train[torch.multinomial(torch.ones(1, len(train)).expand(sets, -1), SIZE)]


def check(train: Tensor, tool: str, ours: Any, theirs: Any) -> None:
    """Rivals draw other sets: the shape is compared, and that each is distinct points of the training set.

    Of theirs the first two of a point's coordinates say which it is: normals of float32, of which no two pairs are one.
    """
    if tool == OURS:
        assert (ours.indices.sort(1).values.diff(dim=1) > 0).all()
        assert torch.equal(ours.points, train[ours.indices])
        return
    assert theirs.shape == ours.points.shape, tool
    drawn, every = (torch.complex(points[..., 0], points[..., 1]) for points in (theirs, train))
    assert np.isin(drawn.numpy(), every.numpy()).all(), tool
    assert int((drawn[:, :, None] == drawn[:, None]).sum()) == drawn.numel(), f"{tool}: a point twice in a set"


def case(kind: str, count: int, dim: int, sets: int) -> Case:
    tools: dict[str, Tool] = {OURS: partial(ours, sets), "NumPy's choice": partial(by_choice, sets)}
    if count * sets < 1 << 25:  # elsewhere these take seconds, or gigabytes
        tools |= {"randperm": partial(by_randperm, sets), "multinomial": partial(by_multinomial, sets)}
    name = f"context.draw, {kind}: {sets} sets of {SIZE} of {count} x {dim}"
    return Case(name, partial(torch.randn, count, dim), tools, check, moved=8.0 * sets * SIZE * dim)


CASES = [case("digits", 1_797, 64, 1024), case("CIFAR", 50_000, 3072, 256), case("a million", 1_000_000, 64, 1024)]


@across(CASES)
def test_draw(case, tool, raced):
    raced(case, tool)
