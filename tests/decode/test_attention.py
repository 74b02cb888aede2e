"""decode.attention against float64 softmax written position by position, and against torch's own attention."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from gmkern._library import ops
from gmkern.decode import attention
from gmkern.testing import run_isa, supported_isas, tolerance

pytestmark = pytest.mark.sanitize


def truth(q, k, v, lengths, *, window=None, alibi=None, softcap=None, scale=None):
    """[B, Tq, Hq, D] and [B, Tq, Hq] in NumPy's float64, one query and head at a time."""
    q, k, v = (x.double().numpy() for x in (q, k, v))
    out, lse = np.zeros(q.shape), np.full(q.shape[:3], -np.inf)
    scale = 1 / math.sqrt(q.shape[3]) if scale is None else scale
    for b, i, h in np.ndindex(*q.shape[:3]):
        position = int(lengths[b]) - q.shape[1] + i
        first = 0 if window is None else max(0, position + 1 - window)
        if position < 0:
            continue
        seen = slice(first, position + 1)
        head = h // (q.shape[2] // k.shape[2])
        s = k[b, seen, head] @ q[b, i, h] * scale
        if softcap is not None:
            s = softcap * np.tanh(s / softcap)
        if alibi is not None:
            s = s + float(alibi[h]) * (np.arange(first, position + 1) - position)
        p = np.exp(s - s.max())
        out[b, i, h] = p @ v[b, seen, head] / p.sum()
        lse[b, i, h] = s.max() + math.log(p.sum())
    return torch.from_numpy(out), torch.from_numpy(lse)


def limit(dim, positions, largest=4.0):
    """Scores up to `largest` in magnitudes added over dim, each times the values' spread; sums over the positions."""
    return tolerance(torch.float32, dim) * 2 * largest * largest + tolerance(torch.float32, positions) * largest


def close(got, want, bound):
    (out, lse), (true_out, true_lse) = got, want
    assert torch.equal(torch.isinf(lse), torch.isinf(true_lse))
    held = torch.isfinite(true_lse)
    assert (out.double() - true_out).abs().max() < bound
    assert (lse.double() - true_lse)[held].abs().max() < bound


OPTIONS = {
    "plain": {},
    "window": {"window": 37},
    "softcap": {"softcap": 1.5},
    "alibi": {"alibi": True},
    "all": {"window": 300, "softcap": 3.0, "alibi": True, "scale": 0.3},
}


@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize(
    ("dim", "heads", "key_heads", "room"), [(4, 1, 1, 9), (33, 6, 2, 300), (64, 8, 8, 70), (256, 5, 1, 530)]
)
def test_against_float64(dim, heads, key_heads, room, option):
    rows, asked = 3, 2
    q = torch.randn(rows, asked, heads, dim)
    k, v = torch.randn(2, rows, room, key_heads, dim)
    lengths = torch.tensor([room, 1, room // 2])
    options = dict(OPTIONS[option])
    if "alibi" in options:
        options["alibi"] = torch.linspace(0.01, 0.2, heads)
    want = truth(q, k, v, lengths, **options)
    for backend in ("cpu", "reference"):
        close(attention(q, k, v, lengths, backend=backend, **options), want, limit(dim, room))
    alone = attention(q[:, 1], k, v, lengths, **options)
    many = attention(q, k, v, lengths, **options)
    assert torch.equal(alone.out, many.out[:, 1])  # one query and many: the same sums
    assert torch.equal(alone.lse, many.lse[:, 1])


def test_against_torch():
    q, k, v = torch.randn(2, 50, 4, 16), torch.randn(2, 50, 4, 16), torch.randn(2, 50, 4, 16)
    want = F.scaled_dot_product_attention(*(x.transpose(1, 2) for x in (q, k, v)), is_causal=True).transpose(1, 2)
    assert (attention(q, k, v, torch.tensor([50, 50])).out - want).abs().max() < limit(16, 50)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.int8])
