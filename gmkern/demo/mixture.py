"""A classical generator: a mixture of Gaussians with one covariance, fitted by expectation-maximisation."""

from __future__ import annotations

from torch import Tensor

from gmkern.classical import GaussianMixture
from gmkern.demo.digits import Digits, bits_of_points, dequantised, to_levels
from gmkern.demo.training import Advance

COMPONENTS = 60


def train(digits: Digits, *, steps: int, seed: int, advance: Advance) -> GaussianMixture:
    """A mixture of the dequantised images."""
    fitted = GaussianMixture.fit(
        dequantised(digits.train, seed).double(),
        COMPONENTS,
        seed=seed,
        covariance="tied",
        max_steps=steps,
        regularization=1e-3,
    )
    advance(steps)
    return fitted


def draw(model: GaussianMixture, n: int, *, seed: int, backend: str | None = None) -> Tensor:
    """``n`` images [n, 64], rounded to levels."""
    return to_levels(model.sample(n, seed=seed, backend=backend))


def bits(model: GaussianMixture, images: Tensor) -> Tensor:
    """Bits a pixel of images [N, 64], dequantised."""
    return bits_of_points(model.log_prob(dequantised(images).double()))
