"""A mixture of Gaussians."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from gmkern import _progress, _validate
from gmkern._validate import ArrayLike
from gmkern.neighbors import log_kernel_sum
from gmkern.neighbors.reference import check_finite
from gmkern.random.api import SampleIds, gumbel, normal, uniform
from gmkern.random.streams import INITIAL, LATENT

COVARIANCES = ("spherical", "tied")
_BLOCK = 1 << 22  # numbers [rows, components] in memory at once


class GaussianMixture:
    """p(x) = sum_k w_k N(x; mean_k, C_k), with C_k = v_k I ("spherical") or one C for all ("tied").

    Parameters
    ----------
    weights : [K], not negative, of sum 1 (divided by their sum).
    means : [K, D] float32 or float64.
    covariance : [K] positive variances, or one symmetric positive definite [D, D] for all components.

    Attributes
    ----------
    weights [K], means [K, D], covariance : float64 tensors.

    Notes
    -----
    The log-density is one :func:`gmkern.neighbors.log_kernel_sum` (after whitening, where the covariance is tied): no
    [N, K] matrix. Parameters are constants: for gradients of a mixture's log-density call ``log_kernel_sum``.

    Examples
    --------
    >>> import torch
    >>> from gmkern.classical import GaussianMixture
    >>> one = GaussianMixture(torch.ones(1), torch.zeros(1, 2), torch.ones(1))  # a standard normal in the plane
    >>> one.log_prob(torch.zeros(1, 2)).exp()  # 1 / (2 pi)
    tensor([0.1592])
    """

    def __init__(self, weights: ArrayLike, means: ArrayLike, covariance: ArrayLike):
        real = (torch.float32, torch.float64)
        w = _validate.tensor("weights", weights, ndim=1, dtypes=real).detach().double()
        m = _validate.tensor("means", means, ndim=2, dtypes=real, device=w.device).detach().double()
        c = _validate.tensor("covariance", covariance, ndim=(1, 2), dtypes=real, device=w.device).detach().double()
        if m.shape[0] != len(w) or m.shape[0] < 1 or m.shape[1] < 1:
            raise _validate.bad("means", m, f"shape [{len(w)}, D], a row a weight")
        if not (w >= 0).all() or not 0 < w.sum() < math.inf:
            raise _validate.bad("weights", "a negative or not finite number, or none above 0", "numbers of finite sum")
        if c.shape != (len(w),) if c.ndim == 1 else c.shape != (m.shape[1], m.shape[1]):
            raise _validate.bad("covariance", c, f"shape [{len(w)}] or [{m.shape[1]}, {m.shape[1]}]")
        self.weights, self.means, self.covariance = w / w.sum(), m, c
        if c.ndim == 1:
            if not bool(((c > 0) & (c < math.inf)).all()):
                raise _validate.bad("covariance", "a variance that is not positive and finite", "positive variances")
            self._root = None
        else:
            root, failed = torch.linalg.cholesky_ex(c)
            if failed or not torch.equal(c, c.t()):
                raise _validate.bad("covariance", "a matrix that is not", "a symmetric positive definite one")
            self._root = root

    def log_prob(self, x: ArrayLike) -> Tensor:
        """log p(x) of points [N, D] (float32 or float64, whose precision it has) -> [N]."""
        points = self._points("x", x)
        dim = points.shape[1]
        log_weights = self.weights.log() - dim / 2 * math.log(2 * math.pi)
        if self._root is None:
            log_weights = log_weights - dim / 2 * self.covariance.log()
            bandwidth = self.covariance.sqrt().to(points.dtype)
            y, references = points, self.means
        else:
            # Whitened about the mean of the means, so that float32 keeps the digits of what differs.
            log_weights = log_weights - self._root.diagonal().log().sum()
            bandwidth = torch.ones(len(self.weights), dtype=points.dtype)
            centre = self.weights @ self.means
            y = torch.linalg.solve_triangular(self._root, (points.double() - centre).t(), upper=False).t()
            references = torch.linalg.solve_triangular(self._root, (self.means - centre).t(), upper=False).t()
        return log_kernel_sum(
            y.to(points.dtype),
            references.to(points.dtype),
            bandwidth=bandwidth.to(points.device),
            log_weights=log_weights.to(points.dtype),
        )

    def responsibilities(self, x: ArrayLike) -> Tensor:
        """p(component | x) of points [N, D] -> [N, K] float64."""
        return self._joint(self._points("x", x).double()).softmax(1)

    def sample(
        self,
        n: int,
        *,
        seed: int | Tensor,
        sample_ids: SampleIds | None = None,
        dtype: torch.dtype = torch.float32,
        backend: str | None = None,
    ) -> Tensor:
        """``n`` points [n, D], sample i a function of (seed, sample_ids[i]) alone.

        The component is the argmax of log w + Gumbel noise (step 1 of the stream ``LATENT``), the point its mean plus
        the covariance's root times the normal noise of step 0. ``backend`` is that of the
        noise, as for :func:`gmkern.random.normal`.
        """
        if dtype not in (torch.float32, torch.float64):
            raise _validate.bad("dtype", str(dtype), "torch.float32 or torch.float64")
        rows = _validate.integer("n", n, low=0)
        ids = _validate.sample_ids(sample_ids, self.means.device, rows=rows)
        key = _validate.seed(seed, self.means.device, rows=rows)
        chosen = (self.weights.log() + gumbel(key, ids, 1, len(self.weights), stream=LATENT, backend=backend)).argmax(1)
        z = normal(key, ids, 0, self.means.shape[1], stream=LATENT, dtype=dtype, backend=backend).double()
        spread = z * self.covariance[chosen].sqrt()[:, None] if self._root is None else z @ self._root.t()
        return (self.means[chosen] + spread).to(dtype)

    @classmethod
    def fit(
        cls,
        data: ArrayLike,
        components: int,
        *,
        seed: int,
        covariance: str = "spherical",
        max_steps: int = 200,
        tolerance: float = 1e-5,
        regularization: float = 1e-6,
        progress: bool = False,
    ) -> GaussianMixture:
        """Maximum likelihood by expectation-maximisation (Dempster, Laird and Rubin, 1977).

        Parameters
        ----------
        data : [N, D] float32 or float64, finite; N at least ``components``.
        components : K, at least 1.
        seed : int: of the initial means, k-means++ (Arthur and Vassilvitskii, 2007).
        covariance : "spherical" or "tied".
        max_steps, tolerance : steps end once the mean log-likelihood rises by less than ``tolerance``.
        regularization : added to variances (the diagonal), relative to the data's mean variance: a component that sits
            on one point keeps a width. At least 1e-12.
        progress : draw a progress bar on a terminal's standard error.

        Returns
        -------
        GaussianMixture
        """
        x = _validate.tensor("data", data, ndim=2, dtypes=(torch.float32, torch.float64)).detach().double()
        count = _validate.integer("components", components, low=1)
        kind = _validate.one_of("covariance", covariance, COVARIANCES)
        steps = _validate.integer("max_steps", max_steps, low=1)
        least = _validate.number("tolerance", tolerance, low=0.0)
        relative = _validate.number("regularization", regularization, low=0.0)
        if x.shape[0] < count or x.shape[1] < 1:
            raise _validate.bad("data", x, f"shape [N, D] with N >= {count}, the number of components")
        if not torch.isfinite(x).all():
            raise _validate.bad("data", "a number that is not finite", "finite numbers")
        total = x.var(0, unbiased=False).mean()
        floor = max(relative, 1e-12) * (float(total) or 1.0)
        means = _spread_out(x, count, _validate.integer("seed", seed))
        first = total + floor
        start = first.expand(count) if kind == "spherical" else first * torch.eye(x.shape[1], dtype=x.dtype)
        mixture = cls(torch.full((count,), 1.0 / count, dtype=x.dtype), means, start)
        before = -math.inf
        with _progress.bar(progress, "fit", steps) as show:
            for step in range(steps):
                mixture, now = mixture._improved(x, floor)
                show(step + 1)
                if now - before < least:
                    break
                before = now
        return mixture

    def _improved(self, x: Tensor, floor: float) -> tuple[GaussianMixture, float]:
        """The mixture after one step, and the mean log-likelihood before it."""
        count, dim = len(self.weights), x.shape[1]
        mass, sums = x.new_zeros(count), x.new_zeros(count, dim)
        spread = x.new_zeros(count) if self._root is None else x.new_zeros(dim, dim)
        likelihood = 0.0
        centre = x.mean(0)
        for block in x.split(max(1, _BLOCK // count)):
            joint = self._joint(block)
            likelihood += float(torch.logsumexp(joint, 1).sum())
            r = joint.softmax(1)
            y = block - centre
            mass += r.sum(0)
            sums += r.t() @ y
            spread += r.t() @ (y * y).sum(1) if self._root is None else y.t() @ y
        filled = mass.clamp_min(1e-300)
        means = sums / filled[:, None]
        if self._root is None:
            covariance = ((spread / filled - (means * means).sum(1)) / dim).clamp_min(0.0) + floor
        else:
            covariance = (spread - (means * mass[:, None]).t() @ means) / len(x)
            covariance = (covariance + covariance.t()) / 2 + floor * torch.eye(dim, dtype=x.dtype)
        return GaussianMixture(mass / len(x), means + centre, covariance), likelihood / len(x)

    def _joint(self, x: Tensor) -> Tensor:
        """log w_k + log N(x; k) [N, K] in float64."""
        dim = x.shape[1]
        constant = self.weights.log() - dim / 2 * math.log(2 * math.pi)
        if self._root is None:
            return constant - dim / 2 * self.covariance.log() - torch.cdist(x, self.means) ** 2 / (2 * self.covariance)
        y = torch.linalg.solve_triangular(self._root, x.t(), upper=False).t()
        means = torch.linalg.solve_triangular(self._root, self.means.t(), upper=False).t()
        return constant - self._root.diagonal().log().sum() - torch.cdist(y, means) ** 2 / 2

    def _points(self, name: str, value: ArrayLike) -> Tensor:
        x = _validate.tensor(name, value, ndim=2, dtypes=(torch.float32, torch.float64), device=self.means.device)
        if x.shape[1] != self.means.shape[1]:
            raise _validate.bad(name, x, f"shape [N, {self.means.shape[1]}]")
        x = x.detach()
        check_finite(name, x.unsqueeze(0))
        return x


def _spread_out(x: Tensor, count: int, seed: int) -> Tensor:
    """k-means++: points of ``x``, each drawn with probability proportional to its squared distance to those before."""
    draws = uniform(seed, [0], 0, count, stream=INITIAL, dtype=torch.float64)[0]
    chosen: list[int] = []
    squares = x.new_ones(len(x))
    for draw in draws:
        cumulative = squares.cumsum(0)
        if not cumulative[-1] > 0:  # fewer distinct points than components
            cumulative = torch.arange(1.0, len(x) + 1, dtype=x.dtype)
        at = int(torch.searchsorted(cumulative, draw * cumulative[-1]).clamp_max(len(x) - 1))
        distances = ((x - x[at]) ** 2).sum(1)
        squares = distances if not chosen else torch.minimum(squares, distances)
        chosen.append(at)
    return x[chosen]