@pytest.mark.parametrize("dim", [20, 64])
def test_narrow_caches(dtype, dim):
    q, lengths = torch.randn(2, 4, dim), torch.tensor([290, 5])
    if dtype == torch.int8:
        k, v = torch.randint(-127, 128, (2, 2, 290, 2, dim), dtype=dtype)
        k_scale, v_scale = torch.rand(2, 2, 290, 2) / 50
        more = {"k_scale": k_scale, "v_scale": v_scale}
        wide = (k.double() * k_scale[..., None], v.double() * v_scale[..., None])
        per_head = attention(q, k, v, lengths, k_scale=k_scale[0, 0], v_scale=v_scale[0, 0])
        both = (k.double() * k_scale[0, 0, :, None].double(), v.double() * v_scale[0, 0, :, None].double())
        close((per_head.out[:, None], per_head.lse[:, None]), truth(q[:, None], *both, lengths), limit(dim, 290))
    else:
        k, v = torch.randn(2, 2, 290, 2, dim).to(dtype)
        k[0, 3, 0, :4] = torch.tensor([0.0, -0.0, 6e-8, 6e-5])  # zeros and numbers below fp16's normal ones
        more, wide = {}, (k, v)
    got = attention(q, k, v, lengths, **more)
    close((got.out[:, None], got.lse[:, None]), truth(q[:, None], *wide, lengths), limit(dim, 290))
    low = attention(q.bfloat16(), k, v, lengths, **more)
    assert low.out.dtype == torch.bfloat16
    assert torch.equal(low.out, attention(q.bfloat16().float(), k, v, lengths, **more).out.bfloat16())


