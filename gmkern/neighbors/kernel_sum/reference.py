"""kernel_sum and log_kernel_sum in plain PyTorch: differentiable any number of times, in blocks of queries."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from gmkern.neighbors.reference import check_finite

_CELLS = 1 << 22  # coordinates of differences held together


def kernel_sum(
    x: Tensor,
    y: Tensor,
    rates: Tensor,
    weights: Tensor,
    log_weights: Tensor | None,
    kernel: str,
    exponent: float,
    offset: float,
    degree: int,
    exclude_self: bool,
) -> Tensor:
    """Sums [B, N] for x [B, N, D], y [B, M, D] and rates, weights, log_weights [B, M]; logarithms with log_weights."""
    check_numbers(x, y, rates, weights, log_weights)
    x, y = x.to(weights.dtype), y.to(weights.dtype)
    rows = max(1, _CELLS // max(1, y.shape[1] * y.shape[2] * x.shape[0]))

    def block(part: Tensor, y: Tensor, r: Tensor, w: Tensor, log_w: Tensor | None, first: int) -> Tensor:
        value = _evaluate(part, y, r.unsqueeze(1), kernel, exponent, offset, degree, log=log_w is not None)
        own = torch.arange(first, first + part.shape[1], device=x.device)[:, None]
        out = exclude_self & (own == torch.arange(y.shape[1], device=x.device))
        if log_w is None:
            return (value * w.unsqueeze(1)).masked_fill(out, 0.0).double().sum(2)
        # Zero weights are kept out of the logarithm, whose derivative there is not finite, and enter as factors.
        shifted = (value + log_w.unsqueeze(1)).masked_fill(out, -torch.inf).double()
        alive = shifted.masked_fill(w.unsqueeze(1) == 0, -torch.inf)
        peak = alive.detach().amax(2, keepdim=True).clamp(min=torch.finfo(torch.float64).min)
        mass = (w.double().unsqueeze(1) * torch.exp((shifted - peak).clamp(max=700.0))).sum(2)
        empty = mass == 0
        return (torch.where(empty, 1.0, mass).log() + peak.squeeze(2)).masked_fill(empty, -torch.inf)

    if not x.shape[1] or not y.shape[1]:
        return 0.0 * x.sum(2) + (0.0 if log_weights is None else -torch.inf)
    parts = [
        checkpoint(block, x[:, q : q + rows], y, rates, weights, log_weights, q, use_reentrant=False)
        for q in range(0, x.shape[1], rows)
    ]
    return torch.cat(parts, 1).to(weights.dtype)


def numbers_are_good(x: Tensor, y: Tensor, rates: Tensor, weights: Tensor, log_weights: Tensor | None) -> Tensor:
    """[]: whether points, rates and weights are what the op takes, told to their device alone."""
    each = [x.isfinite().all(), y.isfinite().all(), ((rates > 0) & rates.isfinite()).all(), weights.isfinite().all()]
    if log_weights is not None:
        each += [(weights >= 0).all(), (log_weights < torch.inf).all()]
    return torch.stack(each).all()


def check_numbers(x: Tensor, y: Tensor, rates: Tensor, weights: Tensor, log_weights: Tensor | None) -> None:
    """Raises ValueError, naming the argument, where points, rates or weights are not what the op takes.

    A GPU is waited for once, where all is well.
    """
    if bool(numbers_are_good(x, y, rates, weights, log_weights)):
        return
    check_finite("queries", x)
    check_finite("references", y)
    _check("bandwidth, as the kernel's rate", rates, (rates > 0) & rates.isfinite(), "positive finite numbers")
    if log_weights is None:
        _check("weights", weights, weights.isfinite(), "finite numbers")
    else:
        _check("weights", weights, weights.isfinite() & (weights >= 0), "finite numbers that are not negative")
        _check("log_weights", log_weights, log_weights < torch.inf, "numbers below infinity")


def _check(name: str, numbers: Tensor, good: Tensor, takes: str) -> None:
    if not bool(good.all()):
        position = int((~good).flatten().nonzero()[0])
        raise ValueError(f"{name}: got {float(numbers.flatten()[position]):g} at position {position}; takes {takes}")


def _evaluate(
    x: Tensor, y: Tensor, rate: Tensor, kernel: str, exponent: float, offset: float, degree: int, *, log: bool
) -> Tensor:
    """The kernel of every pair [B, n, M], or its logarithm."""
    if kernel == "polynomial":
        return (rate * torch.einsum("bnd,bmd->bnm", x, y) + offset) ** degree
    squares = (x.unsqueeze(2) - y.unsqueeze(1)).square().sum(-1).clamp(max=torch.finfo(x.dtype).max)
    if kernel in ("laplace", "energy"):
        copy = squares == 0  # a kink: the subgradient 0 is taken
        distances = torch.where(copy, 0.0, torch.where(copy, 1.0, squares).sqrt())
        return -rate * distances if log or kernel == "energy" else torch.exp(-rate * distances)
    logs = -rate * squares if kernel == "rbf" else -exponent * torch.log1p(rate * squares)
    return logs if log else torch.exp(logs)
