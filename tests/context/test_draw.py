"""context.draw: distinct, uniform, the same set anywhere; gathered as indexing would."""

from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import pytest
import torch
from scipy.stats import chi2

from gmkern import context
from gmkern._library import ops
from gmkern.random import reference as noise
from gmkern.random.streams import CONTEXT

pytestmark = pytest.mark.sanitize


def shuffled(count: int, size: int, seed: int, sample_id: int) -> list[int]:
    """A Fisher-Yates shuffle of a list, with Python's own whole numbers."""
    scalar = torch.tensor
    words = noise.words(scalar(seed), scalar([sample_id]), scalar(0), 2 * size, CONTEXT)[0].tolist()
    places = list(range(count))
    for i in range(size):
        at = i + ((words[2 * i] + (words[2 * i + 1] << 32)) * (count - i) >> 64)
        places[i], places[at] = places[at], places[i]
    return places[:size]


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize(("count", "size"), [(1, 1), (2, 2), (7, 3), (23, 23), (1797, 10), (301, 150)])
def test_is_a_shuffle(backend, count, size):
    train = torch.randn(count, 2, 3)
    ids = [5, 0, -3, 2**62]
    indices, points = context.draw(train, 4, size, seed=-9, sample_ids=ids, backend=backend)
    assert indices.tolist() == [shuffled(count, size, -9, i) for i in ids]
    assert torch.equal(points, train[indices])


def test_every_ordered_set_is_as_likely():
    """Counts of all 60 ordered choices of 3 from 5, and of the 10 subsets: chi-square, p > 1e-6 under uniformity."""
    n = 60_000
    drawn = context.draw(torch.zeros(5), n, 3, seed=4).indices.tolist()
    for outcomes, found in (
        (60, Counter(map(tuple, drawn))),
        (10, Counter(frozenset(row) for row in drawn)),
    ):
        expected = n / outcomes
        assert len(found) == outcomes
        statistic = sum((count - expected) ** 2 / expected for count in found.values())
        assert statistic < chi2.isf(1e-6, outcomes - 1)


def test_a_large_set_is_uniform_in_the_first_place():
    """Of many points, the bits of the index drawn first: each is a fair coin, |count - n/2| < 5.5 sqrt(n)/2."""
    n = 20_000
    first = context.draw(torch.zeros(1 << 20, dtype=torch.uint8), n, 1, seed=8).indices[:, 0]
    for bit in range(20):
        assert abs(int((first >> bit & 1).sum()) - n / 2) < 5.5 * n**0.5 / 2


def test_a_set_is_the_same_anywhere():
    train = torch.randn(500, 4)
    ids = torch.randperm(1000)[:64]
    many = context.draw(train, 64, 10, seed=3, sample_ids=ids)
    for row in (0, 17, 63):
        alone = context.draw(train, 1, 10, seed=3, sample_ids=ids[row : row + 1])
        assert torch.equal(alone.points[0], many.points[row])
    torch.set_num_threads(2)
    assert torch.equal(context.draw(train, 64, 10, seed=3, sample_ids=ids).indices, many.indices)
    torch.set_num_threads(1)
    assert torch.equal(context.draw(train, 64, 4, seed=3, sample_ids=ids).indices, many.indices[:, :4])
    seeds = torch.where(torch.arange(64) < 32, 3, 4)
    mixed = context.draw(train, 64, 10, seed=seeds, sample_ids=ids).indices
    assert torch.equal(mixed[:32], many.indices[:32])
    assert not torch.equal(mixed[32:], many.indices[32:])  # the control: another seed is another set


@pytest.mark.parametrize(
    "dtype", [torch.float64, torch.bfloat16, torch.float16, torch.uint8, torch.bool, torch.int64, torch.float32]
)
def test_dtypes_and_strides(dtype):
    train = (10 * torch.rand(6, 40, 5)).to(dtype).transpose(0, 1)[::2]
    for backend in ("cpu", "reference"):
        indices, points = context.draw(train, 9, 3, seed=1, backend=backend)
        assert points.dtype == dtype
        assert torch.equal(points, train[indices])
    assert context.draw(train, 0, 3, seed=1).points.shape == (0, 3, 6, 5)
    assert context.draw(torch.zeros(4, 0), 2, 3, seed=1).points.shape == (2, 3, 0)


def test_a_memory_map_is_not_read_whole(tmp_path):
    """Two billion points: a sparse file, of which no more than the drawn rows can be read."""
    count = (1 << 31) - 1
    path = tmp_path / "points"
    with open(path, "wb") as file:
        file.truncate(count)
    train = np.memmap(path, dtype=np.uint8, mode="r", shape=(count, 1))
    indices, points = context.draw(train, 5, 10, seed=2)
    assert points.shape == (5, 10, 1)
    assert int(indices.max()) > count * 0.8
    assert int(indices.min()) >= 0
    assert path.stat().st_blocks < 1024


def test_gradient_of_points():
    train = torch.randn(6, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: context.draw(x, 5, 4, seed=7).points, (train,))
    assert torch.autograd.gradgradcheck(lambda x: context.draw(x, 5, 4, seed=7).points ** 2, (train,))
    with pytest.raises(RuntimeError, match="forward-mode"):
        torch.func.jvp(lambda x: context.draw(x, 5, 4, seed=7).points, (train.detach(),), (train.detach(),))


def test_opcheck_and_fullgraph():
    train = torch.randn(11, 3, requires_grad=True)
    torch.library.opcheck(ops.draw_sets.default, (train, torch.tensor(3), torch.arange(4), 5))

    @torch.compile(fullgraph=True, backend="aot_eager")
    def drawn(seed):
        return context.draw(train, 8, 3, seed=seed).indices

    for seed in (1, 2):
        assert torch.equal(drawn(torch.tensor(seed)), context.draw(train, 8, 3, seed=seed).indices)


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"size": 9}, ValueError, "size: got 9; takes at most 8"),
        ({"size": 0}, ValueError, "size: got 0"),
        ({"n": -1}, ValueError, "n: got -1"),
        ({"n": 2.0}, TypeError, "n: got 2.0"),
        ({"train": torch.zeros(())}, ValueError, "train: got .* M < 2"),
        ({"train": torch.zeros(0, 3)}, ValueError, "size: got 3; takes at most 0"),
        ({"train": [1, 2]}, TypeError, "train: got"),
        ({"sample_ids": [1, 2, 3]}, ValueError, "sample_ids: got"),
        ({"seed": 0.5}, TypeError, "seed: got"),
        ({"backend": "cuda"}, ValueError, "backend"),
    ],
)
def test_bad_input_is_named(change, error, match):
    with pytest.raises(error, match=match):
        context.draw(**({"train": torch.zeros(8, 2), "n": 2, "size": 3, "seed": 0} | change))


def test_direct_calls_are_checked():
    train, ids = torch.zeros(8, 2), torch.arange(3)
    for arguments in itertools.chain(
        [(train, torch.tensor(0), ids, size) for size in (0, 9, -1)],
        [(train.t(), torch.tensor(0), ids, 1), (train, torch.zeros(2, dtype=torch.int64), ids, 1)],
        [(train, torch.tensor(0), ids.int(), 1), (train, torch.tensor(0), ids[::2], 1), (train, ids, ids[None], 1)],
    ):
        with pytest.raises(RuntimeError, match="gmkern:"):
            ops.draw_sets(*arguments)
