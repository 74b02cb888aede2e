"""Training in plain PyTorch: AdamW, warm-up and cosine, an average of the weights. The kernels come afterwards."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import TypeVar

import torch
from torch import Tensor, nn

from gmkern.demo.digits import Digits, to_points

M = TypeVar("M", bound=nn.Module)

Advance = Callable[[int], None]
"""Told how many more steps are done, by whoever draws the progress."""

WARM_UP = 50
"""Steps over which the learning rate rises, or a fifth of all if that is less."""
LAST_RATE = 0.02
"""Of the learning rate, what is left at the end of the cosine."""
CLIP = 1.0


def fit(
    module: nn.Module,
    loss: Callable[[Tensor], Tensor],
    *,
    rows: int,
    batch: int,
    steps: int,
    learning_rate: float,
    weight_decay: float,
    average: float,
    advance: Advance,
) -> None:
    """Trains ``module`` in place and leaves it with its averaged weights, in eval mode.

    Parameters
    ----------
    loss : of a batch, given as the indices [batch] of its rows.
    rows : how many rows there are; each epoch is a new order of them.
    average : decay of the weights' exponential average (Polyak and Juditsky, 1992), less in the first steps.
    """
    parameters: list[Tensor] = list(module.parameters())
    averaged = [parameter.detach().clone() for parameter in parameters]
    optimiser = torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=weight_decay, betas=(0.9, 0.95))
    batches = _batches(rows, batch)
    warm_up = max(1, min(WARM_UP, steps // 5))
    module.train()
    for step in range(steps):
        cosine = 0.5 * (1 + math.cos(math.pi * step / steps))
        rate = learning_rate * min(1.0, (step + 1) / warm_up) * (LAST_RATE + (1 - LAST_RATE) * cosine)
        for group in optimiser.param_groups:
            group["lr"] = rate
        optimiser.zero_grad(set_to_none=True)
        loss(next(batches)).backward()
        nn.utils.clip_grad_norm_(parameters, CLIP)
        optimiser.step()
        with torch.no_grad():
            torch._foreach_lerp_(averaged, parameters, 1 - min(average, (step + 1) / (step + 10)))
        advance(1)
    with torch.no_grad():
        for parameter, mean in zip(parameters, averaged, strict=True):
            parameter.copy_(mean)
    module.eval()


def fit_points(
    make: Callable[[], M],
    loss: Callable[[M, Tensor], Tensor],
    digits: Digits,
    *,
    steps: int,
    seed: int,
    weight_decay: float,
    advance: Advance,
) -> M:
    """A network made and trained from ``seed``, by its loss of dequantised images x [128, 64], dequantised anew each
    time; torch's own generator stays as it was.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = make()

        def of_rows(rows: Tensor) -> Tensor:
            images = digits.train[rows]
            return loss(model, to_points(images, torch.rand(images.shape)))

        fit(
            model,
            of_rows,
            rows=len(digits.train),
            batch=128,
            steps=steps,
            learning_rate=2e-3,
            weight_decay=weight_decay,
            average=0.995,
            advance=advance,
        )
    return model


def _batches(rows: int, batch: int) -> Iterator[Tensor]:
    """Whole batches of row indices, epoch after epoch; what is left of an epoch's order is not used."""
    if batch > rows:
        raise ValueError(f"batch: got {batch}; takes at most the number of rows, {rows}")
    while True:
        order = torch.randperm(rows)
        yield from order[: rows - rows % batch].split(batch)
