"""Screening by float16 products in Triton, in the interpreter: the direct search's bits, and the bound behind them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import triton
import triton.language as tl

from gmkern.neighbors import triton_halves
from gmkern.neighbors.count_within import ops as count_ops
from gmkern.neighbors.count_within import triton_kernels as count_kernels
from gmkern.neighbors.count_within import triton_screen as count_screen
from gmkern.neighbors.knn import ops, triton_kernels, triton_screen
from gmkern.neighbors.triton_screening import screening_pays

EUCLIDEAN, SQUARES, MANHATTAN = 0, 1, 2


@pytest.fixture(autouse=True)
def _tall_tiles(monkeypatch):
    """Fewer programs: the interpreter runs them in turn. No result depends on the tile."""
    monkeypatch.setattr(triton_halves, "_ROWS", 256)


def searched(x, y, k, metric=EUCLIDEAN, exclude_self=False) -> torch.Tensor:
    """Candidates of each row, after the comparison with the CPU's direct search."""
    ours = triton_kernels._search(x, y, k, metric, exclude_self, 2)
    theirs = ops.knn(x, y, k, metric, exclude_self, 0, 1)
    assert torch.equal(ours[1], theirs[1])
    assert torch.equal(ours[0], theirs[0])
    return ours[2]


@pytest.mark.parametrize(
    ("n", "m", "d", "k", "dtype"),
    [
        (5, 700, 9, 1, torch.float32),
        (3, 515, 33, 5, torch.bfloat16),
        (3, 700, 100, 1, torch.float16),
        (2, 900, 150, 3, torch.float32),
    ],
)
def test_few_candidates_are_the_nearest(generator, n, m, d, k, dtype):
    x, y = (torch.randn(1, rows, d, generator=generator).to(dtype) for rows in (n, m))
    counts = searched(x, y, k)
    assert (counts >= k).all()
    assert counts.double().mean() < k + 4


def test_batches_clusters_far_off_and_copies(generator):
    """Clusters about a mean of 100, of points that differ by 10^-2: residuals are of the clusters, not of the mean."""
    centres = torch.randn(2, 6, 40, generator=generator)
    y = centres[:, torch.arange(600) % 6] + 0.01 * torch.randn(2, 600, 40, generator=generator) + 100.0
    x = torch.cat([y[:, 7:9], y[:, :1] + 0.001], 1)
    counts = searched(x, y, 3, SQUARES)
    assert (counts >= 3).all()
    assert (counts < 200).all()


def test_more_copies_than_room_go_to_the_direct_search(generator):
    y = torch.randn(1, 2, 24, generator=generator)[:, torch.arange(1200) % 2]
    x = torch.cat([y[:, 1:2], torch.randn(1, 1, 24, generator=generator)], 1)
    assert (searched(x, y, 2) == -1).all()


def test_within_one_set_and_every_neighbour(generator):
    x = torch.randn(1, 7, 20, generator=generator).round()
    searched(x, x, 6, exclude_self=True)
    searched(x[:, :2], x, 7)


def test_points_out_of_range(generator):
    """A point beyond 10^15 or far beyond the others has no halves and is everyone's candidate; tiny ones are ties."""
    y = torch.randn(1, 300, 12, generator=generator)
    y[0, 5], y[0, 100] = 3e17, 1e6
    assert (searched(torch.cat([y[:, 3:5], y[:, 5:6]], 1), y, 2)[0, :2] > 0).all()
    searched(y[:, :2] * 1e-30, y[:, :200] * 1e-30, 2)


def test_blocks_of_both_sides_are_merged(generator, monkeypatch):
    monkeypatch.setattr(triton_screen, "_LANES", 32)
    monkeypatch.setattr(triton_screen, "_MEMBERS", 8)  # 256 references at a time
    monkeypatch.setattr(triton_screen, "_CELLS", 1)  # 64 queries at a time
    x = torch.randn(1, 66, 10, generator=generator)
    x = x[:, torch.arange(520) % 66][:, :520]
    monkeypatch.setattr(triton_screen, "_search", few := Few(triton_screen._search))
    keys, counts = triton_screen.screened(x[0, :66], x[0], 2, EUCLIDEAN, False)
    assert few.calls == 6  # two blocks of queries, three of references
    distances, indices = triton_kernels.from_keys(keys[:4])
    theirs = ops.knn(x[:, :4], x, 2, EUCLIDEAN, False, 0, 1)
    assert torch.equal(indices, theirs[1][0])
    assert torch.equal(distances, theirs[0][0])
    assert (counts[:4] > 0).all()