def test_pages_views_and_places_do_not_change_a_bit():
    """A row alone and in a batch, contiguous and in pages of any size, in a longer cache, on any threads."""
    q, (k, v) = torch.randn(5, 6, 40), torch.randn(2, 5, 700, 3, 40)
    lengths = torch.tensor([700, 256, 257, 1, 0])
    want = attention(q, k, v, lengths)
    for row in range(5):
        some = slice(row, row + 1)
        alone = attention(q[some], k[some], v[some], lengths[some])
        assert torch.equal(alone.out, want.out[some])
        torch.set_num_threads(2)  # few items: splits side by side
        assert torch.equal(attention(q[some], k[some], v[some], lengths[some]).out, alone.out)
        torch.set_num_threads(1)
    assert torch.equal(want.out[4], torch.zeros(6, 40))
    assert (want.lse[4] == -math.inf).all()
    for size in (1, 7, 100):
        each = -(-700 // size)
        padded = torch.nn.functional.pad(torch.stack([k, v]), (0, 0, 0, 0, 0, each * size - 700), value=math.nan)
        order = torch.randperm(5 * each)
        pages = padded.reshape(2, 5 * each, size, 3, 40)[:, order]
        table = order.argsort().reshape(5, each)
        table[3, 1:] = -1  # past the row's length: not read
        got = attention(q, pages[0], pages[1], lengths, page_table=table)
        assert torch.equal(got.out, want.out)
        assert torch.equal(got.lse, want.lse)
    views = torch.randn(2, 3, 5, 800, 40)
    k2, v2 = views.permute(0, 2, 3, 1, 4)[:, :, 50:750]
    assert torch.equal(attention(q, k2, v2, lengths).out, attention(q, k2.contiguous(), v2.contiguous(), lengths).out)
    other = attention(q.roll(1, 0), k, v, lengths).out
    assert not torch.equal(other[:4], want.out[:4])  # the control


@pytest.mark.parametrize("dtype", [torch.float32, torch.int8])
def test_heads_do_not_change_a_bit(dtype):
    """Heads together, some to a thread, or alone; four queries a head and the one left over."""
    q, (k, v) = torch.randn(2, 35, 24), torch.randn(2, 2, 300, 7, 24)
    lengths, scales = torch.tensor([300, 40]), {}
    if dtype == torch.int8:
        k, v = (30 * k).to(dtype), (30 * v).to(dtype)
        scales = {"k_scale": torch.rand(2, 300, 7) / 30, "v_scale": torch.rand(7)}
    want = attention(q, k, v, lengths, **scales)
    for threads in (3, 5, 16):  # runs of several heads, the last one shorter, and of one
        torch.set_num_threads(threads)
        for got, bits in zip(attention(q, k, v, lengths, **scales), want, strict=True):
            assert torch.equal(got, bits)
    torch.set_num_threads(1)
    for h in range(7):
        mine, head = slice(5 * h, 5 * h + 5), slice(h, h + 1)
        alone = {name: scale[..., head] for name, scale in scales.items()}
        got = attention(q[:, mine], k[:, :, head], v[:, :, head], lengths, **alone)
        assert torch.equal(got.out, want.out[:, mine])
        assert torch.equal(got.lse, want.lse[:, mine])


@pytest.mark.isas
@pytest.mark.parametrize("isa", supported_isas())
def test_each_instruction_set(isa):
    q, (k, v) = torch.randn(2, 3, 4, 33), torch.randn(2, 2, 300, 2, 33)
    lengths = torch.tensor([300, 270])
    k_scale, v_scale = torch.rand(2, 2, 300, 2) / 50
    caches = {
        "fp32": (k, v),
        "bf16": (k.bfloat16(), v.bfloat16()),
        "fp16": (k.half() * 1e-6, v.half()),
        "int8": ((30 * k).to(torch.int8), (30 * v).to(torch.int8)),
    }
    code = """
        from gmkern.decode import attention
        out = {}
        for name, (k, v) in caches.items():
            more = {"k_scale": k_scale, "v_scale": v_scale} if name == "int8" else {}
            out[name] = tuple(attention(q, k, v, lengths, window=200, softcap=5.0, **more))
    """
    found = run_isa(isa, code, q=q, caches=caches, lengths=lengths, k_scale=k_scale, v_scale=v_scale)
    for name, (k, v) in caches.items():
        wide = (k.double() * k_scale[..., None], v.double() * v_scale[..., None]) if name == "int8" else (k, v)
        close(found[name], truth(q, *wide, lengths, window=200, softcap=5.0), limit(33, 300))


def test_gradients():
    q = torch.randn(2, 2, 4, 5, dtype=torch.float64, requires_grad=True)
    k, v = (torch.randn(2, 6, 2, 5, dtype=torch.float64, requires_grad=True) for _ in range(2))
    options = {"window": 3, "softcap": 2.0, "alibi": torch.rand(4, dtype=torch.float64)}
    lengths = torch.tensor([6, 1])
    exact = lambda q, k, v: attention(q, k, v, lengths, **options)  # noqa: E731
    lse_of_rows = lambda q, k, v: exact(q, k, v).lse[:, 1]  # noqa: E731  (a query before position 0 has none)
    assert torch.autograd.gradcheck(lambda *x: exact(*x).out, (q, k, v))
    assert torch.autograd.gradcheck(lse_of_rows, (q, k, v))
    # The kernel's gradient beside that of the reference in float64, in pages that rows share.
    table = torch.tensor([[0, 2, 1], [0, 1, -1]])
    weight = torch.randn(2, 2, 4, 5), torch.randn(2, 2, 4)
    grads = []
    for dtype, backend in ((torch.float32, "cpu"), (torch.float64, "reference")):
        leaves = [x.detach().to(dtype).requires_grad_() for x in (q, k.view(6, 2, 2, 5)[:3], v.view(6, 2, 2, 5)[:3])]
        alibi = options["alibi"].to(dtype)
        given = options | {"page_table": table, "alibi": alibi, "backend": backend}
        out, lse = attention(*leaves, torch.tensor([6, 3]), **given)
        ((out * weight[0]).sum() + (lse * weight[1]).sum()).backward()
        grads.append([leaf.grad for leaf in leaves])
    for ours, want in zip(*grads, strict=True):
        assert (ours - want).abs().max() < limit(5, 6) * want.abs().max()


def test_opcheck_and_fullgraph():
    q, (k, v) = torch.randn(2, 1, 4, 5, requires_grad=True), torch.randn(2, 2, 6, 2, 5)
    lengths = torch.tensor([6, 2], dtype=torch.int32)
    given = (q, k, v, lengths, None, None, None, torch.rand(4), 3, 2.0, 0.4)
    torch.library.opcheck(ops.attention.default, given)

    @torch.compile(fullgraph=True, backend="aot_eager")
    def loss(q, k, v, lengths):
        return attention(q, k, v, lengths, window=4).out.square().sum()

    assert loss(q, k, v, lengths) == attention(q, k, v, lengths, window=4).out.square().sum()


BASE = {"q": torch.zeros(2, 4, 5), "k_cache": torch.zeros(2, 6, 2, 5), "v_cache": torch.zeros(2, 6, 2, 5)}
BASE |= {"lengths": torch.tensor([6, 2])}
FLOAT8 = {name: BASE[name].to(torch.float8_e4m3fn) for name in ("k_cache", "v_cache")}
FLOAT8 |= dict.fromkeys(("k_scale", "v_scale"), torch.ones(2))
EIGHT = {"k_cache": torch.zeros(2, 6, 2, 5, dtype=torch.int8), "v_cache": torch.zeros(2, 6, 2, 5, dtype=torch.int8)}


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"q": torch.zeros(2, 3, 5)}, ValueError, "q: got .* multiple of the cache's 2 heads"),
        ({"q": torch.zeros(2, 4, 6)}, ValueError, "q: got .* head_dim, 5"),
        ({"q": torch.zeros(3, 4, 5)}, ValueError, "k_cache: got .* 3 rows"),
        ({"v_cache": torch.zeros(2, 5, 2, 5)}, ValueError, "v_cache: got"),
        ({"v_cache": torch.zeros(2, 6, 2, 5).half()}, TypeError, "v_cache: got"),
        ({"lengths": torch.tensor([7, 2])}, ValueError, "lengths: got 7; takes 0 to 6"),
        ({"lengths": torch.tensor([-1, 2])}, ValueError, "lengths: got -1"),
        ({"lengths": torch.tensor([1])}, ValueError, "lengths: got"),
        ({"page_table": torch.tensor([[0], [2]])}, ValueError, "page_table: got page 2 in row 1; takes 0 to 1"),
        ({"page_table": torch.tensor([[0]])}, ValueError, "page_table: got"),
        ({"window": 0}, ValueError, "window: got 0"),
        ({"softcap": 0.0}, ValueError, "softcap: got 0.0"),
        ({"scale": math.inf}, ValueError, "scale: got inf"),
        ({"alibi": torch.zeros(3)}, ValueError, "alibi: got"),
        ({"k_scale": torch.ones(2)}, ValueError, "k_scale: got"),
        (EIGHT, ValueError, "k_scale: got None"),
        (EIGHT | {"k_scale": torch.ones(2), "v_scale": torch.ones(3)}, ValueError, "v_scale: got"),
        (FLOAT8 | {"backend": "cpu"}, ValueError, "cpu: takes float32, bfloat16, float16 and int8 caches"),
        (FLOAT8 | {"v_scale": None}, ValueError, "v_scale: got None .* takes scales, since the cache is float8_e4m3fn"),
        ({"backend": "triton"}, ValueError, "backend"),
        ({"q": torch.zeros(2, 4, 5).double(), "backend": "cpu"}, ValueError, "float64"),
    ],
)
def test_bad_input_is_named(change, error, match):
    with pytest.raises(error, match=match):
        attention(**(BASE | change))


