"""Kernel sums and their first derivatives in Triton: differences of all pairs, terms added in float64.

A row's sum is taken over parts of ``PART`` references, tile by tile within a part, then part by part: an order that
depends on the row alone. Nothing is added atomically.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from gmkern.neighbors.kernel_sum.reference import check_numbers, numbers_are_good
from gmkern.neighbors.reference import LANES, captured
from gmkern.neighbors.triton_distances import distance_tile, is_fp64, rows_of_batch

# The numbers of the op's kernels
_RBF, _LAPLACE, _RATIONAL, _ENERGY, _POLYNOMIAL = map(tl.constexpr, range(5))
_LANES = tl.constexpr(LANES)
_CHUNK = tl.constexpr(16)  # coordinates of a gradient that are summed together
PART = 8192  # references that one program adds
WARPS = 4
_BATCHES = 65_535  # of a launch for gradients: a grid's second axis (one axis for all would cost registers)


@triton.jit
def _measures(x, y, row, n, column, m, dim, KERNEL: tl.constexpr, FP64: tl.constexpr, N: tl.constexpr, M: tl.constexpr):
    """Squared distances [N, M], finite; of "polynomial" the products."""
    if KERNEL == _POLYNOMIAL:
        return -distance_tile(x, y, row, n, column, m, dim, 4, FP64, _LANES, N, M)
    squares = distance_tile(x, y, row, n, column, m, dim, 1, FP64, _LANES, N, M)
    return tl.minimum(squares, 1.7976931348623157e308 if FP64 else 3.4028234663852886e38)


@triton.jit
def _root(squares, FP64: tl.constexpr):
    return tl.sqrt(squares) if FP64 else tl.sqrt_rn(squares)


@triton.jit
def _power(base, degree):
    power = base * 0.0 + 1.0
    for _ in range(degree):
        power *= base
    return power


@triton.jit
def _logarithm(measure, rate, KERNEL: tl.constexpr, EXPONENT: tl.constexpr, FP64: tl.constexpr):
    """The logarithm of the kernels that have one."""
    if KERNEL == _RBF:
        return -rate * measure
    if KERNEL == _LAPLACE:
        return -rate * _root(measure, FP64)
    raised = rate * measure
    q = 1.0 + raised
    # The last bits of a small number, which 1 more than it loses and a large exponent asks for.
    lost = tl.where(raised < 1.0, raised - (q - 1.0), 0.0)
    return -EXPONENT * (tl.log(q) + lost)


@triton.jit
def _exp(x, FP64: tl.constexpr):
    """Its exponential; 0 where that is subnormal."""
    return tl.where(x < (-708.0 if FP64 else -87.0), 0.0, tl.exp(x))


@triton.jit
def _value(
    measure, rate, degree, KERNEL: tl.constexpr, EXPONENT: tl.constexpr, OFFSET: tl.constexpr, FP64: tl.constexpr
):
    if KERNEL == _POLYNOMIAL:
        return _power(rate * measure + OFFSET, degree)
    if KERNEL == _ENERGY:
        return -rate * _root(measure, FP64)
    return _exp(_logarithm(measure, rate, KERNEL, EXPONENT, FP64), FP64)


@triton.jit
def sum_kernel(
    queries, references, rates, weights, log_weights, masses, peaks, n, m, dim, part, degree, exclude_self,
    KERNEL: tl.constexpr, EXPONENT: tl.constexpr, OFFSET: tl.constexpr, LOG: tl.constexpr, FP64: tl.constexpr,
    N: tl.constexpr, M: tl.constexpr,
):  # fmt: skip
    """One part's terms: masses [B, parts, N] float64, with LOG relative to exp(peaks)."""
    batch, row = rows_of_batch(n, N)
    first = tl.program_id(1) * part
    last = tl.minimum(first + part, m)
    mass = tl.zeros([N], tl.float64)
    peak = tl.full([N], float("-inf"), tl.float64)
    for start in range(first, last, M):
        column = start + tl.arange(0, M)
        of_reference = batch * m + column
        measure = _measures(
            queries + batch * n * dim, references + batch * m * dim, row, n, column, last, dim, KERNEL, FP64, N, M
        )
        rate = tl.load(rates + of_reference, mask=column < last, other=1.0)[None, :]
        weight = tl.load(weights + of_reference, mask=column < last, other=0.0)[None, :]
        kept = (column < last)[None, :] & ((row[:, None] != column[None, :]) | (exclude_self == 0))
        if LOG:
            log_weight = tl.load(log_weights + of_reference, mask=column < last, other=0.0)[None, :]
            log = _logarithm(measure, rate, KERNEL, EXPONENT, FP64) + log_weight
            log = tl.where(kept & (weight != 0.0), log, float("-inf")).to(tl.float64)
            top = tl.maximum(peak, tl.max(log, 1))
            level = tl.where(top == float("-inf"), 0.0, top)
            terms = _exp((log - level[:, None]).to(measure.dtype), FP64)
            mass = mass * tl.exp(peak - level) + tl.sum((weight * terms).to(tl.float64), 1)
            peak = top
        else:
            terms = weight * _value(measure, rate, degree, KERNEL, EXPONENT, OFFSET, FP64)
            mass += tl.sum(tl.where(kept, terms, 0.0).to(tl.float64), 1)
    to = (batch * tl.num_programs(1) + tl.program_id(1)) * n + row
    tl.store(masses + to, mass, mask=row < n)
    if LOG:
        tl.store(peaks + to, peak, mask=row < n)


