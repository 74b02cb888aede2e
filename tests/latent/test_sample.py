"""latent.sample: the decoder in float64 on the contract's noise is the truth."""

from __future__ import annotations

import copy
import itertools
import sys

import pytest
import torch
from torch import nn

from gmkern import latent, random
from gmkern._library import ops
from gmkern.latent.sample.layers import NotLayers, read
from gmkern.random.streams import LATENT
from gmkern.testing import relative_error, run_isa, supported_isas, tolerance

pytestmark = pytest.mark.sanitize


def stack(widths, activation=nn.GELU, **more):
    parts = []
    for inputs, outputs in itertools.pairwise(widths):
        parts += [nn.Linear(inputs, outputs, **more), activation()]
    return nn.Sequential(*parts[:-1])


def noise(ids, dim, seed=3, dtype=torch.float32):
    return random.normal(seed, ids, 0, dim, stream=LATENT, dtype=dtype)


def truth(decoder, ids, dim):
    with torch.no_grad():
        return copy.deepcopy(decoder).double()(noise(ids, dim).double())


def bound(decoder, ids, dim):
    """Magnitudes of what is added, layer by layer: absolute weights on values; activations are 1.13-Lipschitz."""
    x = noise(ids, dim).double().abs()
    with torch.no_grad():
        for module in decoder.modules():
            if isinstance(module, nn.Linear):
                x = 1.13 * x @ module.weight.double().abs().t() + (
                    0 if module.bias is None else module.bias.double().abs()
                )
    return x


ACTIVATIONS = {
    "relu": nn.ReLU,
    "leaky": lambda: nn.LeakyReLU(0.2),
    "elu": lambda: nn.ELU(0.7),
    "gelu": nn.GELU,
    "gelu_tanh": lambda: nn.GELU("tanh"),
    "silu": nn.SiLU,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
}


@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("widths", [(1, 1), (7, 33, 5), (16, 48, 64, 17)])
def test_against_float64(name, widths):
    decoder = stack((*widths, 3), ACTIVATIONS[name])
    ids = torch.tensor([5, -1, 2**40, 0, 7] * 21)
    with torch.no_grad():
        x = latent.sample(decoder, len(ids), seed=3, sample_ids=ids, backend="cpu")
    layers = len(widths)
    limit = tolerance(torch.float32, max(widths) + 8) * layers
    assert relative_error(x, truth(decoder, ids, widths[0]), bound(decoder, ids, widths[0])) < limit


def test_small_negative_numbers_keep_their_digits_through_elu():
    decoder = nn.Sequential(nn.Linear(1, 1, bias=False), nn.ELU())
    decoder[0].weight.data.fill_(1e-5)
    with torch.no_grad():
        x = latent.sample(decoder, 500, seed=3, backend="cpu")
    assert relative_error(x, truth(decoder, 500, 1)) < 8 * 2.0**-24


def normed(seed=0):
    """Norms before and after activations, with statistics and weights that matter, in eval mode."""
    decoder = nn.Sequential(
        nn.Sequential(nn.Linear(6, 20), nn.BatchNorm1d(20), nn.ReLU()),
        nn.Dropout(0.5),
        nn.Linear(20, 9, bias=False),
        nn.Identity(),
        nn.Tanh(),
        nn.BatchNorm1d(9, affine=False),
        nn.Linear(9, 12),
        nn.Unflatten(1, (3, -1)),
    )
    generator = torch.Generator().manual_seed(seed)
    for module in decoder.modules():
        if isinstance(module, nn.BatchNorm1d):
            module.running_mean.normal_(generator=generator)
            module.running_var.uniform_(0.5, 2.0, generator=generator)
            if module.affine:
                module.weight.data.normal_(generator=generator)
                module.bias.data.normal_(generator=generator)
    return decoder.eval()


def test_norms_in_eval_mode_are_folded_in():
    decoder = normed()
    with torch.no_grad():
        x = latent.sample(decoder, 200, seed=3, backend="cpu")
    want = truth(decoder, 200, 6)
    assert x.shape == want.shape == (200, 3, 4)
    assert (x - want).abs().max() < tolerance(torch.float32, 40) * 60  # magnitudes up to 60 are added
    assert want.abs().max() < 60


