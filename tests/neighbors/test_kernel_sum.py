"""kernel_sum and log_kernel_sum against NumPy and SciPy in float64, and the bits that are promised."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist
from scipy.special import logsumexp
from scipy.stats import multivariate_normal

from gmkern.neighbors import kernel_sum, log_kernel_sum
from gmkern.testing import run_isa

pytestmark = pytest.mark.sanitize

SCALED = ("rbf", "laplace", "rational_quadratic", "inverse_multiquadric")
KERNELS = (*SCALED, "energy", "polynomial", "linear")
WIDTHS = [1, 2, 3, 4, 7, 16, 17, 50]


def truth(kernel: str, x: torch.Tensor, y: torch.Tensor, h=None, *, alpha=1.0, degree=3, gamma=None, coef0=1.0):
    """The kernel of every pair, and how much it may be off: in units of u, relative to |kernel| (see below)."""
    a, b = x.double().numpy(), y.double().numpy()
    d2 = cdist(a, b, "sqeuclidean")
    d = np.sqrt(d2)
    dim = a.shape[1]
    square = dim / 16 + 9  # roundings in a squared distance, one more for its coefficient
    if kernel in ("polynomial", "linear"):
        degree, gamma, coef0 = (1, 1.0, 0.0) if kernel == "linear" else (degree, gamma or 1 / dim, coef0)
        base, size = gamma * a @ b.T + coef0, gamma * np.abs(a) @ np.abs(b).T + abs(coef0)
        # roundings of the inner product are relative to the sum of magnitudes
        return base**degree, degree * (square + 3) * size**degree
    if kernel == "energy":
        return -d, (square + 2) * d
    exponent = {
        "rbf": lambda: d2 / (2 * h**2),
        "laplace": lambda: d / h,
        "rational_quadratic": lambda: alpha * np.log1p(d2 / (2 * alpha * h**2)),
        "inverse_multiquadric": lambda: 0.5 * np.log1p(d2 / h**2),
    }[kernel]()
    # e^-t errs by that of t, relative to t (1 + r s of a rational kernel: relative to 1), and by 4 u of its own
    return np.exp(-exponent), ((square + 4) * (exponent + 2 * alpha) + 4) * np.exp(-exponent)


def options(kernel: str, h) -> dict:
    return {"kernel": kernel, **({"bandwidth": h} if kernel in SCALED else {})}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kernel", KERNELS)
def test_against_numpy(kernel: str, dtype: torch.dtype) -> None:
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    unit = torch.finfo(wide).eps / 2
    for dim in WIDTHS:
        x, y = torch.randn(21, dim).to(dtype), torch.randn(70, dim).to(dtype)
        y[:5] = x[:5]
        weights = torch.randn(70, dtype=wide)
        h = torch.rand(70, dtype=wide) + 0.5 * dim**0.5
        for backend in ("cpu", "reference"):
            got = kernel_sum(x, y, **options(kernel, h), weights=weights, backend=backend).double().numpy()
            values, errors = truth(kernel, x, y, h.double().numpy())
            w = weights.double().numpy()
            # Terms err as above and by the weight's product; the sum in float64 by 9 of its u; then one rounding.
            bound = unit * ((errors + np.abs(values)) @ np.abs(w) + np.abs(values @ w)) + 1e-15 * np.abs(values) @ abs(
                w
            )
            assert (np.abs(got - values @ w) <= bound).all(), (dim, backend)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
@pytest.mark.parametrize("kernel", SCALED)
def test_logarithm_against_scipy(kernel: str, dtype: torch.dtype) -> None:
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    unit = torch.finfo(wide).eps / 2
    for dim in WIDTHS:
        x, y = torch.randn(21, dim).to(dtype), torch.randn(70, dim).to(dtype)
        weights = torch.rand(70, dtype=wide)
        weights[3] = 0
        for h in (0.02, 1.0, 30.0):  # nothing but the nearest counts; or everything
            d2 = cdist(x.double().numpy(), y.double().numpy(), "sqeuclidean")
            logs = {
                "rbf": lambda d2, h: -d2 / (2 * h**2),
                "laplace": lambda d2, h: -np.sqrt(d2) / h,
                "rational_quadratic": lambda d2, h: -np.log1p(d2 / (2 * h**2)),
                "inverse_multiquadric": lambda d2, h: -0.5 * np.log1p(d2 / h**2),
            }[kernel](d2, h)
            with np.errstate(divide="ignore"):
                want = logsumexp(logs + np.log(weights.double().numpy()), axis=1)
            # The sum's logarithm errs by no more than the largest error of an exponent that matters (those within
            # 40 of the largest), with the weight's logarithm beside it; and by its own rounding.
            matters = logs > (logs[:, 3:].max(1) - 60)[:, None]
            largest = np.where(matters, np.abs(logs), 0).max(1) + 20
            bound = unit * ((dim / 16 + 14) * (largest + 2) + np.abs(want) + 4)
            for given in ({"weights": weights}, {"log_weights": weights.log()}):
                for backend in ("cpu", "reference"):
                    got = log_kernel_sum(x, y, kernel=kernel, bandwidth=h, backend=backend, **given)
                    assert (np.abs(got.double().numpy() - want) <= bound).all(), (dim, h, backend)


def test_a_mixture_of_gaussians() -> None:
    x, y = torch.randn(30, 3, dtype=torch.float64), 2 * torch.randn(5, 3, dtype=torch.float64)
    shares, scales = torch.rand(5, dtype=torch.float64).log_softmax(0), torch.rand(5, dtype=torch.float64) + 0.3
    log_weights = shares - 1.5 * torch.log(2 * torch.pi * scales**2)
    got = log_kernel_sum(x, y, bandwidth=scales, log_weights=log_weights)
    densities = sum(
        np.exp(float(p)) * multivariate_normal(m, float(s) ** 2 * np.eye(3)).pdf(x.numpy())
        for p, m, s in zip(shares, y.numpy(), scales, strict=True)
    )
    np.testing.assert_allclose(got.exp().numpy(), densities, rtol=1e-13)  # some 30 roundings of 1e-16, exponents of 20


def test_no_underflow_no_overflow_and_zero_mass() -> None:
    y = torch.tensor([[1e4], [-1e4], [3e38]])
    got = log_kernel_sum(torch.zeros(1, 1), y, bandwidth=1.0)
    assert float(got) == pytest.approx(-0.5e8 + np.log(2), rel=1e-7)
    assert log_kernel_sum(torch.zeros(2, 1), y, bandwidth=1.0, weights=torch.zeros(3)).tolist() == [-torch.inf] * 2
    assert log_kernel_sum(torch.zeros(2, 1), y[:0], bandwidth=1.0).tolist() == [-torch.inf] * 2
    assert kernel_sum(torch.zeros(2, 1), y[:0], bandwidth=1.0).tolist() == [0.0] * 2
    assert log_kernel_sum(torch.zeros(1, 1), y[:1] / 1e4, bandwidth=1.0, log_weights=torch.full((1,), 1e5)) == 1e5 - 0.5
    # the weight of the nearest is nearly nothing: what counts is the term, not the kernel
    near = torch.tensor([[0.0], [13.9]])  # e^0 against e^-96.6
    got = log_kernel_sum(torch.zeros(1, 1), near, bandwidth=1.0, log_weights=torch.tensor([-300.0, 0.0]))
    assert float(got) == pytest.approx(-(13.9**2) / 2, rel=1e-6)


def test_an_ascending_peak_loses_nothing() -> None:
    # Every group of references brings a new largest term: the sums are rescaled 6250 times.
    y = torch.linspace(50, 0, 100_000).unsqueeze(1)
    want = logsumexp(-(y.double().numpy()[:, 0] ** 2) / 2)
    assert abs(float(log_kernel_sum(torch.zeros(1, 1), y, bandwidth=1.0)) - want) <= 12 * 6e-8 * max(1, want)


def test_a_million_terms_keep_float32() -> None:
    # In float32, a plain running sum of 10^6 terms of 0.1 errs by 1e-3; here by a rounding of each term and of the sum.
    y = torch.full((1_000_000, 1), 0.1)
    got = float(kernel_sum(torch.tensor([[1.0]]), y, kernel="linear"))
    assert got == pytest.approx(1e6 * float(np.float32(0.1)), rel=6e-8)


@pytest.mark.parametrize("kernel", KERNELS)
def test_exclude_self_and_batches(kernel: str) -> None:
    x = torch.randn(3, 40, 5)
    chosen = options(kernel, 1.5)
    got = kernel_sum(x, **chosen, exclude_self=True)
    values, _ = zip(*(truth(kernel, part, part, 1.5) for part in x), strict=True)
    want = np.stack([v.sum(1) - np.diagonal(v) for v in values])
    scale = np.stack([np.abs(v).sum(1) for v in values])
    assert (np.abs(got.double().numpy() - want) <= 64 * 6e-8 * scale).all()
    for b in range(3):
        assert torch.equal(kernel_sum(x[b], x[b].clone(), **chosen, exclude_self=True), got[b])
    if kernel in SCALED:
        logs = log_kernel_sum(x, **chosen, exclude_self=True)
        assert (np.abs(logs.double().numpy() - np.log(want)) <= 64 * 6e-8).all()


@pytest.mark.parametrize("kernel", KERNELS)
def test_one_result_on_every_instruction_set_and_any_threads(isa: str, kernel: str) -> None:
    inputs = {"x": torch.randn(150, 21), "y": torch.randn(333, 21), "low": torch.randn(70, 3)}
    code = """
        from gmkern.neighbors import kernel_sum, log_kernel_sum
        x.requires_grad_(), y.requires_grad_()
        sums = [kernel_sum(x, y, **chosen), kernel_sum(low, **chosen)]
        if "bandwidth" in chosen:
            sums.append(log_kernel_sum(x, y, **chosen))
        out = [*sums, *torch.autograd.grad([s.sum() for s in (sums[0], sums[-1]) if s.requires_grad], (x, y))]
    """
    want = run_isa(None, code, threads=1, chosen=options(kernel, 3.0), **inputs)
    got = run_isa(isa, code, threads=2, chosen=options(kernel, 3.0), **inputs)
    assert all(map(torch.equal, got, want))
    alone = kernel_sum(inputs["x"][77:78], inputs["y"], **options(kernel, 3.0))
    assert torch.equal(alone, want[0][77:78])


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("dim", [1, 3, 20])
def test_gradcheck(kernel: str, dim: int) -> None:
    x = torch.randn(2, 5, dim, dtype=torch.float64, requires_grad=True)
    y = torch.randn(2, 19, dim, dtype=torch.float64, requires_grad=True)
    weights = torch.rand(2, 19, dtype=torch.float64, requires_grad=True)
    h = (torch.rand(2, 19, dtype=torch.float64) + dim**0.5).requires_grad_(kernel in SCALED)

    def total(x, y, weights, h, **rest):
        return kernel_sum(x, y, **options(kernel, h), weights=weights, **rest)

    assert torch.autograd.gradcheck(total, (x, y, weights, h))
    assert torch.autograd.gradcheck(lambda x: total(x, x, weights[:, :5], h[:, :5], exclude_self=True), (x,))
    if kernel not in SCALED:
        return

    def logs(x, y, weights, h):
        return log_kernel_sum(x, y, kernel=kernel, bandwidth=h, weights=weights)

    def from_logs(x, y, log_weights, h):
        return log_kernel_sum(x, y, kernel=kernel, bandwidth=h, log_weights=log_weights)

    assert torch.autograd.gradcheck(logs, (x, y, weights, h))
    assert torch.autograd.gradcheck(from_logs, (x, y, weights, h))
    scalar = torch.tensor(1.3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda h: logs(x.detach(), y.detach(), weights.detach(), h), (scalar,))


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("dim", [4, 33])
def test_gradients_against_the_reference(kernel: str, dtype: torch.dtype, dim: int) -> None:
    x, y = torch.randn(40, dim).to(dtype), torch.randn(90, dim).to(dtype)
    y[3] = x[5]
    weights, h = torch.rand(90), torch.rand(90) + dim**0.5
    weights[7] = 0
    sums = [kernel_sum, log_kernel_sum] if kernel in SCALED else [kernel_sum]
    for function in sums:
        gradients = []
        for backend, precise in (("cpu", torch.Tensor.clone), ("reference", torch.Tensor.double)):
            leaves = [precise(t).requires_grad_() for t in (x, y, weights, h)]
            made = function(leaves[0], leaves[1], **options(kernel, leaves[3]), weights=leaves[2], backend=backend)
            used = leaves if kernel in SCALED else leaves[:3]
            gradients.append(torch.autograd.grad((made * torch.linspace(-1, 1, 40, dtype=made.dtype)).sum(), used))
        for got, want in zip(*gradients, strict=True):
            # Terms err by some 64 u each, of exponents below 20 (and of logarithms' totals below 20); at most 90 terms
            # of about the size of the largest gradient; one rounding to the points' dtype.
            scale = 90 * want.abs().max()
            bound = 64 * torch.finfo(torch.float32).eps * scale + torch.finfo(got.dtype).eps * want.abs()
            assert ((got.double() - want).abs() <= bound).all()


@pytest.mark.parametrize("kernel", KERNELS[:5])
def test_gradients_are_finite_at_copies_and_far_away(kernel: str) -> None:
    x = torch.tensor([[0.0, 0.0], [1.0, 2.0], [1e18, 0.0], [3e30, 0.0]])  # the last one's square overflows
    for function in (kernel_sum, log_kernel_sum) if kernel in SCALED else (kernel_sum,):
        for backend in ("cpu", "reference"):
            a, b = x[:2].clone().requires_grad_(), x.clone().requires_grad_()
            weights = torch.tensor([1.0, 0.0, 1.0, 1.0]).requires_grad_()
            h = torch.tensor(0.5, requires_grad=kernel in SCALED)
            sums = function(a, b, **options(kernel, h), weights=weights, backend=backend)
            gradients = torch.autograd.grad(sums.sum(), (a, b, weights, h) if kernel in SCALED else (a, b, weights))
            assert all(bool(g.isfinite().all()) for g in gradients), (function.__name__, backend)


def test_zero_mass_has_no_gradient() -> None:
    x, y = torch.randn(3, 4, requires_grad=True), torch.randn(5, 4, requires_grad=True)
    for backend in ("cpu", "reference"):
        logs = log_kernel_sum(x, y, bandwidth=1.0, weights=torch.zeros(5), backend=backend)
        assert not any(bool(g.any()) for g in torch.autograd.grad(logs.sum(), (x, y)))


def test_second_derivatives_are_refused_not_wrong() -> None:
    x, y = torch.randn(3, 4, dtype=torch.float64, requires_grad=True), torch.randn(5, 4, dtype=torch.float64)
    (first,) = torch.autograd.grad(kernel_sum(x, y, bandwidth=1.0).sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="first derivatives alone"):
        first.sum().backward()
    assert torch.autograd.gradgradcheck(lambda x: kernel_sum(x, y, bandwidth=1.0, backend="reference"), (x,))


def test_opcheck_and_fullgraph() -> None:
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        x = torch.randn(2, 7, 3).to(dtype).requires_grad_()
        y = torch.randn(2, 9, 3).to(dtype).requires_grad_()
        wide = torch.float64 if dtype == torch.float64 else torch.float32
        numbers = [(torch.rand(2, 9) + 0.5).to(wide).requires_grad_() for _ in range(3)]
        for kernel in range(5):
            rest = (kernel, 1.5, 0.5, 3, False)
            torch.library.opcheck(torch.ops.gmkern.kernel_sum.default, (x, y, *numbers[:2], None, *rest))
        torch.library.opcheck(torch.ops.gmkern.kernel_sum.default, (x, y, *numbers, 2, 1.5, 0.5, 3, False))
        state = torch.zeros(2, 7, 17, dtype=torch.float64)
        with torch.no_grad():
            torch.library.opcheck(
                torch.ops.gmkern.kernel_sum_resume.default, (state, x, y, *numbers[:2], None, 0, 1.0, 0.0, 1, True, 16)
            )
        torch.library.opcheck(torch.ops.gmkern.kernel_sum_total.default, (state, False))
    given = [torch.randn(1, 7), torch.randn(1, 7), torch.randn(1, 7, 3), torch.randn(1, 9, 3), *torch.rand(2, 1, 9)]
    rest = (None, 0, 1.0, 0.0, 1, False)
    for wanted in ((True, True), (True, False), (False, True)):
        torch.library.opcheck(torch.ops.gmkern.kernel_sum_backward.default, (*given, *rest, *wanted))

    def loss(x, y, h):
        return log_kernel_sum(x, y, bandwidth=h) + kernel_sum(x, y, kernel="polynomial")

    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    x, y, h = torch.randn(12, 4, requires_grad=True), torch.randn(30, 4), torch.tensor(0.7, requires_grad=True)
    got, want = compiled(x, y, h), loss(x, y, h)
    torch.testing.assert_close(got, want, rtol=1e-6, atol=1e-6)  # inductor may fuse h's square: a few u of either
    for a, b in zip(*(torch.autograd.grad(v.sum(), (x, h)) for v in (got, want)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)  # some 40 u of exponents of 10


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        ({"kernel": "gaussian"}, ValueError, "^kernel: got 'gaussian'"),
        ({"bandwidth": None}, ValueError, "^bandwidth: got None"),
        ({"bandwidth": 0.0}, ValueError, "^bandwidth: got 0.*> 0"),
        (
            {"bandwidth": torch.tensor([1.0, 1.0, torch.nan] + [1.0] * 17)},
            ValueError,
            "^bandwidth.*: got nan at position 2",
        ),
        ({"bandwidth": torch.ones(7)}, ValueError, r"^bandwidth: .*\[20\]"),
        ({"bandwidth": torch.ones(20).double()}, TypeError, "^bandwidth: .*float32"),
        ({"weights": torch.ones(7)}, ValueError, r"^weights: .*\[20\]"),
        ({"weights": torch.full((20,), torch.inf)}, ValueError, "^weights: got inf at position 0"),
        ({"kernel": "rational_quadratic", "alpha": 0.0}, ValueError, "^alpha: "),
        ({"kernel": "energy"}, ValueError, "^bandwidth: .*takes None"),
        ({"kernel": "polynomial", "bandwidth": None, "degree": 0}, ValueError, "^degree: "),
        ({"kernel": "polynomial", "bandwidth": None, "gamma": -1.0}, ValueError, "^gamma: "),
        ({"exclude_self": True}, ValueError, "^exclude_self: "),
        ({"references": torch.zeros(20, 2)}, ValueError, "^references: "),
        ({"references": torch.full((20, 3), torch.nan)}, ValueError, r"^references: got nan at \[0, 0\]"),
    ],
)
@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_bad_input(change: dict, error: type[Exception], text: str, backend: str) -> None:
    given = {"queries": torch.zeros(10, 3), "references": torch.zeros(20, 3), "bandwidth": 1.0, **change}
    with pytest.raises(error, match=text):
        kernel_sum(**given, backend=backend)


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_bad_logarithms(backend: str) -> None:
    given = {"queries": torch.zeros(10, 3), "references": torch.zeros(20, 3), "bandwidth": 1.0, "backend": backend}
    for change, text in (
        ({"kernel": "energy"}, "^kernel: got 'energy'"),
        ({"weights": torch.full((20,), -1.0)}, "^weights: got -1 at position 0"),
        ({"log_weights": torch.full((20,), torch.nan)}, "^log_weights: got nan"),
        ({"weights": torch.ones(20), "log_weights": torch.ones(20)}, "^log_weights: "),
    ):
        with pytest.raises(ValueError, match=text):
            log_kernel_sum(**given, **change)


def test_the_op_checks_too() -> None:
    x, y, ones = torch.zeros(1, 10, 3), torch.zeros(1, 20, 3), torch.ones(1, 20)
    for rates, weights, kernel, text in (
        (ones[:, :7].contiguous(), ones, 0, "rates: "),
        (ones, ones.double(), 0, "weights: "),
        (ones, ones, 5, "kernel: "),
    ):
        with pytest.raises(RuntimeError, match=text):
            torch.ops.gmkern.kernel_sum(x, y, rates, weights, None, kernel, 1.0, 0.0, 1, False)
    with pytest.raises(RuntimeError, match="kernel: "):
        torch.ops.gmkern.kernel_sum(x, y, ones, ones, ones, 4, 1.0, 0.0, 1, False)


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize(("n", "m"), [(3, 0), (0, 4), (0, 0)])
def test_no_points(n, m, backend):
    """A sum of nothing, its logarithm, and gradients of 0."""
    for kernel in ("rbf", "laplace", "rational_quadratic"):
        x, y = torch.randn(n, 2, requires_grad=True), torch.randn(m, 2)
        total = kernel_sum(x, y, kernel=kernel, bandwidth=1.0, backend=backend)
        log = log_kernel_sum(x, y, kernel=kernel, bandwidth=1.0, backend=backend)
        assert total.tolist() == [0.0] * n
        assert log.tolist() == [-torch.inf] * n
        (gradient,) = torch.autograd.grad(total.sum(), x)
        assert torch.equal(gradient, torch.zeros_like(x))
