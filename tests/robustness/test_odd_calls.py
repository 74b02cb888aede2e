"""Calls that are right but rare, and wrong ones that look right: each once gave a wrong number, or was refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from gmkern import context, decode, dynamics, latent, metrics, neighbors, random
from gmkern.testing import tolerance


@pytest.mark.parametrize("scale", [0.0, -1.0, -0.3, 1e-300])
@pytest.mark.parametrize("cap", [None, 2.0])
def test_scores_of_any_sign(scale, cap):
    """Places that are not seen weigh nothing whatever the scale, 0 and below among them; sums of 9 and of 8 terms."""
    q, cache, held = torch.randn(3, 4, 8), torch.randn(3, 9, 2, 8), torch.tensor([9, 0, 5])
    got = decode.attention(q, cache, cache, held, scale=scale, softcap=cap)
    want = decode.attention(q.double(), cache.double(), cache.double(), held, scale=scale, softcap=cap)
    bound = 64 * tolerance(torch.float32, 9)
    torch.testing.assert_close(got.out.double(), want.out, rtol=bound, atol=bound)
    torch.testing.assert_close(got.lse.double(), want.lse, rtol=bound, atol=bound)


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize("place", [0, 299])  # of the first split, or of the one folded into it
def test_a_score_of_infinity(place, backend):
    q, cache = torch.ones(2, 2, 8), torch.randn(2, 300, 1, 8)
    cache[1, place] = torch.inf
    out, lse = decode.attention(q, cache, cache.nan_to_num(0, 0), torch.tensor([300, 300]), backend=backend)
    for x in (out, lse):
        assert x[1].isnan().all()
        assert x[0].isfinite().all()


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize("hidden", [range(256), range(256, 300), range(300)])  # a split, its last or both
def test_scores_that_sink_to_minus_infinity(hidden, backend):
    """Products of finite numbers, beyond float32: their places weigh nothing, and where they are all, 0 comes out."""
    q = torch.full((1, 2, 8), -1e20, requires_grad=True)
    cache = torch.zeros(1, 300, 1, 8)
    cache[0, list(hidden)] = 1e20
    out, lse = decode.attention(q, cache, torch.ones_like(cache), torch.tensor([300]), backend=backend)
    left = 300 - len(hidden)
    torch.testing.assert_close(out, torch.full_like(out, float(left > 0)), rtol=1e-5, atol=0)  # a sum of 300 ones
    torch.testing.assert_close(lse, torch.full_like(lse, float(left)).log(), rtol=1e-5, atol=0)
    if backend == "cpu":  # torch's own logsumexp has none there
        assert torch.autograd.grad(out.sum(), q)[0].isfinite().all()


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_a_cap_on_infinity(backend):
    """tanh of -infinity is -1: such a place is seen, and weighs what the cap says."""
    cache = torch.zeros(1, 20, 1, 8)
    cache[0, 7] = torch.inf
    q, held = torch.full((1, 1, 8), -1.0), torch.tensor([20])
    lse = decode.attention(q, cache, torch.ones_like(cache), held, softcap=2.0, backend=backend).lse
    torch.testing.assert_close(lse, torch.tensor([[19.0 + 0.1353352832]]).log(), rtol=1e-5, atol=0)  # 19 + exp(-2)


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_numbers_that_a_query_does_not_see(backend):
    """They may be anything: a later position's, or what the window leaves behind."""
    q, cache, held = torch.randn(1, 20, 2, 8), torch.randn(1, 40, 1, 8), torch.tensor([40])
    values = cache.clone()
    values[0, [0, 35]] = torch.nan  # positions of the queries: 20 to 39
    out = decode.attention(q, cache, values, held, window=17, backend=backend).out
    want = decode.attention(q, cache, cache, held, window=17, backend=backend).out
    assert torch.equal(out[:, :15], want[:, :15])
    assert out[:, 15:].isnan().all()


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_large_exponent(dtype, backend):
    """(1 + x / alpha)^-alpha is exp(-x) when alpha is large: x here is the squared distance over twice h squared."""
    x, y = torch.randn(5, 3, dtype=dtype), torch.randn(9, 3, dtype=dtype)
    got = neighbors.log_kernel_sum(x, y, kernel="rational_quadratic", bandwidth=1.5, alpha=1e12, backend=backend)
    bound = 8 * torch.finfo(dtype).eps * 20 + 1e-9  # of exponents up to 20, and of the limit: x^2 / alpha
    torch.testing.assert_close(got, neighbors.log_kernel_sum(x, y, bandwidth=1.5), rtol=0, atol=bound)


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_pages_beyond_32_bits(backend):
    """A page of 64 bits whose lower half is that of a page that is there."""
    q, pages, table = torch.randn(1, 2, 8), torch.randn(3, 4, 2, 8), torch.tensor([[1, 2**32]])
    decode.attention(q, pages, pages, torch.tensor([4]), page_table=table, backend=backend)  # not read
    with pytest.raises(ValueError, match="^page_table"):
        decode.attention(q, pages, pages, torch.tensor([5]), page_table=table, backend=backend)
    with pytest.raises(ValueError, match="^lengths"):
        decode.attention(q, pages, pages, torch.tensor([2**32 + 1]), page_table=table, backend=backend)


