"""From words to numbers: extreme words against high precision, distributions against their laws."""

from __future__ import annotations

import math

import mpmath
import numpy as np
import pytest
import scipy.stats
import torch

import gmkern
from gmkern.random import reference

pytestmark = pytest.mark.sanitize

mpmath.mp.dps = 50
host = pytest.importorskip("gmkern._host")

SPLIT = 0x4AFB0CCC
WORDS32 = [0, 1, 2, 255, 256, 257, 1 << 16, (1 << 24) + 1, SPLIT - 1, SPLIT, SPLIT + 1, 1 << 31, (1 << 31) - 1]
WORDS32 += [0xFFFFFFFF - w for w in WORDS32]
WORDS64 = [w << 32 | w for w in WORDS32] + [0, 1, 2, (1 << 64) - 1, (1 << 64) - 2, 1 << 63]


def unit(word: int, bits: int) -> mpmath.mpf:
    return (mpmath.mpf(word) + 0.5) / mpmath.mpf(2) ** bits


def random_words(rng: np.random.Generator, bits: int, count: int = 2000) -> list[int]:
    return [int(w) for w in rng.integers(0, (1 << bits) - 1, count, dtype=np.uint64, endpoint=True)]


# Errors are in units of eps = 2 u (u the unit roundoff), relative to the exponential E. Near zero E is the polynomial
# alone: 4 u. Elsewhere it is log(2) - log1p(r) at worst, with E >= 0.347 and |log1p| <= 0.347: 4 u of the polynomial,
# u for the rounded 1 - u, half of one each for the two sums, all divided by 0.347: below 7 u = 3.5 eps.
ULPS = 3.5


@pytest.mark.parametrize("bits", [32, 64])
def test_exponential_is_accurate_for_every_kind_of_word(bits, rng):
    draw = host.exponential_from_word if bits == 32 else host.exponential_from_word64
    eps = 2.0**-23 if bits == 32 else 2.0**-52
    for word in (WORDS32 if bits == 32 else WORDS64) + random_words(rng, bits):
        truth = -mpmath.log(1 - unit(word, bits))
        assert abs(draw(word) - truth) <= ULPS * eps * truth, hex(word)


@pytest.mark.parametrize("bits", [32, 64])
def test_gumbel_is_accurate_and_finite_for_every_kind_of_word(bits, rng):
    draw = host.gumbel_from_word if bits == 32 else host.gumbel_from_word64
    eps = 2.0**-23 if bits == 32 else 2.0**-52
    for word in (WORDS32 if bits == 32 else WORDS64) + random_words(rng, bits):
        truth = -mpmath.log(-mpmath.log(1 - unit(word, bits)))
        # the exponential's relative error is an absolute one of its logarithm; then the logarithm's own
        assert abs(draw(word) - truth) <= ULPS * eps * (1 + abs(truth)), hex(word)


@pytest.mark.parametrize("word", [0, 1, 100, 255])
@pytest.mark.parametrize("second", [0, 1, 1 << 31, 0xFFFFFFFF])
def test_refined_gumbels(word, second):
    truth = -mpmath.log(-mpmath.log(1 - (word * mpmath.mpf(2) ** 32 + second + 0.5) / mpmath.mpf(2) ** 64))
    assert abs(host.gumbel_from_tail(word, second) - truth) <= ULPS * 2.0**-23 * (1 + abs(truth))
    ours = reference.gumbel_from_word(torch.tensor([word]), torch.tensor([second]))
    assert ours.item() == host.gumbel_from_tail(word, second)


@pytest.mark.parametrize("bits", [32, 64])
def test_normals_are_accurate_for_every_kind_of_word(bits, rng):
    draw = host.normals_from_words if bits == 32 else host.normals_from_words64
    eps = 2.0**-23 if bits == 32 else 2.0**-52
    words = (WORDS32 if bits == 32 else WORDS64) + random_words(rng, bits, 200)
    for first in words[:40]:
        for second in words:
            radius = mpmath.sqrt(-2 * mpmath.log(1 - unit(first, bits)))
            angle = 2 * mpmath.pi * unit(second, bits)
            truth = radius * mpmath.cos(angle), radius * mpmath.sin(angle)
            # radius: half the exponential's error and a rounding; sine or cosine: 2 units; the product's rounding
            for ours, true in zip(draw(first, second), truth, strict=True):
                assert abs(ours - true) <= (ULPS / 2 + 0.5 + 2 + 0.5) * eps * radius, (hex(first), hex(second))


