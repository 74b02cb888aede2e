"""GaussianMixture against SciPy's densities and scikit-learn's expectation-maximisation."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from scipy.special import logsumexp
from scipy.stats import chi2, multivariate_normal
from sklearn.mixture import GaussianMixture as Sklearn

from gmkern.classical import GaussianMixture

pytestmark = pytest.mark.sanitize


def a_mixture(kind, components=4, dim=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    weights = torch.rand(components, generator=generator, dtype=torch.float64) + 0.2
    means = 3 * torch.randn(components, dim, generator=generator, dtype=torch.float64)
    if kind == "spherical":
        return GaussianMixture(weights, means, torch.rand(components, generator=generator, dtype=torch.float64) + 0.3)
    root = torch.randn(dim, dim, generator=generator, dtype=torch.float64)
    return GaussianMixture(weights, means, root @ root.t() + 0.1 * torch.eye(dim))


def joint(mixture, x):
    """log w_k N(x; k) by SciPy."""
    dim = mixture.means.shape[1]
    spreads = [v * np.eye(dim) for v in mixture.covariance.numpy()] if mixture.covariance.ndim == 1 else None
    parts = [
        np.log(mixture.weights[k])
        + multivariate_normal(m, mixture.covariance if spreads is None else spreads[k]).logpdf(x)
        for k, m in enumerate(mixture.means.numpy())
    ]
    return np.stack(parts, 1)


@pytest.mark.parametrize("kind", ["spherical", "tied"])
def test_densities_against_scipy(kind):
    mixture = a_mixture(kind)
    x = 4 * torch.randn(200, 3, dtype=torch.float64)
    want = joint(mixture, x.numpy())
    # The largest exponent here is about 1e3: a few roundings of it.
    np.testing.assert_allclose(mixture.log_prob(x), logsumexp(want, axis=1), rtol=1e-13, atol=1e-12)
    np.testing.assert_allclose(
        mixture.log_prob(x.float()), logsumexp(joint(mixture, x.float().double().numpy()), axis=1), rtol=2e-5
    )
    np.testing.assert_allclose(
        mixture.responsibilities(x), np.exp(want - logsumexp(want, axis=1, keepdims=True)), atol=1e-10
    )


@pytest.mark.parametrize("kind", ["spherical", "tied"])
def test_samples_have_the_mixture_s_law(kind):
    mixture, n = a_mixture(kind), 20_000
    x = mixture.sample(n, seed=5, dtype=torch.float64)
    mean = mixture.weights @ mixture.means
    inner = torch.diag_embed(mixture.covariance[:, None].expand(-1, 3)) if kind == "spherical" else mixture.covariance
    outer = (mixture.means - mean).t() @ (mixture.weights[:, None] * (mixture.means - mean))
    covariance = outer + ((mixture.weights[:, None, None] * inner).sum(0) if kind == "spherical" else inner)
    deviation = (x.mean(0) - mean).double()
    # Hotelling's statistic of the mean is chi-square with 3 degrees of freedom.
    assert n * deviation @ torch.linalg.solve(covariance, deviation) < chi2.isf(1e-6, 3)
    # Each entry of the covariance: a mean of n products whose own deviation the sample estimates.
    products = (x - mean)[:, :, None] * (x - mean)[:, None, :]
    assert ((products.mean(0) - covariance).abs() < 5.5 * products.std(0) / n**0.5).all()
    ids = torch.tensor([9, 3, 17_000])
    assert torch.equal(mixture.sample(3, seed=5, sample_ids=ids, dtype=torch.float64), x[ids])
    assert not torch.equal(mixture.sample(3, seed=6, sample_ids=ids, dtype=torch.float64), x[ids])


@pytest.mark.parametrize("kind", ["spherical", "tied"])
def test_fit_is_scikit_learn_s_optimum(kind):
    data = a_mixture(kind, components=3, seed=2).sample(1500, seed=1, dtype=torch.float64)
    fitted = GaussianMixture.fit(data, 3, covariance=kind, seed=0, tolerance=1e-10, max_steps=2000, regularization=0.0)
    rival = Sklearn(3, covariance_type=kind, tol=1e-10, max_iter=2000, reg_covar=0.0, means_init=fitted.means.numpy())
    rival.fit(data.numpy())
    ours, theirs = fitted.means[:, 0].argsort(), np.argsort(rival.means_[:, 0])
    np.testing.assert_allclose(fitted.means[ours], rival.means_[theirs], atol=1e-3)
    np.testing.assert_allclose(fitted.weights[ours], rival.weights_[theirs], atol=1e-4)
    assert float(fitted.log_prob(data).mean()) == pytest.approx(rival.score(data.numpy()), abs=1e-6)


def test_each_step_raises_the_likelihood():
    data = torch.rand(400, 2, dtype=torch.float64)
    likelihoods = [
        float(GaussianMixture.fit(data, 5, seed=3, max_steps=steps, tolerance=0.0).log_prob(data).mean())
        for steps in (1, 2, 4, 8, 16)
    ]
    assert all(b > a for a, b in itertools.pairwise(likelihoods))


def test_copies_and_lone_points_keep_a_width():
    data = torch.cat([torch.zeros(50, 2), torch.tensor([[100.0, 0.0]])])
    mixture = GaussianMixture.fit(data, 4, seed=0)
    assert torch.isfinite(mixture.log_prob(data)).all()
    assert (mixture.covariance > 0).all()
    same = GaussianMixture.fit(torch.ones(5, 2), 2, seed=0)
    assert torch.isfinite(same.log_prob(torch.ones(1, 2))).all()


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda: GaussianMixture([0.5], torch.zeros(1, 2), torch.ones(1)), TypeError, "weights: got"),
        (lambda: GaussianMixture(torch.ones(2), torch.zeros(1, 2), torch.ones(2)), ValueError, "means: got"),
        (lambda: GaussianMixture(-torch.ones(1), torch.zeros(1, 2), torch.ones(1)), ValueError, "weights: got"),
        (lambda: GaussianMixture(torch.ones(1), torch.zeros(1, 2), torch.zeros(1)), ValueError, "covariance: got"),
        (lambda: GaussianMixture(torch.ones(1), torch.zeros(1, 2), torch.ones(3)), ValueError, "covariance: got"),
        (lambda: GaussianMixture(torch.ones(1), torch.zeros(1, 2), torch.zeros(2, 2)), ValueError, "covariance: got"),
        (lambda: GaussianMixture.fit(torch.zeros(3, 2), 4, seed=0), ValueError, "data: got"),
        (lambda: GaussianMixture.fit(torch.full((3, 2), float("nan")), 1, seed=0), ValueError, "data: got"),
        (lambda: GaussianMixture.fit(torch.rand(3, 2), 1, seed=0, covariance="full"), ValueError, "covariance: got"),
        (lambda: a_mixture("tied").log_prob(torch.zeros(4, 2)), ValueError, "x: got"),
        (lambda: a_mixture("tied").sample(3, seed=0, dtype=torch.float16), ValueError, "dtype: got"),
    ],
)
def test_bad_input_is_named(call, error, match):
    with pytest.raises(error, match=match):
        call()