def test_a_decoder_with_a_module_that_comes_again():
    again = nn.Linear(4, 4)
    decoder = nn.Sequential(again, nn.Tanh(), again, nn.Tanh(), nn.Linear(4, 3))
    z = random.normal(1, 5, 0, 4, stream=random.LATENT)
    got, want = latent.sample(decoder, 5, seed=1, backend="cpu"), decoder(z)
    bound = 64 * tolerance(torch.float32, 4)
    torch.testing.assert_close(got, want, rtol=bound, atol=bound)
    for one, other in zip(*(torch.autograd.grad(x.sum(), again.parameters()) for x in (got, want)), strict=True):
        torch.testing.assert_close(one, other, rtol=8 * bound, atol=8 * bound)  # of 5 samples


@pytest.mark.parametrize("kernel", ["rbf", "laplace", "rational_quadratic", "inverse_multiquadric"])
@pytest.mark.parametrize("bandwidth", [-1.0, 0, torch.tensor(-1.0), torch.tensor([1.0, -1.0, 1.0])])
@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_bandwidths_that_are_not_positive(kernel, bandwidth, backend):
    with pytest.raises(ValueError, match="^bandwidth.*got -?[0-9].*takes .*(> 0|positive)"):
        neighbors.kernel_sum(torch.zeros(3, 2), kernel=kernel, bandwidth=bandwidth, backend=backend)


@pytest.mark.parametrize(
    "one", [np.float32(1.5), np.float64(1.5), np.int64(1), torch.tensor(1.5), np.array(1.5, np.float32)]
)
def test_one_number_of_any_kind(one):
    x = torch.randn(5, 3)
    plain = float(one)
    assert torch.equal(neighbors.count_within(x, x, one), neighbors.count_within(x, x, plain))
    assert torch.equal(neighbors.count_within(x, iter(x.split(2)), one), neighbors.count_within(x, x, plain))
    sums = [neighbors.kernel_sum(x, bandwidth=h, weights=h) for h in (one, plain)]
    assert torch.equal(*sums)


@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("sample_ids", lambda: random.normal(0, [[1, 2], [3]], 0, 2)),
        ("system_ptr", lambda: dynamics.neighbor_list(torch.zeros(3, 2), 1.0, system_ptr=[0, [1], 3])),
        ("types", lambda: dynamics.energy_and_forces(dynamics.WCA([1.0, 2.0]), torch.eye(3), types=[0, [1], 0])),
        ("model", lambda: context.sample(None, torch.zeros(3, 2), 2, 1, seed=0)),
    ],
)
def test_what_is_no_list_of_ints_or_no_function(name, call):
    with pytest.raises(TypeError, match=f"^{name}: got .*; takes"):
        call()


@pytest.mark.parametrize("name", ["log_prob", "detach_path"])
def test_texts_are_no_flags_of_simulate(name):
    with pytest.raises(TypeError, match=f"^{name}: got 'no'"):
        dynamics.simulate(
            dynamics.Harmonic(), torch.eye(2), integrator=dynamics.EulerMaruyama(0.1, 1.0), steps=1, seed=0,
            **{name: "no"},
        )  # fmt: skip


def test_ranges_are_ints():
    x = torch.randn(4, 3)
    field = dynamics.LennardJones(torch.rand(4).tolist())
    listed = dynamics.energy_and_forces(field, x, types=[0, 1, 2, 3], system_ptr=[0, 2, 4])
    assert torch.equal(dynamics.energy_and_forces(field, x, types=range(4), system_ptr=range(0, 5, 2))[0], listed[0])


def test_numbers_of_force_fields_in_arrays_backwards():
    x, types = torch.randn(2, 3), [0, 1]
    for given in (np.array([1.0, 2.0])[::-1], np.array([2.0, 1.0], ">f8")):
        field = dynamics.LennardJones(given, given) + dynamics.Harmonic(given, np.arange(3.0)[::-1])
        plain = dynamics.LennardJones([2.0, 1.0], [2.0, 1.0]) + dynamics.Harmonic([2.0, 1.0], [2.0, 1.0, 0.0])
        got, want = (dynamics.energy_and_forces(f, x, types=types) for f in (field, plain))
        assert torch.equal(got.forces, want.forces)
        systems = x[:, None]
        ways = [dynamics.EulerMaruyama(0.1, each) for each in (given, [2.0, 1.0])]
        got, want = (
            dynamics.simulate(dynamics.Harmonic(), systems, integrator=way, steps=1, seed=0).positions for way in ways
        )
        assert torch.equal(got, want)


