"""context.sample and the network over sets."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from gmkern import context, random
from gmkern.random.streams import CONTEXT


def test_the_model_sees_the_drawn_sets_and_the_noise():
    train = torch.randn(30, 4)
    ids = torch.tensor([4, 9, 1, 7, 2])
    seen = []

    def model(points, noise):
        seen.append((points, noise))
        return points.mean(1) + noise.sum(1, keepdim=True)

    x = context.sample(model, train, 5, 3, seed=6, sample_ids=ids, noise_dim=2, batch_size=2)
    points, noise = (torch.cat(parts) for parts in zip(*seen, strict=True))
    assert [len(part) for part, _ in seen] == [2, 2, 1]
    assert torch.equal(points, context.draw(train, 5, 3, seed=6, sample_ids=ids).points)
    assert torch.equal(noise, random.normal(6, ids, 1, 2, stream=CONTEXT))
    assert torch.equal(x, model(points, noise))


def test_a_sample_does_not_depend_on_its_batch():
    train = torch.randn(30, 4)
    ids = torch.arange(20)

    def all_of(**more):
        return context.sample(lambda points: points.sum(1), train, 20, 3, seed=6, sample_ids=ids, **more)

    assert torch.equal(all_of(), all_of(batch_size=7))
    assert context.sample(lambda points: points.sum(1), train, 0, 3, seed=6).shape == (0, 4)


@pytest.mark.parametrize("noise_dim", [0, 3])
def test_the_network_does_not_know_the_order_of_a_set(noise_dim):
    torch.manual_seed(0)
    network = context.SetTransformer([2, 5], noise_dim=noise_dim, width=16, heads=2).double()
    points = torch.randn(6, 10, 2, 5, dtype=torch.float64)
    noise = (torch.randn(6, noise_dim, dtype=torch.float64),) if noise_dim else ()
    x = network(points, *noise)
    assert x.shape == (6, 2, 5)
    # Sums over the set in another order: rounding alone, of numbers near 1, through some 20 layers.
    assert (network(points[:, torch.randperm(10)], *noise) - x).abs().max() < 1e-12
    assert (network(points.flip(0), *noise) - x).abs().max() > 1e-3  # the control: another set matters


def test_gradients_reach_the_parameters():
    network = context.SetTransformer([4], noise_dim=2, width=8, heads=2, layers=1)
    context.sample(network, torch.randn(9, 4), 6, 3, seed=1, noise_dim=2).square().sum().backward()
    assert all(parameter.grad is not None and parameter.grad.abs().max() > 0 for parameter in network.parameters())


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"noise_dim": -1}, ValueError, "noise_dim: got -1"),
        ({"batch_size": 0}, ValueError, "batch_size: got 0"),
        ({"size": 10}, ValueError, "size: got 10"),
        ({"model": lambda points: 3}, ValueError, "model: got 3"),
        ({"model": lambda points: points[:1]}, ValueError, "model: got a tensor of shape"),
        ({"model": context.SetTransformer([5])}, ValueError, "points: got"),
        ({"model": context.SetTransformer([4], noise_dim=2)}, ValueError, "noise: got None"),
        ({"model": nn.Identity(), "progress": 1}, TypeError, "progress: got 1"),
    ],
)
def test_bad_input_is_named(change, error, match):
    arguments = {"model": lambda points: points[:, 0], "train": torch.zeros(9, 4), "n": 4, "size": 3, "seed": 0}
    with pytest.raises(error, match=match):
        context.sample(**(arguments | change))