@triton.jit
def total_kernel(masses, peaks, sums, n, parts, LOG: tl.constexpr, N: tl.constexpr):
    """sums [B, N] of masses [B, parts, N], part by part."""
    batch, row = rows_of_batch(n, N)
    total = tl.zeros([N], tl.float64)
    peak = tl.full([N], float("-inf"), tl.float64)
    for part in range(parts):
        at = (batch * parts + part) * n + row
        mass = tl.load(masses + at, mask=row < n, other=0.0)
        if LOG:
            other = tl.load(peaks + at, mask=row < n, other=float("-inf"))
            top = tl.maximum(peak, other)
            level = tl.where(top == float("-inf"), 0.0, top)
            total = total * tl.exp(peak - level) + mass * tl.exp(other - level)
            peak = top
        else:
            total += mass
    if LOG:
        empty = total == 0.0
        total = tl.where(empty, float("-inf"), tl.log(tl.where(empty, 1.0, total)) + tl.where(empty, 0.0, peak))
    tl.store(sums + batch * n + row, total, mask=row < n)


@triton.jit
def gradient_kernel(
    own, others, rates, weights, log_weights, incoming, sums, to_own, to_weights, to_rates,
    n, m, dim, degree, exclude_self,
    OF_REFERENCES: tl.constexpr, KERNEL: tl.constexpr, EXPONENT: tl.constexpr, OFFSET: tl.constexpr,
    LOG: tl.constexpr, FP64: tl.constexpr, N: tl.constexpr, M: tl.constexpr,
):  # fmt: skip
    """Gradients of own points [B, n, D], the queries or the references, from all pairs with the others [B, m, D].

    Sums of pull (x - y) are taken as x sum(pull) - sum(pull y) in float64, where nothing of float32 points is lost.
    to_own [B, n, D] float64 starts at 0 and is added to; of references also to_weights and to_rates [B, n].
    """
    batch = tl.program_id(1).to(tl.int64)
    row = tl.program_id(0) * N + tl.arange(0, N)
    own += batch * n * dim
    others += batch * m * dim
    by_weight = tl.zeros([N], tl.float64)
    by_rate = tl.zeros([N], tl.float64)
    lane = tl.arange(0, _CHUNK)
    for start in range(0, m, M):
        column = start + tl.arange(0, M)
        measure = _measures(own, others, row, n, column, m, dim, KERNEL, FP64, N, M)
        of_row = batch * n + row[:, None]
        of_column = batch * m + column[None, :]
        if OF_REFERENCES:
            reference, inside = of_row, row[:, None] < n
            query, present = of_column, column[None, :] < m
        else:
            reference, inside = of_column, column[None, :] < m
            query, present = of_row, row[:, None] < n
        rate = tl.load(rates + reference, mask=inside, other=1.0)
        weight = tl.load(weights + reference, mask=inside, other=0.0)
        grad = tl.load(incoming + query, mask=present, other=0.0)
        if LOG:
            total = tl.load(sums + query, mask=present, other=float("-inf"))
            mass = total > float("-inf")
            log = _logarithm(measure, rate, KERNEL, EXPONENT, FP64)
            log += tl.load(log_weights + reference, mask=inside, other=0.0)
            value = tl.where(mass, _exp(log - tl.where(mass, total, 0.0), FP64), 0.0)
        else:
            value = _value(measure, rate, degree, KERNEL, EXPONENT, OFFSET, FP64)
        # the kernel's derivatives by the measure and by the rate
        if KERNEL == _POLYNOMIAL:
            slope = degree * _power(rate * measure + OFFSET, degree - 1)
            along, of_rate = rate * slope, measure * slope
        elif KERNEL == _RBF:
            along, of_rate = -2.0 * rate * value, -measure * value
        elif KERNEL == _RATIONAL:
            slope = -EXPONENT * value / (1.0 + rate * measure)
            along, of_rate = 2.0 * rate * slope, measure * slope
        else:
            distance = _root(measure, FP64)
            slope = tl.full([N, M], -1.0, measure.dtype) if KERNEL == _ENERGY else -value
            of_rate = distance * slope
            along = tl.where(measure > 0.0, rate * slope / tl.where(measure > 0.0, distance, 1.0), 0.0)
        kept = (row < n)[:, None] & (column < m)[None, :]
        kept &= (row[:, None] != column[None, :]) | (exclude_self == 0)
        pull = tl.where(kept, grad * weight * along, 0.0).to(tl.float64)
        total_pull = tl.sum(pull, 1)
        if OF_REFERENCES:
            by_weight += tl.sum(tl.where(kept, grad * value, 0.0).to(tl.float64), 1)
            by_rate += tl.sum(tl.where(kept, grad * weight * of_rate, 0.0).to(tl.float64), 1)
        for chunk in range(0, dim, _CHUNK):
            d = chunk + lane
            mine = (row < n)[:, None] & (d < dim)[None, :]
            theirs = (column < m)[:, None] & (d < dim)[None, :]
            x = tl.load(own + row.to(tl.int64)[:, None] * dim + d[None, :], mask=mine, other=0.0)
            y = tl.load(others + column.to(tl.int64)[:, None] * dim + d[None, :], mask=theirs, other=0.0)
            added = tl.dot(pull, y.to(tl.float64), out_dtype=tl.float64)
            if KERNEL != _POLYNOMIAL:
                added = x.to(tl.float64) * total_pull[:, None] - added
            to = to_own + (batch * n + row.to(tl.int64))[:, None] * dim + d[None, :]
            tl.store(to, tl.load(to, mask=mine, other=0.0) + added, mask=mine)
            tl.debug_barrier()  # the next tile's load finds this store, whichever thread it falls to
    if OF_REFERENCES:
        tl.store(to_weights + batch * n + row, by_weight, mask=row < n)
        tl.store(to_rates + batch * n + row, by_rate, mask=row < n)


