"""latent.sample beside eager PyTorch in batches of several sizes."""

from __future__ import annotations

from functools import partial
from itertools import pairwise

import torch
from _case import OURS, Case, Point, Run, across
from torch import Tensor, nn

from gmkern import latent, random
from gmkern.random.streams import LATENT

WIDTHS = {"small": (16, 64, 64, 64), "VAE": (32, 400, 784), "wide": (64, 1024, 1024, 784)}
SAMPLES = 20_000
BATCHES = (100, 1_000, 20_000)


def decoder_of(widths: tuple[int, ...]) -> nn.Sequential:
    torch.manual_seed(0)
    parts: list[nn.Module] = []
    for inputs, outputs in pairwise(widths):
        parts += [nn.Linear(inputs, outputs), nn.GELU()]
    return nn.Sequential(*parts[:-1]).requires_grad_(False)


def ours(n: int, decoder: nn.Sequential) -> Run:
    return lambda _: latent.sample(decoder, n, seed=0)


def eager(n: int, batch: int, decoder: nn.Sequential) -> Run:
    """What a user would write: batches of randn."""
    dim = decoder[0].in_features
    return lambda _: torch.cat([decoder(torch.randn(min(batch, n - i), dim)) for i in range(0, n, batch)])


def check(n: int, decoder: nn.Sequential, tool: str, ours: Tensor, theirs: Tensor) -> None:
    """Rivals have noise of their own: of theirs the shape and two moments of the law, of ours the decoder's values."""
    assert ours.shape == theirs.shape, tool
    if tool == OURS:
        truth = decoder(random.normal(0, n, 0, decoder[0].in_features, stream=LATENT))
        torch.testing.assert_close(ours, truth, rtol=1e-4, atol=1e-5)
    far = 6 * (2 / n) ** 0.5  # six standard errors of a difference of two means, in spreads; and up to a kurtosis of 5
    assert ((ours.mean(0) - theirs.mean(0)).abs() <= far * ours.std(0)).all(), tool
    assert ((theirs.std(0) / ours.std(0) - 1).abs() <= far).all(), tool  # of the ratio of two spreads


def case(kind: str, n: int, batches: tuple[int, ...], point: Point | None = None) -> Case:
    widths = WIDTHS[kind]
    tools = {OURS: partial(ours, n)} | {f"eager, {batch}": partial(eager, n, batch) for batch in batches}
    weights = sum(a * b for a, b in pairwise(widths))
    name = f"latent.sample, {kind} {'-'.join(map(str, widths))} n={n}"
    moved, flop = 4.0 * (weights + n * widths[-1]), 2.0 * weights * n
    return Case(name, partial(decoder_of, widths), tools, partial(check, n), moved, flop, point=point)


CASES = [case(kind, SAMPLES, BATCHES) for kind in WIDTHS]
CURVES = [case("VAE", n, (1_000,), Point("latent.sample", "n", n)) for n in (1_000, 4_000, 16_000, 64_000)]


@across(CASES)
def test_sample(case, tool, raced):
    raced(case, tool)


@across(CURVES)
def test_sample_grows(case, tool, raced):
    raced(case, tool)
