"""knn_certificate tells the method of a search and the rows that were certified."""

from __future__ import annotations

import pytest
import torch

from gmkern.neighbors import knn_certificate


def test_each_method() -> None:
    assert knn_certificate(torch.randn(9, 40)) == ("direct", 9, 0, 0, 0.0)
    assert knn_certificate(torch.randn(2, 2000, 3), k=5).method == "tree"
    assert knn_certificate(torch.randn(2000, 64), k=300, exclude_self=True).method == "direct"  # 16 k > M
    many = knn_certificate(torch.randn(20, 64), torch.randn(5000, 64), k=300)
    assert many.method == "screened by words"
    assert (many.rows, many.screened, many.certified, many.share) == (20, 20, 20, 1.0)
    # Words round to 1 in 2000 of a coordinate's spread: the 300th and 310th neighbours are further apart than that.
    assert 300 <= many.candidates < 310


def test_rows_that_fail_are_told(threads) -> None:
    # A coordinate far wider than the others takes the lattice: thousands lie nearer to each other than their residuals.
    y = torch.randn(20_000, 20)
    y[:, 0] *= 1e7
    y[:, 0] = y[:, 0].sign() * 1e7
    got = knn_certificate(y[:100], y, k=5)
    assert got.screened == 100
    assert got.certified < 100
    assert got.share == got.certified / 100
    threads(1)
    assert knn_certificate(y[:100], y, k=5) == got


def test_bad_input() -> None:
    with pytest.raises(ValueError, match="^k: got 10.*9"):
        knn_certificate(torch.zeros(10, 3), k=10, exclude_self=True)
    with pytest.raises(ValueError, match="^metric: got 'cosine'"):
        knn_certificate(torch.zeros(10, 3), metric="cosine")
    with pytest.raises(ValueError, match="^references: "):
        knn_certificate(torch.zeros(10, 3), torch.zeros(10, 4))


def test_opcheck() -> None:
    x, y = torch.randn(2, 7, 3), torch.randn(2, 9, 3)
    torch.library.opcheck(torch.ops.gmkern.knn_course.default, (x, y, 2, 0, False, 0))
