"""KVCache: what was appended is what is attended to, contiguous or in pages, grown, shared, freed, in any dtype."""

from __future__ import annotations

import pytest
import torch

from gmkern.decode import KVCache, attention

pytestmark = pytest.mark.sanitize

PAGES = [None, 1, 4, 64]


def filled(lengths, heads=2, dim=8, **more):
    """A cache of rows appended in uneven pieces, and the plain tensors [B, T, heads, dim] that it should hold."""
    most = max(lengths)
    k, v = torch.randn(2, len(lengths), most, heads, dim)
    cache = KVCache(len(lengths), heads, dim, **more)
    for row, length in enumerate(lengths):
        cut = length // 3
        for part in (slice(0, cut), slice(cut, length)):
            cache.append(k[row : row + 1, part], v[row : row + 1, part], rows=[row])
    return cache, k, v


@pytest.mark.parametrize("page_size", PAGES)
def test_holds_what_was_appended(page_size):
    lengths = [13, 1, 40]
    cache, k, v = filled(lengths, capacity=3, page_size=page_size)  # three positions, or pages: it must grow
    assert cache.lengths.tolist() == lengths
    q = torch.randn(3, 4, 8)
    assert torch.equal(cache.attend(q).out, attention(q, k, v, torch.tensor(lengths)).out)
    some = cache.attend(q[:2], rows=[2, 0], window=5)
    assert torch.equal(some.out, attention(q[:2], k[[2, 0]], v[[2, 0]], torch.tensor([40, 13]), window=5).out)
    step_k, step_v = torch.randn(2, 3, 1, 2, 8)
    cache.append(step_k, step_v)
    assert cache.lengths.tolist() == [14, 2, 41]
    longer = [torch.cat([x[:1, :13], step[:1]], 1) for x, step in ((k, step_k), (v, step_v))]
    assert torch.equal(cache.attend(q).out[:1], attention(q[:1], *longer, torch.tensor([14])).out)


@pytest.mark.parametrize("page_size", PAGES)
def test_siblings_share_a_prompt_and_part_ways(page_size):
    cache, k, v = filled([10, 5, 7], page_size=page_size, capacity=4)
    cache.share(0, [1, 2])
    assert cache.lengths.tolist() == [10, 10, 10]
    q = torch.randn(3, 4, 8)
    own_k, own_v = torch.randn(2, 3, 6, 2, 8)
    cache.append(own_k, own_v)
    together = [torch.cat([x[:1, :10].expand(3, -1, -1, -1), own], 1) for x, own in ((k, own_k), (v, own_v))]
    assert torch.equal(cache.attend(q).out, attention(q, *together, torch.full((3,), 16)).out)
    cache.free([0])
    assert cache.lengths.tolist() == [0, 16, 16]
    cache.append(torch.zeros(1, 9, 2, 8), torch.zeros(1, 9, 2, 8), rows=[0])  # takes freed pages, not the siblings'
    rest = cache.attend(q[1:], rows=[1, 2])
    assert torch.equal(rest.out, attention(q[1:], *(x[1:] for x in together), torch.full((2,), 16)).out)


def test_pages_are_used_again():
    cache, _, _ = filled([16, 16], page_size=4, capacity=8)
    assert cache.keys.shape[0] == 8
    for _ in range(5):
        cache.free()
        cache.append(torch.zeros(2, 16, 2, 8), torch.zeros(2, 16, 2, 8))
    assert cache.keys.shape[0] == 8
    held = cache.page_table[:, :4].flatten().tolist()
    assert sorted(held) == list(range(8))


@pytest.mark.parametrize("page_size", [None, 4])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.int8, torch.float8_e4m3fn])
def test_narrow_numbers_are_within_their_rounding(page_size, dtype):
    cache, k, _ = filled([9, 6], dtype=dtype, page_size=page_size)
    q = torch.randn(2, 4, 8)
    got = cache.attend(q).lse
    if dtype == torch.int8:
        half_step = k.abs().amax(-1) / 127 / 2 * (1 + 1e-6)
    elif dtype == torch.float8_e4m3fn:  # numbers from 256 to 448 scales lie 32 apart
        half_step = k.abs().amax(-1) / 448 * 16 * (1 + 1e-6)
    else:
        half_step = k.abs().amax(-1) * torch.finfo(dtype).eps / 2
    # A score moves by at most |q|_1 half steps / sqrt(D); a log-sum-exp by no more than the largest move of a score.
    moved = (q.abs().sum(-1) * half_step[:, :9].amax((1, 2))[:, None] / 8**0.5).max()
    cache32 = KVCache(2, 2, 8)
    for row, length in enumerate((9, 6)):
        cache32.append(k[row : row + 1, :length], k[row : row + 1, :length], rows=[row])
    assert (got - cache32.attend(q).lse).abs().max() < moved + 1e-5
    assert not torch.equal(got, cache32.attend(q).lse)


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda c: c.append(torch.zeros(2, 1, 2, 7), torch.zeros(2, 1, 2, 7)), "keys: got"),
        (lambda c: c.append(torch.zeros(2, 1, 2, 8), torch.zeros(2, 2, 2, 8)), "values: got"),
        (lambda c: c.append(torch.zeros(1, 1, 2, 8), torch.zeros(1, 1, 2, 8), rows=[2]), "rows: got"),
        (lambda c: c.append(torch.zeros(2, 1, 2, 8), torch.zeros(2, 1, 2, 8), rows=[1, 1]), "rows: got"),
        (lambda c: c.append(torch.full((2, 1, 2, 8), float("inf")), torch.zeros(2, 1, 2, 8)), "not finite"),
        (lambda c: c.share(5, [0]), "rows: got"),
        (lambda c: KVCache(2, 2, 300), "head_dim: got 300"),
        (lambda c: KVCache(2, 2, 8, dtype=torch.float64), "dtype: got"),
        (lambda c: KVCache(2, 2, 8, page_size=0), "page_size: got 0"),
    ],
)
def test_bad_input_is_named(call, match):
    with pytest.raises(ValueError, match=match):
        call(KVCache(2, 2, 8, dtype=torch.int8))
