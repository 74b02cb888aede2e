"""latent.sample beside eager PyTorch.

python benchmarks/bench_latent.py                              a table of ratios, in turns, results checked
pytest benchmarks/bench_latent.py --benchmark-enable           the same cases under pytest-benchmark
"""

from __future__ import annotations

from functools import partial
from itertools import pairwise
from typing import Any

import pytest
import torch
from _compare import Run, circumstances, interleaved, measured
from torch import Tensor, nn

from gmkern import latent, random
from gmkern.random.streams import LATENT

CASES = {"small": (16, 64, 64, 64), "VAE": (32, 400, 784), "wide": (64, 1024, 1024, 784)}
SAMPLES = 20_000
BATCHES = (100, 1_000, SAMPLES)


def decoder_of(widths: tuple[int, ...]) -> nn.Sequential:
    parts: list[nn.Module] = []
    for inputs, outputs in pairwise(widths):
        parts += [nn.Linear(inputs, outputs), nn.GELU()]
    return nn.Sequential(*parts[:-1])


def eager(decoder: nn.Sequential, dim: int, batch: int) -> Tensor:
    """What a user would write: batches of randn."""
    return torch.cat([decoder(torch.randn(batch, dim)) for _ in range(SAMPLES // batch)])


def check(decoder: nn.Sequential, dim: int, name: str, ours: Tensor, theirs: Tensor) -> None:
    """Rivals have noise of their own: shapes are compared, and ours with the decoder on its noise."""
    assert ours.shape == theirs.shape, name
    truth = decoder(random.normal(0, SAMPLES, 0, dim, stream=LATENT))
    torch.testing.assert_close(ours, truth, rtol=1e-4, atol=1e-5)


def rivals(decoder: nn.Sequential, dim: int) -> dict[str, Run]:
    return {f"eager, {batch}": partial(eager, decoder, dim, batch) for batch in BATCHES}


@torch.no_grad()
def main() -> None:
    for key, value in circumstances().items():
        print(f"{key}: {value}")
    for name, widths in CASES.items():
        decoder, dim = decoder_of(widths), widths[0]
        ours = partial(latent.sample, decoder, SAMPLES, seed=0)
        print(interleaved(f"{name} {list(widths)}", ours, rivals(decoder, dim), partial(check, decoder, dim)))


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("tool", ["gmkern", *(f"eager, {batch}" for batch in BATCHES)])
@torch.no_grad()
def test_sample(benchmark: Any, case: str, tool: str) -> None:
    decoder, dim = decoder_of(CASES[case]), CASES[case][0]
    tools: dict[str, Run] = {"gmkern": partial(latent.sample, decoder, SAMPLES, seed=0), **rivals(decoder, dim)}
    measured(benchmark, tool, tools, partial(check, decoder, dim))


if __name__ == "__main__":
    main()
