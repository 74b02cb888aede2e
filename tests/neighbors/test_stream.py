"""References larger than memory: memory maps and iterables of blocks give the result of one piece, to the bit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from gmkern.neighbors import _stream, count_within, kernel_sum, knn, log_kernel_sum

pytestmark = pytest.mark.sanitize

SIZES = (1, 17, 40, 3, 0, 100, 39)


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_stream, "_BYTES", 2000)  # several chunks of 16 or 32 rows: blocks are cut, and joined


def blocks(y: torch.Tensor) -> list[torch.Tensor]:
    assert len(y) == sum(SIZES)
    return list(y.split(SIZES))


def memory_map(folder: Path, y: torch.Tensor) -> np.memmap:
    np.save(folder / "y.npy", y.numpy())
    return np.load(folder / "y.npy", mmap_mode="r")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("metric", ["euclidean", "sqeuclidean", "manhattan", "inner_product", "cosine"])
@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_knn(dtype: torch.dtype, metric: str, backend: str, tmp_path: Path) -> None:
    for dim in (2, 20):
        y = torch.randint(-2, 3, (200, dim)).to(dtype)  # ties everywhere
        y[:, 0] = 1
        x = torch.randn(30, dim).to(dtype)
        for k in (1, 6, 200):
            want = knn(x, y, k, metric=metric)
            sources = [iter(blocks(y)), blocks(y)]
            if dtype != torch.bfloat16:
                sources += [memory_map(tmp_path, y), (b.numpy() for b in blocks(y))]
            for source in sources:
                got = knn(x, source, k, metric=metric, backend=backend)
                assert torch.equal(got.distances, want.distances)
                assert torch.equal(got.indices, want.indices)
        want = knn(y, k=5, exclude_self=True, metric=metric)
        got = knn(y, blocks(y), k=5, exclude_self=True, metric=metric, backend=backend)
        assert torch.equal(got.distances, want.distances)
        assert torch.equal(got.indices, want.indices)


@pytest.mark.parametrize("strict", [False, True])
def test_count_within(strict: bool, tmp_path: Path) -> None:
    x, y = torch.randint(-2, 3, (30, 3)).float(), torch.randint(-2, 3, (200, 3)).float()
    radii = torch.randint(-1, 4, (200,)).float()
    for source in (blocks(y), memory_map(tmp_path, y)):
        for given in ({"radii": 2.0}, {"radii": radii[:30]}, {"radii": radii, "per": "reference"}):
            got = count_within(x, source, **given, strict=strict)
            assert torch.equal(got, count_within(x, y, **given, strict=strict))
    for per in ("query", "reference"):
        for z in (y, y.flip(0)):  # reference i is query i, wherever it lies
            got = count_within(z, blocks(y), radii, per=per, strict=strict, exclude_self=True)
            assert torch.equal(got, count_within(z, y, radii, per=per, strict=strict, exclude_self=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
def test_kernel_sums(dtype: torch.dtype, tmp_path: Path) -> None:
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    for dim in (2, 20):
        x, y = torch.randn(30, dim).to(dtype), torch.randn(200, dim).to(dtype)
        h, weights = torch.rand(200, dtype=wide) + 0.1, torch.rand(200, dtype=wide)
        for function, given in (
            (kernel_sum, {"bandwidth": h, "weights": weights}),
            (kernel_sum, {"kernel": "polynomial"}),
            (log_kernel_sum, {"bandwidth": h, "weights": weights}),
            (log_kernel_sum, {"bandwidth": 0.1, "log_weights": weights.log(), "kernel": "laplace"}),
        ):
            want = function(x, y, **given)
            for source in (blocks(y), memory_map(tmp_path, y)):
                assert torch.equal(function(x, source, **given), want)
            alone = function(y, y, **given, exclude_self=True)
            assert torch.equal(function(y, blocks(y), **given, exclude_self=True), alone)


def test_a_memory_map_is_read_in_slices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    y = memory_map(tmp_path, torch.randn(200, 5))
    most = 0
    original = _stream._checked

    def watched(name, block, x):
        nonlocal most
        most = max(most, block.nbytes)
        return original(name, block, x)

    monkeypatch.setattr(_stream, "_checked", watched)
    knn(torch.randn(3, 5), y, 2)
    assert 0 < most <= 2000


def test_progress_is_silent_off_a_terminal(capfd: pytest.CaptureFixture) -> None:
    y = torch.randn(200, 3)
    knn(y[:5], blocks(y), 2, progress=True)
    assert capfd.readouterr().err == ""
    with pytest.raises(TypeError, match="^progress: "):
        knn(y[:5], blocks(y), 2, progress=1)


def test_bad_input() -> None:
    x, y = torch.randn(30, 3), torch.randn(200, 3)
    nan = y.clone()
    nan[150, 2] = torch.nan
    zero, poor = y.clone(), torch.ones(200)
    zero[170], poor[190] = 0, torch.nan
    wrong_width, wrong_dtype = [y[:40], y[40:, :2]], [y[:40], y[40:60], y[60:].double()]
    for call, error, text in (
        (lambda: knn(x, wrong_width, 2), ValueError, "^references: block 1: .*3"),
        (lambda: knn(x, wrong_dtype, 2), TypeError, "^references: block 2: .*float32"),
        (lambda: knn(x, [y, "text"], 2), TypeError, "^references: block 1: "),
        (lambda: knn(x, {}, 2), TypeError, "^references: got {}"),
        (lambda: knn(x, iter(()), 2), ValueError, "^k: got 2; .*there are 0 references"),
        (lambda: knn(x, [y], 201), ValueError, "^k: got 201"),
        (lambda: knn(x, blocks(nan), 2), ValueError, r"^references: got nan at \[150, 2\]"),
        (lambda: knn(x, blocks(zero), 2, metric="cosine"), ValueError, r"^references: got a row of zeros at \[170\]"),
        (lambda: kernel_sum(x, [y], bandwidth=poor), ValueError, "^bandwidth.*: got nan at position 190"),
        (lambda: count_within(x, [y], poor, per="reference"), ValueError, "^radii: got nan at position 190"),
        (lambda: knn(x, [y], 2, exclude_self=True), ValueError, "^exclude_self: "),
        (lambda: knn(x.unsqueeze(0), [y], 2), ValueError, "^queries: .*N, D"),
        (lambda: knn(x.clone().requires_grad_(), [y], 2), ValueError, "^queries: .*gradient"),
        (lambda: count_within(x, [y], torch.ones(29)), ValueError, r"^radii: .*\[30\]"),
        (lambda: count_within(x, [y], torch.ones(199), per="reference"), ValueError, "^radii: got 199"),
        (lambda: count_within(x, [y], torch.ones(201), per="reference"), ValueError, "^radii: got 201"),
        (lambda: kernel_sum(x, [y], bandwidth=torch.ones(150)), ValueError, "^bandwidth: got 150"),
        (lambda: kernel_sum(x, [y], bandwidth=1.0, weights=torch.ones(250)), ValueError, "^weights: got 250"),
        (lambda: kernel_sum(x, [y], bandwidth=1.0, backend="reference"), ValueError, "reference: takes references in"),
    ):
        with pytest.raises(error, match=text):
            call()
    nothing = kernel_sum(x, iter(()), bandwidth=1.0), count_within(x, iter(()), 1.0)
    assert not nothing[0].any()
    assert not nothing[1].any()