class Few:
    """Searches the first four queries of a block, and says nothing of the others."""

    def __init__(self, search):
        self.search, self.calls = search, 0

    def __call__(self, queries, *arguments):
        *others, keys, counts = arguments
        self.calls += 1
        self.search(queries[:4], *others, keys[:4], counts[:4])


def test_course_and_methods(generator):
    x, y = torch.randn(1, 2, 16, generator=generator), torch.randn(1, 300, 16, generator=generator)
    method, rows, certified, candidates = triton_kernels.knn_course(x, y, 1, EUCLIDEAN, False, 2)[0].tolist()
    assert (method, rows, certified) == (5, 2, 2)
    assert candidates >= 2
    assert triton_kernels.knn_course(x, y, 1, EUCLIDEAN, False, 0).tolist() == [[1, 0, 0, 0]]  # too few to pay
    for call in ((1, EUCLIDEAN, False, 0, 3), (1, MANHATTAN, False, 0, 2), (257, EUCLIDEAN, False, 0, 2)):
        with pytest.raises(ValueError, match="method: got"):
            triton_kernels.knn(x, y, *call)
    with pytest.raises(ValueError, match="references: got inf at"):
        triton_kernels.knn(x, torch.full_like(y, torch.inf), 1, EUCLIDEAN, False, 0, 2)
    assert screening_pays(50_000, 50_000, 16, 3200)
    assert not screening_pays(10, 5000, 64, 32)
    assert not screening_pays(50_000, 5000, 64, 8000)