def test_gradients_are_those_of_the_module():
    for decoder, dim in ((normed(), 6), (stack((5, 30, 30, 4), nn.SiLU), 5)):
        weight = torch.randn(300, 12 if dim == 6 else 4).reshape(300, *((3, 4) if dim == 6 else (4,)))
        (latent.sample(decoder, 300, seed=3, backend="cpu") * weight).sum().backward()
        exact = copy.deepcopy(decoder).double()
        exact.zero_grad()
        (exact(noise(300, dim).double()) * weight).sum().backward()
        for (name, got), want in zip(decoder.named_parameters(), exact.parameters(), strict=True):
            # Sums over 300 rows of terms whose own error is that of three layers of some 30 terms.
            limit = tolerance(torch.float32, 300) * 20 * want.grad.abs().max()
            assert (got.grad - want.grad).abs().max() < limit, name


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_each_activation_has_its_gradient(name):
    decoder = stack((4, 8, 8, 2), ACTIVATIONS[name])
    latent.sample(decoder, 50, seed=3, backend="cpu").square().sum().backward()
    exact = copy.deepcopy(decoder).double()
    exact.zero_grad()
    exact(noise(50, 4).double()).square().sum().backward()
    for got, want in zip(decoder.parameters(), exact.parameters(), strict=True):
        assert (got.grad - want.grad).abs().max() < tolerance(torch.float32, 50) * 20 * want.grad.abs().max()


def test_a_sample_is_the_same_alone_and_in_any_batch(monkeypatch):
    decoder = stack((9, 50, 21), nn.Tanh)
    ids = torch.arange(1000, 1301)
    with torch.no_grad():
        many = latent.sample(decoder, 301, seed=3, sample_ids=ids)
        for row in (0, 96, 300):
            assert torch.equal(latent.sample(decoder, 1, seed=3, sample_ids=ids[row : row + 1])[0], many[row])
        torch.set_num_threads(2)
        assert torch.equal(latent.sample(decoder, 301, seed=3, sample_ids=ids), many)
        torch.set_num_threads(1)
        one = torch.tensor([3])  # a seed for all rows
        assert torch.equal(latent.sample(decoder, 301, seed=one, sample_ids=ids, batch_size=100), many)
        in_pytorch = latent.sample(decoder, 301, seed=one, sample_ids=ids, batch_size=100, backend="reference")
        assert in_pytorch.shape == many.shape
        monkeypatch.setattr(sys.modules["gmkern.latent.sample.api"], "_SLICE", 77)
        assert torch.equal(latent.sample(decoder, 301, seed=3, sample_ids=ids), many)
        seeds = torch.where(torch.arange(301) < 100, 3, 4)
        mixed = latent.sample(decoder, 301, seed=seeds, sample_ids=ids)
    assert torch.equal(mixed[:100], many[:100])
    assert not torch.equal(mixed[100:], many[100:])  # the control


@pytest.mark.isas
@pytest.mark.parametrize("isa", supported_isas())
def test_each_instruction_set(isa):
    decoder = stack((9, 50, 21), nn.GELU)
    code = """
        from torch import nn
        from gmkern import latent
        decoder = nn.Sequential(nn.Linear(9, 50), nn.GELU(), nn.Linear(50, 21))
        decoder.load_state_dict(state)
        with torch.no_grad():
            out = {str(n): latent.sample(decoder, n, seed=3, backend="cpu") for n in (1, 7, 100)}
    """
    found = run_isa(isa, code, state=decoder.state_dict())
    assert torch.equal(found["1"], found["100"][:1])
    assert torch.equal(found["7"], found["100"][:7])
    limit = tolerance(torch.float32, 60) * 2
    assert relative_error(found["100"], truth(decoder, 100, 9), bound(decoder, 100, 9)) < limit


