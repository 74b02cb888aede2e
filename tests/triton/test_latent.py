"""latent.sample in Triton, in the interpreter: the decoder in float64 on the contract's noise is the truth."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn

from gmkern import latent, random
from gmkern.latent.sample import triton_kernels
from gmkern.random.streams import LATENT
from gmkern.testing import relative_error, tolerance

ACTIVATIONS = {
    "identity": nn.Identity,
    "relu": nn.ReLU,
    "leaky": lambda: nn.LeakyReLU(0.2),
    "elu": lambda: nn.ELU(0.7),
    "gelu": nn.GELU,
    "gelu_tanh": lambda: nn.GELU("tanh"),
    "silu": nn.SiLU,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
}


def stack(widths, activation=nn.GELU):
    torch.manual_seed(len(widths))
    parts = []
    for inputs, outputs in itertools.pairwise(widths):
        parts += [nn.Linear(inputs, outputs), activation()]
    return nn.Sequential(*parts[:-1]).requires_grad_(False)


def truth(decoder, ids, dim, seed=3):
    """The samples, and the magnitudes of what they are sums of; activations are 1.13-Lipschitz."""
    z = random.normal(seed, ids, 0, dim, stream=LATENT, backend="reference").double()
    size = z.abs()
    for module in decoder:
        z = module.double()(z)
        if isinstance(module, nn.Linear):
            size = 1.13 * size @ module.weight.abs().t() + module.bias.abs()
    decoder.float()
    return z, size


@pytest.fixture(params=["one launch", "a launch a layer"])
def launches(request, monkeypatch):
    monkeypatch.setattr(triton_kernels, "_NARROW", 10**9 if request.param == "one launch" else 0)


@pytest.mark.usefixtures("launches")
@pytest.mark.parametrize(
    ("name", "widths"), [("gelu", (1, 1)), ("relu", (16, 48, 65, 17)), *((name, (7, 33, 5)) for name in ACTIVATIONS)]
)
def test_against_float64(name, widths):
    decoder = stack((*widths, 3), ACTIVATIONS[name])
    ids = torch.tensor([5, -1, 2**40, 0, 7] * 14)
    x = latent.sample(decoder, len(ids), seed=3, sample_ids=ids, backend="triton")
    z, size = truth(decoder, ids, widths[0])
    assert relative_error(x, z, size + 1e-3) < tolerance(torch.float32, max(widths) + 8) * len(widths)


def test_small_negative_numbers_keep_their_digits_through_elu():
    decoder = nn.Sequential(nn.Linear(1, 1, bias=False), nn.ELU()).requires_grad_(False)
    decoder[0].weight.fill_(1e-5)
    x = latent.sample(decoder, 200, seed=3, backend="triton")
    z = random.normal(3, 200, 0, 1, stream=LATENT).double() * decoder[0].weight.double()
    assert relative_error(x, nn.functional.elu(z)) < 8 * 2.0**-24


@pytest.mark.usefixtures("launches")
def test_the_noise_is_the_contract_s():
    for dim in (1, 6, 130):
        decoder = nn.Sequential(nn.Linear(dim, dim, bias=False)).requires_grad_(False)
        decoder[0].weight.copy_(torch.eye(dim))
        x = latent.sample(decoder, 70, seed=-4, backend="triton")
        assert torch.equal(x, random.normal(-4, 70, 0, dim, stream=LATENT, backend="reference"))


def test_a_sample_depends_on_itself_alone(monkeypatch):
    decoder, ids = stack((5, 70, 40, 9)), torch.randperm(1 << 40 >> 30)[:150]
    seeds = torch.randint(1 << 62, (150,))
    whole = latent.sample(decoder, 150, seed=seeds, sample_ids=ids, backend="triton")
    monkeypatch.setattr(triton_kernels, "_FULL", 2)  # programs take tiles in turn
    assert torch.equal(whole, latent.sample(decoder, 150, seed=seeds, sample_ids=ids, backend="triton"))
    part = torch.tensor([149, 3, 64])
    assert torch.equal(whole[part], latent.sample(decoder, 3, seed=seeds[part], sample_ids=ids[part], backend="triton"))
    monkeypatch.setattr(triton_kernels, "_FULL", 264)
    monkeypatch.setattr(triton_kernels, "_NARROW", 0)
    assert torch.equal(whole, latent.sample(decoder, 150, seed=seeds, sample_ids=ids, backend="triton"))
    other = latent.sample(decoder, 3, seed=seeds[part] + 1, sample_ids=ids[part], backend="triton")
    assert not torch.equal(whole[part], other)


@pytest.mark.usefixtures("launches")
def test_edges():
    decoder = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Unflatten(1, (2, 3))).requires_grad_(False)
    assert latent.sample(decoder, 0, seed=1, backend="triton").shape == (0, 2, 3)
    assert latent.sample(decoder, 1, seed=1, backend="triton").shape == (1, 2, 3)
    decoder[0].bias[2] = torch.nan
    x = latent.sample(decoder, 3, seed=1, backend="triton").flatten(1)
    assert x[:, 2].isnan().all()
    assert x.isnan().sum() == 3
    with pytest.raises(ValueError, match="gradient"):
        latent.sample(nn.Linear(2, 2), 3, seed=1, backend="triton")