@triton.jit
def bounds_kernel(
    value, x2, y2, term, rx, ry, common, true, low, high, out, scatter,
    EPS: tl.constexpr, ETA: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    at = tl.arange(0, BLOCK)
    v, a, b, c, d, e, t = (
        tl.load(value + at), tl.load(x2 + at), tl.load(y2 + at), tl.load(term + at), tl.load(rx + at),
        tl.load(ry + at), tl.load(true + at),
    )  # fmt: skip
    lower, upper = triton_screen.bounds(v, a, b, c, d, e, scatter, EPS)
    tl.store(low + at, lower)
    tl.store(high + at, upper)
    tl.store(out + at, triton_screen.is_beyond(v, a, d, tl.load(common), t, scatter, EPS, ETA).to(tl.int32))


def adversarial(kind: str, d: int, generator) -> tuple[torch.Tensor, torch.Tensor]:
    x, y = (torch.randn(rows, d, generator=generator) for rows in (32, 64))
    if kind == "copies and near copies":
        y[:32] = x
        y[32:] = x * (1 + 1e-6)
    elif kind == "one wide coordinate":
        x[:, 0] *= 1000
        y[:, 0] *= 1000
    elif kind == "scales from 1e-6 to 1e3":
        x *= torch.logspace(-6, 3, 32)[:, None]
        y *= torch.logspace(3, -6, 64)[:, None]
    elif kind == "far off":
        x, y = x + 100, y + 100
    return x, y


@pytest.mark.parametrize(
    "kind", ["normal", "copies and near copies", "one wide coordinate", "scales from 1e-6 to 1e3", "far off"]
)
@pytest.mark.parametrize("d", [9, 300])
def test_the_bound_holds_for_every_pair(generator, kind, d):
    """With products off by all that is granted to them, either way, and low bits all 0 or all 1."""
    x, y = adversarial(kind, d, generator)
    frame = triton_halves.frame_of(y)
    a, b = triton_halves.halves_of(x, frame, 32), triton_halves.halves_of(y, frame, 64)
    common = triton_halves.common_residual(b, 64)
    terms = triton_halves.reference_terms(b, 64, common)
    wide_a, wide_b = a.values.double(), b.values.double()
    width, mask = wide_a.shape[1], 255
    granted = width * 2.0**-22 * wide_a.norm(dim=1)[:, None] * wide_b.norm(dim=1)
    true = (x.double()[:, None] - y.double()).norm(dim=2) * frame.scale.double()
    one = torch.ones(32, 64)
    for sign in (-1.0, 0.0, 1.0):
        product = (wide_a @ wide_b.T + sign * granted).float()
        bits = (terms - product).view(torch.int32)
        for number in (0, mask):
            value = ((bits & ~mask) | number).view(torch.float32)
            low, high, out = torch.empty_like(value), torch.empty_like(value), torch.empty(32, 64, dtype=torch.int32)
            # a float32 above the distance: the pair is within it
            reach = torch.nextafter(true.float(), torch.tensor(torch.inf))
            bounds_kernel[(1,)](
                value, one * a.half_squares[:, None], one * b.half_squares, one * terms, one * a.residuals[:, None],
                one * b.residuals, common, reach, low, high, out, (mask + 1) * 2.0**-22,
                EPS=triton_halves.epsilon(width), ETA=triton_halves.ETA, BLOCK=2048,
            )  # fmt: skip
            assert (low.double() <= true).all()
            assert (high.double() >= true).all()
            assert not out.any()
    if kind == "normal":  # and says something: within a hundredth
        assert (low.double() > 0.99 * true).all()
        assert (high.double() < 1.01 * true).all()


def test_what_is_granted_to_products_is_what_tensor_cores_may_lose(generator):
    """Eight products and the sum so far, aligned to the largest and cut to 24 bits; then the sum cut: to one side."""
    rounds = np.random.default_rng(0)
    for d in (64, 2048):
        a, b = (np.abs(rounds.standard_normal(d)).astype(np.float16).astype(np.float64) for _ in range(2))
        total = 0.0
        for at in range(0, d, 8):
            terms = np.append(a[at : at + 8] * b[at : at + 8], total)
            unit = 2.0 ** (np.floor(np.log2(terms.max())) - 23)
            total = (np.floor(terms / unit) * unit).sum()
            unit = 2.0 ** (np.floor(np.log2(total)) - 23)
            total = np.floor(total / unit) * unit
        lost = a @ b - total
        assert 0 < lost <= d * 2.0**-22 * np.linalg.norm(a) * np.linalg.norm(b)


def counted(x, y, radii, per_reference, strict, exclude_self=False) -> torch.Tensor:
    """Whether each row had room, after the comparison with the CPU's direct count."""
    arguments = (x, y, radii, per_reference, strict, exclude_self)
    assert torch.equal(count_kernels.count_within(*arguments, 2), count_ops.count_within(*arguments, 1))
    return count_screen.screened(x[0], y[0], radii[0], *arguments[3:])[1]


@pytest.mark.parametrize("per_reference", [False, True])
@pytest.mark.parametrize("strict", [False, True])
def test_counts(generator, per_reference, strict):
    """Radii that are distances of pairs, to the bit; none, all and everything."""
    x, y = torch.randn(1, 9, 20, generator=generator), torch.randn(1, 300, 20, generator=generator)
    y[:, :3] = x[:, :3]
    near = ops.knn(*((y, x) if per_reference else (x, y)), 2, EUCLIDEAN, False, 0, 1)[0][:, :, 1].contiguous()
    near[0, 4:8] = torch.tensor([0.0, -1.0, torch.inf, 1e-30])
    assert counted(x, y, near, per_reference, strict).all()


def test_counts_of_ties_and_far_points(generator):
    """On a lattice every second pair may be at the radius: rows without room are counted directly, themselves out."""
    x = torch.randn(1, 300, 150, generator=generator)[:, :, :10].sign()
    radii = torch.full((1, 300), 2.0 * 5.0**0.5)  # as far as half of the coordinates differ
    arguments = (x, x, radii, False, False, True)
    few = count_kernels.count_within(*arguments, 2)
    assert torch.equal(few, count_ops.count_within(*arguments, 1))
    assert few.unique().numel() > 3
    x[0, 0], x[0, 1] = 1e17, -1e17
    counted(x[:, :4], x, torch.tensor([[1e16, torch.inf, 3e17, 5.0]]), False, True)


def test_counts_without_room_are_direct(generator):
    y = torch.randn(1, 2, 24, generator=generator)[:, torch.arange(600) % 2]
    x, radius = y[:, :3], (y[0, 0] - y[0, 1]).norm()
    radii = ops.knn(x, y, 301, EUCLIDEAN, False, 0, 1)[0][:, :, 300].contiguous()
    assert (radii - radius).abs().max() < 1e-5
    assert not counted(x, y, radii, False, False).any()
    with pytest.raises(ValueError, match="radii: got nan"):
        count_kernels.count_within(x, y, radii * torch.nan, False, False, False, 2)
    with pytest.raises(ValueError, match="method: got 3"):
        count_kernels.count_within(x, y, radii, False, False, False, 3)
