"""Attention on a real GPU: the reference's values, rows by themselves, captured, with gradients."""

from __future__ import annotations

import pytest
import torch

from gmkern.decode import KVCache, attention

pytestmark = pytest.mark.gpu


def case(b=3, t=700, hq=8, hkv=2, d=64, asked=None, dtype=torch.bfloat16):
    shape = (b, hq, d) if asked is None else (b, asked, hq, d)
    q = torch.randn(*shape, device="cuda")
    k, v = (torch.randn(b, t, hkv, d, device="cuda").to(dtype) for _ in range(2))
    lengths = torch.randint(asked or 1, t + 1, (b,), device="cuda", dtype=torch.int32)
    return q, k, v, lengths


def same(q, k, v, lengths, **options) -> None:
    ours = attention(q, k, v, lengths, **options)
    assert all(map(torch.equal, ours, attention(q, k, v, lengths, **options)))
    wide = {n: x.double() if n == "alibi" else x for n, x in options.items()}
    cache = (x if x.itemsize == 1 else x.double() for x in (k, v))
    truth = attention(q.double(), *cache, lengths, backend="reference", **wide)
    # as in tests/triton/test_attention.py, and three TF32 terms drop products of 2^-22 and less
    bound = 64 * torch.finfo(torch.float32).eps * q.shape[-1] ** 0.5 * (float(truth.out.abs().max()) + 1.0)
    torch.testing.assert_close(ours.out.double(), truth.out, rtol=0, atol=bound)
    torch.testing.assert_close(ours.lse.double(), truth.lse, rtol=4 * torch.finfo(torch.float32).eps, atol=bound)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("asked", [None, 1, 9])
@pytest.mark.parametrize(("hq", "hkv", "d"), [(1, 1, 1), (8, 2, 64), (17, 1, 80), (64, 8, 128), (2, 2, 256)])
def test_shapes(dtype, asked, hq, hkv, d):
    same(*case(hq=hq, hkv=hkv, d=d, asked=asked, dtype=dtype))


@pytest.mark.parametrize("options", [{"window": 300}, {"softcap": 5.0}, {"alibi": True}, {"scale": -0.3}])
def test_options(options):
    if "alibi" in options:
        options = {"alibi": torch.rand(8, device="cuda")}
    same(*case(), **options)


@pytest.mark.parametrize("dtype", [torch.int8, torch.float8_e4m3fn])
def test_scaled(dtype):
    if dtype == torch.float8_e4m3fn and torch.cuda.get_device_capability() < (8, 9):
        pytest.skip("float8 needs sm_89")
    q, k, v, lengths = case(dtype=torch.float32)
    k, v = ((x * 40).clamp(-127, 127).to(dtype) for x in (k, v))
    same(q, k, v, lengths, k_scale=torch.rand(2, device="cuda") / 20, v_scale=torch.rand(3, 700, 2, device="cuda") / 20)


def test_pages_of_a_cache():
    caches = [
        KVCache(rows=2, heads=2, head_dim=64, dtype=torch.bfloat16, device="cuda", page_size=p) for p in (16, 256)
    ]
    keys, values = torch.randn(2, 2, 530, 2, 64, device="cuda")
    q = torch.randn(2, 8, 64, device="cuda")
    for cache in caches:
        cache.append(keys, values)
    first, second = (cache.attend(q) for cache in caches)
    whole = attention(q, keys.bfloat16(), values.bfloat16(), torch.full((2,), 530, device="cuda"))
    assert torch.equal(first.out, whole.out)
    assert torch.equal(second.out, whole.out)


def test_a_row_depends_on_itself_alone():
    q, k, v, lengths = case(b=80, hkv=8, asked=4)
    whole = attention(q, k, v, lengths)
    for b in (0, 7, 79):
        row = slice(b, b + 1)
        assert torch.equal(attention(q[row], k[row], v[row], lengths[row]).out[0], whole.out[b])
        assert torch.equal(attention(q[row, 1], k[row], v[row], lengths[row] - 2).out[0], whole.out[b, 1])


def test_out_of_range_is_nan():
    q, k, v, lengths = case()
    lengths[1] = 701
    assert [bool(row.isnan().any()) for row in attention(q, k, v, lengths).out] == [False, True, False]


def test_graph():
    q, k, v, lengths = case()
    attention(q, k, v, lengths)  # compiles
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = attention(q, k, v, lengths)
    q.normal_()
    lengths.fill_(600)
    graph.replay()
    assert torch.equal(captured.out, attention(q, k, v, lengths).out)


def test_gradients_and_op():
    q, k, v, lengths = case(dtype=torch.float32, asked=3)
    ours = [x.clone().requires_grad_() for x in (q, k, v)]
    truth = [x.double().requires_grad_() for x in (q, k, v)]
    for leaves, backend in ((ours, None), (truth, "reference")):
        attention(*leaves, lengths, backend=backend).out.square().sum().backward()
    for a, b in zip(ours, truth, strict=True):
        scale = float(b.grad.abs().max())
        torch.testing.assert_close(a.grad.double(), b.grad, rtol=0, atol=1e-5 * scale)  # sums of up to 700 terms
    args = (q, k, v, lengths, None, None, None, None, 0, 0.0, 0.125)
    torch.library.opcheck(torch.ops.gmkern.attention.default, args)
