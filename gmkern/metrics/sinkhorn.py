"""The Sinkhorn divergence: entropic optimal transport without its bias."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from gmkern import _validate
from gmkern._validate import ArrayLike
from gmkern.metrics._samples import samples
from gmkern.neighbors._points import accumulated
from gmkern.neighbors.kernel_sum import log_kernel_sum


def sinkhorn_divergence(
    x: ArrayLike,
    y: ArrayLike,
    *,
    epsilon: float,
    p: int = 2,
    tolerance: float = 1e-3,
    max_iterations: int = 1000,
    backend: str | None = None,
) -> Tensor:
    """OT(x, y) - OT(x, x) / 2 - OT(y, y) / 2, with OT the entropic optimal transport at cost d^p.

    OT(x, y) is the smallest sum of P_ij d_ij^p + epsilon KL(P, uniform) over plans P with uniform marginals. The
    divergence is 0 for equal sets and positive otherwise; it goes to the p-th power of the p-Wasserstein distance as
    epsilon goes to 0, and to an energy distance as epsilon grows.

    Parameters
    ----------
    x, y : [N, D] and [M, D] of one dtype; float32, float64, bfloat16 or float16; finite.
    epsilon : positive, in the unit of d^p. Iterations grow as it falls below the typical cost.
    p : 1 or 2.
    tolerance : iterations end when the marginals of each plan are within this of uniform, summed over samples (they sum
        to 1). For float32, at least some 2^-24 of cost / epsilon.
    max_iterations : at most, for each of the three plans.
    backend : as for :func:`gmkern.neighbors.log_kernel_sum`.

    Returns
    -------
    Tensor [], float64 for float64 points, else float32. Differentiable (once) in both sides, by the envelope theorem:
    no iteration is kept.

    Raises
    ------
    RuntimeError : a plan's marginals are not within ``tolerance`` after ``max_iterations``.
    TypeError, ValueError : naming the argument; NaN and infinities by their first position.

    Notes
    -----
    In the logarithmic domain; each half step is a :func:`gmkern.neighbors.log_kernel_sum`, so that no [N, M] matrix is
    held. epsilon is annealed from the sets' extent by factors of 4. A plan of a set with itself has one potential,
    whose half steps are averaged.

    Sources: Cuturi, "Sinkhorn Distances", 2013; Feydy et al., "Interpolating between Optimal Transport and MMD using
    Sinkhorn Divergences", 2019.

    Examples
    --------
    >>> import torch, gmkern
    >>> x = torch.tensor([[0.0], [1.0]])
    >>> round(float(gmkern.metrics.sinkhorn_divergence(x, x + 3, epsilon=0.1)), 4)  # a translation by 3
    9.0
    """
    first = samples("x", x)
    second = samples("y", y, like=("x", first))
    epsilon = _validate.number("epsilon", epsilon, above=0)
    p = _validate.integer("p", p, low=1, high=2)
    tolerance = _validate.number("tolerance", tolerance, above=0)
    max_iterations = _validate.integer("max_iterations", max_iterations, low=1)
    plan = _Transport(p, epsilon, tolerance, max_iterations, backend)
    with torch.no_grad():
        extent = _extent(first, second) ** p
    across = plan.cost(first, second, extent)
    own = [plan.own_cost(one, extent) for one in (first, second)]
    return across - (own[0] + own[1]) / 2


class _Transport:
    """Entropic transport between sets with uniform weights. Potentials f [N] and g [M] are in the unit of the cost."""

    def __init__(self, p: int, epsilon: float, tolerance: float, max_iterations: int, backend: str | None) -> None:
        self._p = p
        self._epsilon = epsilon
        self._tolerance = tolerance
        self._most = max_iterations
        self._backend = backend

    def cost(self, x: Tensor, y: Tensor, extent: float) -> Tensor:
        """OT(x, y)."""
        with torch.no_grad():
            g = self._half(y, x, None, max(extent, self._epsilon))
            for epsilon in self._annealed(extent):
                f = self._half(x, y, g, epsilon)
                after = self._half(y, x, f, epsilon)
                # The plan of (f, g) has the right marginal at x; at y it is off by what g changes.
                error = float(((g - after) / epsilon).expm1().abs().mean())
                g = after
                if epsilon == self._epsilon and error <= self._tolerance:
                    break
            else:
                raise self._not_converged(error)
        # Stationary in g: the gradient at fixed g is that of the optimum.
        return self._half(x, y, g, self._epsilon).mean() + g.mean()

    def own_cost(self, x: Tensor, extent: float) -> Tensor:
        """OT(x, x)."""
        with torch.no_grad():
            f = self._half(x, x, None, max(extent, self._epsilon)) / 2
            for epsilon in self._annealed(extent):
                after = self._half(x, x, f, epsilon)
                error = float(((f - after) / epsilon).expm1().abs().mean())
                f = (f + after) / 2
                if epsilon == self._epsilon and error <= self._tolerance:
                    break
            else:
                raise self._not_converged(error)
        return self._half(x, x, f, self._epsilon).mean() + f.mean()

    def _half(self, x: Tensor, y: Tensor, g: Tensor | None, epsilon: float) -> Tensor:
        """For each x the soft minimum over y of the cost minus g: -epsilon log mean exp((g - d^p) / epsilon)."""
        kernel, bandwidth = ("rbf", math.sqrt(epsilon / 2)) if self._p == 2 else ("laplace", epsilon)
        uniform = x.new_full((y.shape[0],), -math.log(y.shape[0]), dtype=accumulated(x.dtype))
        log_weights = uniform if g is None else uniform + g / epsilon
        return -epsilon * log_kernel_sum(
            x, y, kernel=kernel, bandwidth=bandwidth, log_weights=log_weights, backend=self._backend
        )

    def _annealed(self, extent: float) -> list[float]:
        steps = max(0, math.ceil(math.log(max(extent / self._epsilon, 1.0), 4)))
        return [self._epsilon * 4.0**step for step in range(steps, 0, -1)] + [self._epsilon] * self._most

    def _not_converged(self, error: float) -> RuntimeError:
        return RuntimeError(
            f"max_iterations: got {self._most}, after which marginals are off by {error:.2g}, and tolerance is "
            f"{self._tolerance:g}; takes more iterations, a larger epsilon ({self._epsilon:g}) or a larger tolerance"
        )


def _extent(x: Tensor, y: Tensor) -> float:
    """The diagonal of the box around both sets: no distance is larger."""
    high = torch.maximum(x.amax(0), y.amax(0)).double()
    low = torch.minimum(x.amin(0), y.amin(0)).double()
    return float((high - low).norm())