def test_the_default_dtype_changes_no_compiled_sequence():
    torch.manual_seed(0)
    shape = {"n_layers": 1, "n_heads": 1, "d_model": 8, "max_seq_len": 8, "bos_id": 0}
    for position in ("rope", "learned"):
        model = decode.Transformer(decode.TransformerConfig(9, position=position, **shape)).eval()

        def drawn(model=model):
            done = decode.generate(model, n=2, max_new_tokens=4, seed=0, num_samples=1)
            guided = decode.generate(
                model, [[1, 2], [3]], max_new_tokens=3, seed=0, guidance=decode.Guidance(1.5, [[0]]), num_samples=2
            )
            return done.logprobs, guided.logprobs, decode.score(model, done.tokens, done.lengths).detach()

        want = drawn()
        torch.set_default_dtype(torch.float64)
        try:
            got = drawn()
        finally:
            torch.set_default_dtype(torch.float32)
        assert all(torch.equal(one, other) for one, other in zip(got, want, strict=True))


def test_autocast_rounds_no_projection():
    x, y = torch.randn(20, 5), torch.randn(15, 5)
    want = metrics.sliced_wasserstein(x, y, seed=0)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(metrics.sliced_wasserstein(x, y, seed=0), want)


def test_an_order_of_numpys():
    assert metrics.vendi_score(torch.eye(4), q=np.float32(2)) == metrics.vendi_score(torch.eye(4), q=2)


def test_a_cell_of_no_rows():
    with pytest.raises(ValueError, match="^cell: "):
        dynamics.neighbor_list(torch.zeros(1, 2), 0.5, cell=torch.zeros(0, 2), pbc=True)


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_what_holds_no_numbers():
    """A model on meta and a nested tensor are named, not left to an error of PyTorch's."""
    config = decode.TransformerConfig(17, n_layers=1, n_heads=2, d_model=8, max_seq_len=32, bos_id=0)
    model = decode.Transformer(config).to("meta")
    with pytest.raises(ValueError, match="^model: got .*embedding.weight is on meta"):
        decode.generate(model, n=2, max_new_tokens=3, seed=1)
    with pytest.raises(ValueError, match="^model: got .* on meta"):
        decode.score(model, torch.zeros(2, 3, dtype=torch.int64), torch.tensor([3, 2]))
    with pytest.raises(ValueError, match="^decoder: got .*0.weight is on meta"):
        latent.sample(nn.Sequential(nn.Linear(4, 4)).to("meta"), 5, seed=1)
    for layout in (torch.strided, torch.jagged):
        nested = torch.nested.nested_tensor([torch.zeros(3, 2), torch.zeros(2, 2)], layout=layout)
        with pytest.raises(TypeError, match="^queries: got .*a dense real tensor"):
            neighbors.knn(nested, k=1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_more_than_memory_holds(dtype):
    """PyTorch's stable interface says of a failed allocation only where it was noticed."""
    with pytest.raises(RuntimeError, match="^out of memory: gmkern asked for a tensor of shape .*1099511627776"):
        dynamics.neighbor_list(torch.zeros(3, 2, dtype=dtype), 1.0, capacity=2**40)


def test_several_bandwidths_of_any_kind():
    x, y = torch.randn(9, 2), torch.randn(7, 2)
    want = metrics.mmd(x, y, bandwidth=[1.0, 2.0])
    for several in ((1.0, 2.0), np.array([1.0, 2.0]), torch.tensor([1.0, 2.0]), range(1, 3)):
        assert torch.equal(metrics.mmd(x, y, bandwidth=several), want)
    assert torch.equal(metrics.mmd(x, y, bandwidth=torch.tensor(2.0)), metrics.mmd(x, y, bandwidth=2.0))
    for wrong in (torch.tensor([1.0, -2.0]), torch.ones(1, 2), torch.ones(2, requires_grad=True), []):
        with pytest.raises(ValueError, match="^bandwidth: got .*takes "):
            metrics.mmd(x, y, bandwidth=wrong)


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_scales_of_any_sign(backend):
    q, cache, held = torch.randn(2, 4, 8), torch.randint(-9, 9, (2, 20, 2, 8), dtype=torch.int8), torch.tensor([20, 3])
    k_scale, v_scale = torch.tensor([0.1, -0.2]), torch.tensor([-0.3, 0.0])
    got = decode.attention(q, cache, cache, held, k_scale=k_scale, v_scale=v_scale, backend=backend)
    want = decode.attention(q, cache * k_scale[:, None], cache * v_scale[:, None], held, backend="reference")
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)
