"""latent.sample on a real GPU: the decoder's values in float64, rows by themselves, captured, with gradients."""

from __future__ import annotations

import copy
import itertools

import pytest
import torch
from torch import nn

from gmkern import latent, random
from gmkern.random.streams import LATENT
from gmkern.testing import relative_error, tolerance

pytestmark = pytest.mark.gpu


def stack(widths, activation):
    parts = []
    for inputs, outputs in itertools.pairwise(widths):
        parts += [nn.Linear(inputs, outputs), activation()]
    return nn.Sequential(*parts[:-1]).cuda()


@pytest.mark.parametrize("activation", [nn.ReLU, nn.LeakyReLU, nn.ELU, nn.GELU, nn.SiLU, nn.Tanh, nn.Sigmoid])
@pytest.mark.parametrize(("n", "widths"), [(1, (1, 1)), (1000, (32, 128, 65, 17)), (40_000, (7, 300, 3))])
@pytest.mark.parametrize("wide", [False, True])
def test_values_and_gradients(activation, n, widths, wide):
    decoder = stack((*widths, 700) if wide else widths, activation)
    truth = copy.deepcopy(decoder).double()
    x = latent.sample(decoder, n, seed=3)
    z = random.normal(3, n, 0, widths[0], stream=LATENT).double().cuda()
    y, size = truth(z), z.abs()
    for module in truth:
        if isinstance(module, nn.Linear):
            size = 1.13 * size @ module.weight.detach().abs().t() + module.bias.detach().abs()
    limit = tolerance(torch.float32, max(widths) + 8) * 2 * len(widths)
    assert relative_error(x.detach(), y.detach(), size + 1e-3) < limit
    (x.square().sum() / n).backward()
    (y.square().sum() / n).backward()
    for ours, theirs in zip(decoder.parameters(), truth.parameters(), strict=True):
        scale = float(theirs.grad.abs().max())
        torch.testing.assert_close(ours.grad.double(), theirs.grad, rtol=0, atol=1e-3 * scale)  # torch's own products


def test_a_sample_depends_on_itself_alone():
    decoder = stack((16, 700, 9), nn.GELU).requires_grad_(False)
    whole = latent.sample(decoder, 30_000, seed=5)  # one launch
    part = torch.tensor([0, 77, 29_999])
    assert torch.equal(whole[part], latent.sample(decoder, 3, seed=5, sample_ids=part))  # a launch a layer


def test_graph():
    decoder = stack((16, 64, 9), nn.GELU).requires_grad_(False)
    seed, ids = torch.tensor(1, device="cuda"), torch.arange(500, device="cuda")
    latent.sample(decoder, 500, seed=seed, sample_ids=ids)  # compiles
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = latent.sample(decoder, 500, seed=seed, sample_ids=ids)
    seed.fill_(9)
    graph.replay()
    assert torch.equal(captured, latent.sample(decoder, 500, seed=9))