def kernel_sum(
    queries: Tensor,
    references: Tensor,
    rates: Tensor,
    weights: Tensor,
    log_weights: Tensor | None,
    kernel: int,
    exponent: float,
    offset: float,
    degree: int,
    exclude_self: bool,
) -> Tensor:
    """As the op ``gmkern::kernel_sum``.

    Waits for the device once, to look for numbers that are not finite; while a graph is captured it does not, and they
    make all sums NaN.
    """
    (batch, n, dim), m = queries.shape, references.shape[1]
    log, tile = log_weights is not None, tile_of(queries)
    parts = triton.cdiv(m, PART)
    masses = rates.new_empty((batch, parts, n), dtype=torch.float64)
    peaks = torch.empty_like(masses) if log else masses
    sums = rates.new_empty((batch, n))
    if sums.numel():
        with torch.cuda.device_of(queries):
            if m:
                sum_kernel[(triton.cdiv(n, tile) * batch, parts)](
                    queries, references, rates, weights, log_weights if log else weights, masses, peaks,
                    n, m, dim, PART, degree, int(exclude_self),
                    KERNEL=kernel, EXPONENT=exponent, OFFSET=offset, LOG=log, FP64=is_fp64(queries), N=tile, M=tile,
                    num_warps=WARPS, enable_fp_fusion=False,
                )  # fmt: skip
            total_kernel[(triton.cdiv(n, 128) * batch,)](
                masses, peaks, sums, n, parts, LOG=log, N=128, num_warps=WARPS, enable_fp_fusion=False
            )
    if captured(queries):
        return torch.where(numbers_are_good(queries, references, rates, weights, log_weights), sums, torch.nan)
    check_numbers(queries, references, rates, weights, log_weights)
    return sums


def kernel_sum_backward(
    incoming: Tensor,
    sums: Tensor,
    queries: Tensor,
    references: Tensor,
    rates: Tensor,
    weights: Tensor,
    log_weights: Tensor | None,
    kernel: int,
    exponent: float,
    offset: float,
    degree: int,
    exclude_self: bool,
    of_queries: bool,
    of_references: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """As the op ``gmkern::kernel_sum_backward``: a pass over all pairs for each side that is asked for."""
    (batch, _, dim), tile = queries.shape, tile_of(queries)
    log = log_weights is not None

    def side(own: Tensor, others: Tensor, is_references: bool, wanted: bool) -> tuple[Tensor, Tensor, Tensor]:
        rows = own.shape[1] if wanted else 0
        to_own = own.new_zeros((batch, rows, dim), dtype=torch.float64)
        to_weights = own.new_zeros((batch, rows if is_references else 0), dtype=torch.float64)
        to_rates = torch.zeros_like(to_weights)
        given = (
            own,
            others,
            rates,
            weights,
            log_weights if log else weights,
            incoming,
            sums,
            to_own,
            to_weights,
            to_rates,
        )
        for first in range(0, batch if rows else 0, _BATCHES):
            part = [t[first : first + _BATCHES] for t in given]
            with torch.cuda.device_of(own):
                gradient_kernel[(triton.cdiv(rows, tile), len(part[0]))](
                    *part, rows, others.shape[1], dim, degree, int(exclude_self),
                    OF_REFERENCES=is_references, KERNEL=kernel, EXPONENT=exponent, OFFSET=offset, LOG=log,
                    FP64=is_fp64(own), N=tile, M=16, num_warps=WARPS, enable_fp_fusion=False,
                )  # fmt: skip
        return to_own.to(sums.dtype), to_weights.to(sums.dtype), to_rates.to(sums.dtype)

    x, y = queries.to(sums.dtype), references.to(sums.dtype)
    to_queries, _, _ = side(x, y, False, of_queries)
    to_references, to_weights, to_rates = side(y, x, True, of_references)
    return to_queries, to_references, to_weights, to_rates


def tile_of(points: Tensor) -> int:
    """Rows, and columns of a sum's tile, of pairs: sixteen lanes a pair stand in registers."""
    return 8 if is_fp64(points) else 16