def test_other_decoders_run_in_pytorch_on_the_same_noise():
    convolutional = nn.Sequential(nn.Linear(4, 18), nn.Unflatten(1, (2, 3, 3)), nn.ConvTranspose2d(2, 1, 3, stride=2))
    with torch.no_grad():
        x = latent.sample(convolutional, 50, seed=3, batch_size=16)
    assert torch.allclose(x, convolutional(noise(50, 4)), atol=1e-6)
    doubled = stack((4, 6, 2)).double()
    with torch.no_grad():
        x = latent.sample(doubled, 9, seed=3)
    assert torch.equal(x, doubled(noise(9, 4, dtype=torch.float64)))
    # Gradients by checkpoints: with dropout, what is made again is what was made.
    noisy = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.LayerNorm(8), nn.Linear(8, 1, bias=False))
    x = latent.sample(noisy, 40, seed=3, batch_size=7)
    x.sum().backward()
    assert x.sum().item() == pytest.approx((noisy[3].weight.grad * noisy[3].weight).sum().item(), abs=1e-4)


def test_opcheck_and_fullgraph():
    decoder = stack((3, 5, 2))
    weights = [m.weight for m in decoder if isinstance(m, nn.Linear)]
    biases = [m.bias for m in decoder if isinstance(m, nn.Linear)]
    arguments = (torch.tensor(3), torch.arange(4), weights, biases, [4, 0], [0.0, 0.0])
    torch.library.opcheck(ops.latent_mlp.default, arguments)

    @torch.compile(fullgraph=True, backend="aot_eager")
    def loss(seed):
        return latent.sample(decoder, 8, seed=seed).square().sum()

    for seed in (1, 2):
        assert loss(torch.tensor(seed)) == latent.sample(decoder, 8, seed=seed).square().sum()


def test_decoders_that_are_not_layers_say_why():
    hooked = stack((3, 4))
    hooked[0].register_forward_hook(lambda *given: None)
    for decoder, match in (
        (nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4)), r"got LayerNorm \(1\)"),
        (nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Tanh()), r"one activation after each Linear, got Tanh \(2\)"),
        (nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)), "eval mode"),
        (nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.BatchNorm1d(4)).eval(), "after the last activation"),
        (nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.1)), "got Dropout"),
        (hooked, "hooks"),
        (stack((3, 4)).double(), "float32"),
        (nn.Sequential(), "at least one Linear"),
    ):
        with pytest.raises(NotLayers, match=match):
            read(decoder)
    with pytest.raises(ValueError, match=r"latent.sample: backend 'cpu' cannot .*LayerNorm"):
        latent.sample(nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4)), 3, seed=0, backend="cpu")


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"decoder": torch.sin}, TypeError, "decoder: got"),
        ({"n": -1}, ValueError, "n: got -1"),
        ({"latent_dim": 4}, ValueError, "latent_dim: got 4; takes 3"),
        ({"decoder": nn.Tanh()}, ValueError, "latent_dim: got None"),
        ({"sample_ids": [1]}, ValueError, "sample_ids: got"),
        ({"seed": None}, TypeError, "seed: got None"),
        ({"batch_size": 0}, ValueError, "batch_size: got 0"),
        ({"decoder": nn.Sequential(nn.Linear(3, 4), nn.Flatten(0)), "n": 3}, ValueError, "decoder: got a tensor"),
    ],
)
def test_bad_input_is_named(change, error, match):
    with pytest.raises(error, match=match):
        latent.sample(**({"decoder": stack((3, 4, 2)), "n": 2, "seed": 0} | change))
    assert latent.sample(stack((3, 4, 2)), 0, seed=0).shape == (0, 2)


def test_direct_calls_are_checked():
    seed, ids, w, b = torch.tensor(0), torch.arange(3), torch.zeros(4, 2), torch.zeros(4)
    for arguments in (
        (seed, ids, [], [], [], []),
        (seed, ids, [w], [b, b], [0], [0.0]),
        (seed, ids, [w], [b[:3]], [0], [0.0]),
        (seed, ids, [w.t()], [b], [0], [0.0]),
        (seed, ids, [w, w], [b, b], [0, 0], [0.0, 0.0]),
        (seed, ids, [w], [b], [9], [0.0]),
        (seed, ids, [w.double()], [b], [0], [0.0]),
        (seed[None].expand(2), ids, [w], [b], [0], [0.0]),
        (seed, ids, [w[:0]], [b[:0]], [0], [0.0]),
    ):
        with pytest.raises(RuntimeError, match="gmkern:"):
            ops.latent_mlp(*arguments)
