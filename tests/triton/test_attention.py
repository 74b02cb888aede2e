"""Attention in Triton, in the interpreter: the reference's values in float64, and each row by itself."""

from __future__ import annotations

import pytest
import torch

from gmkern.decode import attention
from gmkern.decode.attention import triton_kernels


def case(b=2, t=70, hq=4, hkv=2, d=20, asked=None, dtype=torch.float32, seed=0):
    made = torch.Generator().manual_seed(seed)
    shape = (b, hq, d) if asked is None else (b, asked, hq, d)
    q = torch.randn(*shape, generator=made)
    k, v = (torch.randn(b, t, hkv, d, generator=made).to(dtype) for _ in range(2))
    lengths = torch.randint(0, t + 1, (b,), generator=made)
    lengths[0] = t
    return q, k, v, lengths


def same(q, k, v, lengths, **options) -> None:
    ours = attention(q, k, v, lengths, backend="triton", **options)
    wide = {n: x.double() if isinstance(x, torch.Tensor) and n == "alibi" else x for n, x in options.items()}
    kept = k if k.itemsize == 1 else k.double(), v if v.itemsize == 1 else v.double()
    truth = attention(q.double(), *kept, lengths, backend="reference", **wide)
    # A score is a sum of D products of about 1, times 1/sqrt(D) or so: it is off by sqrt(D) eps at most a step, the
    # weights by as much of themselves, and the mean by that of the largest value.
    size = float(truth.out.abs().max()) + 1.0
    bound = 32 * torch.finfo(torch.float32).eps * q.shape[-1] ** 0.5 * size
    torch.testing.assert_close(ours.out.double(), truth.out, rtol=0, atol=bound)
    torch.testing.assert_close(ours.lse.double(), truth.lse, rtol=4 * torch.finfo(torch.float32).eps, atol=bound)


@pytest.mark.parametrize("asked", [None, 1, 5])
@pytest.mark.parametrize(
    ("t", "hq", "hkv", "d"), [(1, 1, 1, 1), (70, 4, 2, 20), (300, 6, 1, 64), (33, 17, 1, 5), (20, 2, 2, 256)]
)
def test_shapes(asked, t, hq, hkv, d):
    same(*case(t=t, hq=hq, hkv=hkv, d=d, asked=asked))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_narrow_caches(dtype):
    same(*case(dtype=dtype))


@pytest.mark.parametrize(
    "options",
    [
        {"window": 1},
        {"window": 9},
        {"window": 290},
        {"softcap": 0.7},
        {"softcap": 50.0},
        {"alibi": torch.tensor([0.5, 0.25, 0.125, 0.06])},
        {"scale": -0.3},
        {"window": 40, "softcap": 2.0, "alibi": torch.tensor([0.5, 0.25, 0.125, 0.06]), "scale": 0.2},
    ],
)
@pytest.mark.parametrize("asked", [None, 7])
def test_options(options, asked):
    same(*case(t=310, asked=asked), **options)


@pytest.mark.parametrize("dtype", [torch.int8, torch.float8_e4m3fn])
@pytest.mark.parametrize("of_each", [False, True])
def test_scaled(of_each, dtype):
    q, k, v, lengths = case()
    k8, v8 = ((x * 40).clamp(-127, 127).to(dtype) for x in (k, v))
    scales = {n: (torch.rand(2, 70, 2) if of_each else torch.rand(2)) / 20 + 0.01 for n in ("k_scale", "v_scale")}
    same(q, k8, v8, lengths, **scales)