def test_uniforms_never_reach_their_ends():
    assert host.uniform_from_word(0) == 2.0**-33
    assert host.uniform_from_word(0xFFFFFFFF) == 1 - 2.0**-24
    assert host.uniform_from_word64(0) == 2.0**-65
    assert host.uniform_from_word64((1 << 64) - 1) == 1 - 2.0**-53


def test_the_largest_and_smallest_gumbels():
    assert host.gumbel_from_tail(0, 0) == pytest.approx(65 * math.log(2), rel=1e-6)  # finite: +inf is impossible
    assert host.gumbel_from_word(0xFFFFFFFF) == pytest.approx(-math.log(33 * math.log(2)), rel=1e-6)


def test_logarithm_over_the_whole_range(rng):
    for x in np.exp(rng.uniform(-87, 88, 3000)).astype(np.float32):
        truth = mpmath.log(float(x))
        assert abs(host.log_positive(float(x)) - truth) <= 2.0**-23 * max(abs(truth), mpmath.mpf(2) ** -30)
    for x in np.exp(rng.uniform(-700, 700, 3000)):
        truth = mpmath.log(float(x))
        assert abs(host.log_positive64(float(x)) - truth) <= 2 * 2.0**-52 * max(abs(truth), mpmath.mpf(2) ** -60)


LAWS = {"uniform": scipy.stats.uniform, "normal": scipy.stats.norm, "gumbel": scipy.stats.gumbel_r}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", list(LAWS))
def test_distribution(kind, dtype, test_seed):
    """Kolmogorov-Smirnov on 2^20 draws; the seed is fixed by the test's name, so 1e-4 is not a flake."""
    drawn = getattr(gmkern.random, kind)(test_seed, 1024, 0, 1024, dtype=dtype).numpy().ravel()
    assert scipy.stats.kstest(drawn, LAWS[kind].cdf).pvalue > 1e-4


@pytest.mark.parametrize(("kind", "at"), [("normal", 5.0), ("normal", -5.0), ("gumbel", 14.0), ("uniform", 1e-6)])
def test_tails_have_their_mass(kind, at, test_seed):
    """Counts beyond a far point are Poisson with the exact mass: |count - mean| <= 5 sqrt(mean)."""
    draws = 1 << 26
    law = LAWS[kind]
    mean = draws * float(law.sf(at) if kind == "gumbel" or at > 1 else law.cdf(at))
    count = 0
    for step in range(8):
        x = getattr(gmkern.random, kind)(test_seed, 8, step, draws // 64)
        count += int(((x > at) if kind == "gumbel" or at > 1 else (x < at)).sum())
    assert mean > 15
    assert abs(count - mean) <= 5 * math.sqrt(mean)


@pytest.mark.parametrize("other", ["seed", "stream", "step", "sample id", "lag 1", "lag 4"])
def test_neighbouring_noise_is_uncorrelated(other, test_seed):
    n = 1 << 20
    x = gmkern.random.normal(test_seed, [5], 7, n + 4)[0, :n]
    y = {
        "seed": lambda: gmkern.random.normal(test_seed + 1, [5], 7, n)[0],
        "stream": lambda: gmkern.random.normal(test_seed, [5], 7, n, stream=300)[0],
        "step": lambda: gmkern.random.normal(test_seed, [5], 8, n)[0],
        "sample id": lambda: gmkern.random.normal(test_seed, [6], 7, n)[0],
        "lag 1": lambda: gmkern.random.normal(test_seed, [5], 7, n + 4)[0, 1 : n + 1],
        "lag 4": lambda: gmkern.random.normal(test_seed, [5], 7, n + 4)[0, 4 : n + 4],
    }[other]()
    # products of independent normals have mean 0, variance 1: the mean of n of them is within 5 / sqrt(n)
    assert abs(float((x.double() * y.double()).mean())) < 5 / math.sqrt(n)
    assert abs(float((x.double() ** 2 * y.double() ** 2).mean()) - 1) < 5 * math.sqrt(8) / math.sqrt(n)
