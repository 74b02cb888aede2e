"""Kernel sums in Triton, in the interpreter: the reference's values and gradients in float64."""

from __future__ import annotations

import pytest
import torch

from gmkern.neighbors import kernel_sum, log_kernel_sum
from gmkern.neighbors.kernel_sum import KERNELS, triton_kernels
from gmkern.neighbors.kernel_sum import ops as compiled
from gmkern.neighbors.kernel_sum.api import _COMPILED, SCALED, Shape

SHAPES = {
    "rbf": Shape("rbf", 1.0, 0.0, 1),
    "laplace": Shape("laplace", 1.0, 0.0, 1),
    "rational": Shape("rational", 0.7, 0.0, 1),
    "energy": Shape("energy", 1.0, 0.0, 1),
    "polynomial": Shape("polynomial", 1.0, 0.5, 3),
}


def case(n: int, m: int, d: int, dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, ...]:
    made = torch.Generator().manual_seed(n + m + d)
    x, y = (torch.randn(rows, d, generator=made, dtype=torch.float64).to(dtype) for rows in (n, m))
    y[: min(n, m) // 2] = x[: min(n, m) // 2]  # copies
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    weights = torch.rand(m, generator=made, dtype=torch.float64).to(wide)
    weights[::5] = 0.0
    return x, y, weights, 0.5 + torch.rand(m, generator=made, dtype=torch.float64).to(wide)


def close(ours: torch.Tensor, truth: torch.Tensor, dim: int) -> None:
    """A term's exponent, below some 50, is rounded as often as its lanes are long and the tree is deep, and then the
    exponential's own rounding: relative to the largest sum, since terms of both signs may cancel."""
    bound = torch.finfo(ours.dtype).eps * 50 * (dim / 16 + 8)
    finite = truth.isfinite()
    assert torch.equal(ours[~finite].double(), truth[~finite].double())
    scale = float(truth[finite].abs().max()) if bool(finite.any()) else 0.0
    torch.testing.assert_close(ours[finite].double(), truth[finite].double(), rtol=bound, atol=bound * scale)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize(("n", "m", "d"), [(1, 1, 1), (19, 37, 5), (5, 70, 33)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_sums(kernel, n, m, d, dtype):
    x, y, weights, h = case(n, m, d, dtype)
    options = {"kernel": kernel, "weights": weights - 0.4, "alpha": 0.3}
    if kernel in SCALED:
        options["bandwidth"] = h * d**0.5
    wide = {name: t.double() if isinstance(t, torch.Tensor) else t for name, t in options.items()}
    ours = kernel_sum(x, y, backend="triton", **options)
    close(ours, kernel_sum(x.double(), y.double(), backend="reference", **wide), d)


@pytest.mark.parametrize("kernel", SCALED)
@pytest.mark.parametrize("far", [0.0, 300.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_logarithms(kernel, far, dtype):
    x, y, weights, h = case(17, 50, 6, dtype)
    x = x + far
    ours = log_kernel_sum(x, y, kernel=kernel, bandwidth=h, weights=weights, backend="triton")
    wide = {"kernel": kernel, "bandwidth": h.double(), "weights": weights.double()}
    close(ours, log_kernel_sum(x.double(), y.double(), backend="reference", **wide), 6)
    nothing = log_kernel_sum(x, y, kernel=kernel, bandwidth=h, weights=0 * weights, backend="triton")
    assert torch.equal(nothing, torch.full_like(nothing, -torch.inf))


def test_log_weights_of_minus_infinity():
    x, y, weights, h = case(9, 30, 3)
    given = {"bandwidth": h, "log_weights": weights.log()}
    close(
        log_kernel_sum(x, y, backend="triton", **given),
        log_kernel_sum(x.double(), y.double(), bandwidth=h.double(), weights=weights.double(), backend="reference"),
        3,
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_narrow_points(dtype):
    x, y, weights, h = case(9, 20, 20, dtype)
    ours = kernel_sum(x, y, bandwidth=4 * h, weights=weights, backend="triton")
    truth = kernel_sum(x.double(), y.double(), bandwidth=4 * h.double(), weights=weights.double(), backend="reference")
    close(ours, truth, 20)


def test_a_row_depends_on_itself_alone(monkeypatch):
    monkeypatch.setattr(triton_kernels, "PART", 32)  # several parts
    x, y, weights, h = case(40, 100, 7, torch.float64)
    for total in (kernel_sum, log_kernel_sum):
        all_rows = total(x, y, bandwidth=h, weights=weights, backend="triton")
        for few in (x[3:4], x[20:]):
            part = total(few.contiguous(), y, bandwidth=h, weights=weights, backend="triton")
            at = 3 if len(few) == 1 else 20
            assert torch.equal(part, all_rows[at : at + len(few)])
        batch = total(
            x.view(2, 20, 7), y.expand(2, 100, 7), bandwidth=h.expand(2, 100), weights=weights.expand(2, 100),
            backend="triton",
        )  # fmt: skip
        assert torch.equal(batch.flatten(), all_rows)
        close(all_rows, total(x.double(), y.double(), bandwidth=h.double(), weights=weights.double()), 7)
        other = total(x, y.flip(0).contiguous(), bandwidth=h.flip(0), weights=weights.flip(0), backend="triton")
        assert not torch.equal(other, all_rows)  # another order of references: this test can fail


def test_excludes_itself_and_nothing():
    x, _, _, _ = case(30, 1, 4)
    close(
        kernel_sum(x, None, bandwidth=1.0, exclude_self=True, backend="triton"),
        kernel_sum(x.double(), None, bandwidth=1.0, exclude_self=True, backend="reference"),
        4,
    )
    alone = log_kernel_sum(x[:1], None, bandwidth=1.0, exclude_self=True, backend="triton")
    assert alone.tolist() == [-torch.inf]
    assert kernel_sum(x[:0], x, bandwidth=1.0, backend="triton").shape == (0,)


def test_overflow():
    x = torch.tensor([[3e38, 0.0], [0.0, 0.0]])
    assert kernel_sum(x, -x, bandwidth=1.0, backend="triton").tolist() == [0.0, 1.0]
    assert kernel_sum(x, -x, kernel="energy", backend="triton").isfinite().all()


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("log", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradients(name, log, dtype):
    if log and name in ("energy", "polynomial"):
        pytest.skip("has no logarithm")
    for d, same in ((3, False), (35, False), (5, True)):
        x, y, weights, rates = case(21, 21 if same else 34, d, dtype)
        rates = rates / d
        log_weights = weights.clamp(min=0.1).log() if log else None
        incoming = torch.randn(1, 21, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(rates.dtype)

        def gradients(module, cast, x=x, y=y, r=rates, w=weights, lw=log_weights, g=incoming, same=same):
            given = [None if t is None else t.to(cast).unsqueeze(0).contiguous() for t in (x, y, r, w, lw)]
            rest = (_COMPILED.index(name), *SHAPES[name][1:], same)
            sums = module.kernel_sum(*given, *rest)
            return module.kernel_sum_backward(g.to(cast), sums, *given, *rest, True, True)

        for mine, truth in zip(gradients(triton_kernels, dtype), gradients(compiled, torch.float64), strict=True):
            assert mine.dtype == dtype
            close(mine.flatten(), truth.flatten(), 16 * d)  # and with as many terms as references


def test_gradients_that_are_not_wanted_have_no_rows():
    x, y, weights, h = (t.unsqueeze(0) for t in case(4, 6, 2))
    rest = (0, 1.0, 0.0, 1, False)
    sums = triton_kernels.kernel_sum(x, y, h, weights, None, *rest)
    shapes = [
        [tuple(t.shape) for t in triton_kernels.kernel_sum_backward(sums, sums, x, y, h, weights, None, *rest, *want)]
        for want in ((True, False), (False, True))
    ]
    assert shapes == [[(1, 4, 2), (1, 0, 2), (1, 0), (1, 0)], [(1, 0, 2), (1, 6, 2), (1, 6), (1, 6)]]


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"queries": torch.tensor([[torch.nan]])}, "queries: got nan"),
        ({"bandwidth": 0.0}, "bandwidth"),
        ({"weights": torch.tensor([torch.inf])}, "weights: got inf at position 0"),
    ],
)
def test_bad_numbers_are_named(change, match):
    given = {"queries": torch.zeros(1, 1), "references": torch.zeros(1, 1), "bandwidth": 1.0} | change
    with pytest.raises(ValueError, match=match):
        kernel_sum(**given, backend="triton")