def paged(cache: torch.Tensor, size: int, made: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows [B, T, ...] as shuffled pages [B T / size + 3, size, ...] and their table."""
    pages = cache.unflatten(1, (-1, size)).flatten(0, 1)
    place = torch.randperm(len(pages) + 3, generator=made)[: len(pages)]
    spread = cache.new_full((len(pages) + 3, *pages.shape[1:]), float("nan"))
    spread[place] = pages
    return spread, place.view(len(cache), -1)


@pytest.mark.parametrize("asked", [None, 3])
def test_pages(asked):
    q, k, v, lengths = case(t=320, asked=asked)
    kp, table = paged(k, 16, torch.Generator().manual_seed(3))
    vp, _ = paged(v, 16, torch.Generator().manual_seed(3))
    table[1, -(-int(lengths[1]) // 16) :] = 10**6  # not read
    ours = attention(q, kp, vp, lengths, page_table=table, backend="triton")
    whole = attention(q, k, v, lengths, backend="triton")
    assert torch.equal(ours.out, whole.out)
    assert torch.equal(ours.lse, whole.lse)


def test_views_and_what_is_not_seen():
    q, k, v, lengths = case(t=60, d=16)
    wide = torch.full((2, 2, 90, 2, 16), torch.nan)
    wide[0, :, :60], wide[1, :, :60] = k, v
    lengths[1] = 30
    wide[:, 1, 30:] = torch.nan
    ours = attention(q, wide[0], wide[1], lengths, backend="triton")
    assert torch.equal(ours.out, attention(q, k, v, lengths, backend="triton").out)
    by_heads = k.transpose(1, 2).contiguous().transpose(1, 2)
    assert torch.equal(ours.out, attention(q, by_heads, v, lengths, backend="triton").out)
    windowed = attention(q, wide[0], wide[1], lengths, window=5, backend="triton").out
    k[:, :25], v[:, :25] = torch.nan, torch.nan  # before the window of both rows
    lengths[0] = 60
    assert torch.equal(windowed, attention(q, k, v, lengths, window=5, backend="triton").out)


@pytest.mark.parametrize("folded", [False, True])
def test_a_row_depends_on_itself_alone(monkeypatch, folded):
    q, k, v, lengths = case(b=3, t=600, asked=6)
    lengths[1:] = torch.tensor([0, 270])

    def run(q, k, v, lengths, full):
        monkeypatch.setattr(triton_kernels, "_FULL", full)
        return attention(q, k, v, lengths, backend="triton")

    whole = run(q, k, v, lengths, 0 if folded else 10**9)
    assert torch.equal(whole.out[1], torch.zeros_like(whole.out[1]))
    other = run(q, k, v, lengths, 10**9 if folded else 0)
    assert torch.equal(whole.out, other.out)  # however splits are given to programs
    assert torch.equal(whole.lse, other.lse)
    for b in (0, 2):
        one = run(q[b : b + 1], k[b : b + 1], v[b : b + 1], lengths[b : b + 1], 10**9)
        assert torch.equal(one.out[0], whole.out[b])
        held = int(lengths[b])
        short = run(q[b : b + 1], k[b : b + 1, :held], v[b : b + 1, :held], lengths[b : b + 1], 10**9)
        assert torch.equal(short.out[0], whole.out[b])
        for i in (0, 5):  # alone, as decoding asks
            alone = run(q[b : b + 1, i], k[b : b + 1], v[b : b + 1], lengths[b : b + 1] - 5 + i, 10**9)
            assert torch.equal(alone.out[0], whole.out[b, i])
            assert torch.equal(alone.lse[0], whole.lse[b, i])
    # another order of positions is another order of sums: this test can fail
    flipped = run(q[:1, -1:], k[:1].flip(1), v[:1].flip(1), lengths[:1], 10**9)
    torch.testing.assert_close(flipped.out[0, 0], whole.out[0, -1], rtol=1e-3, atol=1e-4)
    assert not torch.equal(flipped.out[0, 0], whole.out[0, -1])


def test_lengths_and_pages_out_of_range_are_nan():
    q, k, v, _ = case(b=4, t=32)
    ours = triton_kernels.attention(
        q.unsqueeze(1), k, v, torch.tensor([32, 33, -1, 0], dtype=torch.int32), None, None, None, None, 0, 0.0, 1.0
    )
    assert [bool(x.isnan().all()) for x in ours[0]] == [False, True, True, False]
    assert [bool(x.isnan().all()) for x in ours[1]] == [False, True, True, False]
    table = torch.tensor([[0, 1], [4, 2], [3, 4], [-1, 0]], dtype=torch.int32)
    lengths = torch.tensor([64, 64, 32, 32], dtype=torch.int32)
    paged_out, _ = triton_kernels.attention(q.unsqueeze(1), k, v, lengths, table, None, None, None, 0, 0.0, 1.0)
    assert [bool(x.isnan().all()) for x in paged_out] == [False, True, False, True]


def test_nothing_is_asked():
    cache = torch.zeros(0, 5, 2, 8)
    nobody = attention(torch.zeros(0, 4, 8), cache, cache, torch.zeros(0, dtype=torch.int32), backend="triton")
    assert nobody.out.shape == (0, 4, 8)
    q, k, v, lengths = case(t=5)
    empty = attention(q, k[:, :0], v[:, :0], 0 * lengths, backend="triton")
    assert torch.equal(empty.out, torch.zeros_like(q))
    assert bool((empty.lse == -torch.inf).all())