def test_gradients_that_cannot_be_had_are_refused():
    q = torch.zeros(2, 4, 5, requires_grad=True)
    with pytest.raises(ValueError, match="q: got queries that require a gradient"):
        attention(q, **EIGHT, lengths=BASE["lengths"], k_scale=torch.ones(2), v_scale=torch.ones(2))
    with pytest.raises(RuntimeError, match="forward-mode"):
        torch.func.jvp(lambda x: attention(**(BASE | {"q": x})).out, (BASE["q"],), (BASE["q"],))


def test_direct_calls_are_checked():
    q, k, lengths = torch.zeros(2, 1, 4, 5), torch.zeros(2, 6, 2, 5), torch.tensor([6, 2], dtype=torch.int32)
    end = (0, 0.0, 1.0)
    none = (None,) * 4
    far = torch.full((2, 1), 9, dtype=torch.int32)
    for given in (
        (q, k, k, lengths + 1, *none, *end),
        (q, k, k, lengths, far, None, None, None, *end),
        (q, k, k, lengths.long(), *none, *end),
        (q, k, k[:1], lengths, *none, *end),
        (q, k.transpose(2, 3), k.transpose(2, 3), lengths, *none, *end),
        (q[..., :3], k, k, lengths, *none, *end),
        (q, k.to(torch.int8), k.to(torch.int8), lengths, *none, *end),
        (q, k, k, lengths, None, torch.ones(2, 6, 2), None, None, *end),
        (q, k, k, lengths, None, None, None, torch.ones(3), *end),
        (q, k, k, lengths, *none, -1, 0.0, 1.0),
        (q, k, k, lengths, *none, 0, math.nan, 1.0),
    ):
        with pytest.raises(RuntimeError, match="gmkern:"):
            ops.attention(*given)
