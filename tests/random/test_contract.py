"""The mapping from (seed, stream, id, step, element) to words, and the same bits on every backend."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import numpy as np
import pytest
import torch

import gmkern
from gmkern.random import reference, streams
from gmkern.testing import run_isa

pytestmark = pytest.mark.sanitize

KINDS = ("uniform", "normal", "gumbel")
DTYPES = (torch.float32, torch.float64)
MASK = (1 << 64) - 1

# The known-answer vectors published with Random123: counter, key -> words.
KNOWN_ANSWERS = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


def python_philox(counter: list[int], key: list[int]) -> list[int]:
    """Philox4x32-10 in Python integers, from the paper: independent of the code under test."""
    c, k = list(counter), list(key)
    for _ in range(10):
        p0, p1 = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [(p1 >> 32) ^ c[1] ^ k[0], p1 & 0xFFFFFFFF, (p0 >> 32) ^ c[3] ^ k[1], p0 & 0xFFFFFFFF]
        k = [(k[0] + 0x9E3779B9) & 0xFFFFFFFF, (k[1] + 0xBB67AE85) & 0xFFFFFFFF]
    return c


def python_words(seed: int, stream: int, sample_id: int, step: int, n: int) -> list[int]:
    """docs/noise.md, word by word."""

    def mix64(z: int) -> int:
        z = (z + 0x9E3779B97F4A7C15) & MASK
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
        return z ^ (z >> 31)

    k = mix64((mix64(seed & MASK) + stream) & MASK)
    sample_id &= MASK
    words: list[int] = []
    for block in range((n + 3) // 4):
        counter = [block, step, sample_id & 0xFFFFFFFF, sample_id >> 32]
        words += python_philox(counter, [k & 0xFFFFFFFF, k >> 32])
    return words[:n]


@pytest.mark.parametrize(("counter", "key", "answer"), KNOWN_ANSWERS)
def test_published_known_answers(counter, key, answer):
    words = reference.philox4x32_10(tuple(map(torch.tensor, counter)), tuple(map(torch.tensor, key)))
    assert tuple(int(w) for w in words) == answer
    assert tuple(python_philox(list(counter), list(key))) == answer
    host = pytest.importorskip("gmkern._host")
    assert tuple(host.philox4x32_10(counter, key)) == answer


@pytest.mark.parametrize("seed", [0, 1, -1, 123456789, (1 << 63) - 1, -(1 << 63)])
@pytest.mark.parametrize(("stream", "sample_id", "step"), [(0, 0, 0), (2, -7, 5), (300, 1 << 40, (1 << 32) - 1)])
def test_mapping_is_the_documented_one(seed, stream, sample_id, step):
    words = python_words(seed, stream, sample_id, step, 9)
    ids, at = torch.tensor([sample_id]), torch.tensor(step)
    assert reference.words(torch.tensor(seed), ids, at, 9, stream).tolist() == [words]
    # float32 uniforms of the compiled op follow from those words
    expected = [min(np.float32(np.float32(w) * np.float32(2**-32) + np.float32(2**-33)), 1 - 2**-24) for w in words]
    assert gmkern.random.uniform(seed, ids, step, 9, stream=stream).tolist() == [[float(x) for x in expected]]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n", [0, 1, 2, 3, 4, 5, 31, 32, 33, 63, 64, 65, 1001])
def test_cpu_equals_reference(kind, dtype, n):
    ids = torch.tensor([0, 1, -5, 1 << 40, 7])
    seeds = torch.tensor([1, 2, -3, 4, 1 << 62])
    steps = torch.tensor([0, 1, 2, 3, (1 << 32) - 1])
    draw = getattr(gmkern.random, kind)
    ours = draw(seeds, ids, steps, n, dtype=dtype, backend="cpu")
    assert ours.shape == (5, n)
    assert torch.equal(ours, draw(seeds, ids, steps, n, dtype=dtype, backend="reference"))


def test_every_isa_gives_the_same_bits(isa):
    code = """
        import gmkern
        ids, out = torch.arange(-2, 3), {}
        for kind in ("uniform", "normal", "gumbel"):
            for dtype in (torch.float32, torch.float64):
                out[f"{kind} {dtype}"] = getattr(gmkern.random, kind)(11, ids, 4, 4099, dtype=dtype)
    """
    drawn = run_isa(isa, code)
    assert len(drawn) == 6
    for kind, dtype in itertools.product(KINDS, DTYPES):
        expected = getattr(gmkern.random, kind)(11, torch.arange(-2, 3), 4, 4099, dtype=dtype, backend="reference")
        assert torch.equal(drawn[f"{kind} {dtype}"], expected)


def test_rare_tail_words_are_refined_alike():
    """Words below 256 come once in 2^24; seed 75 has one early, and both backends refine it."""
    seed, ids, n = 75, torch.arange(1), 1 << 14
    words = reference.words(torch.tensor(seed), ids, torch.tensor(0), n, 0)
    row, element = torch.nonzero(words < 256, as_tuple=True)
    assert element.tolist() == [11732]
    drawn = gmkern.random.gumbel(seed, ids, 0, n, backend="cpu")[row, element]
    second = reference.words(torch.tensor(seed), ids, torch.tensor(0), n, streams.TAIL)[row, element]
    assert torch.equal(drawn, reference.gumbel_from_word(words[row, element], second))
    assert not torch.equal(drawn, reference.gumbel_from_word(words[row, element])), "the control: unrefined differs"


def test_a_row_is_itself_alone_in_any_batch_and_order(generator):
    ids = torch.randint(-(1 << 62), 1 << 62, (64,), generator=generator)
    batch = gmkern.random.normal(3, ids, 9, 77)
    order = torch.randperm(64, generator=generator)
    assert torch.equal(gmkern.random.normal(3, ids[order], 9, 77), batch[order])
    assert torch.equal(gmkern.random.normal(3, ids[17:18], 9, 77), batch[17:18])
    assert torch.equal(gmkern.random.normal(3, ids, 9, 33), batch[:, :33])
    assert not torch.equal(gmkern.random.normal(3, ids + 1, 9, 77), batch), "the control: another id differs"


def test_threads_do_not_change_bits(threads):
    drawn = []
    for count in (1, 2):
        threads(count)
        drawn.append(gmkern.random.gumbel(1, 300, 2, 501))
    assert torch.equal(*drawn)


def test_the_same_table_of_streams_in_cpp():
    header = Path(__file__).parents[2] / "csrc/common/noise.h"
    if not header.exists():
        pytest.skip("no sources beside the tests")
    table = dict(re.findall(r"kStream(\w+) = (\d+),", header.read_text()))
    names = [n for n in dir(streams) if n.isupper() and n != "TAIL"]
    assert {n.capitalize(): str(getattr(streams, n)) for n in names} == table
