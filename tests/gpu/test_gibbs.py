"""RBM.sample on a real GPU: units as they are written, chains by themselves, both ways of launching, captured."""

from __future__ import annotations

import copy

import pytest
import torch

from gmkern.classical import RBM
from gmkern.classical.gibbs import triton_kernels
from gmkern.random import reference as noise
from gmkern.random.streams import GIBBS
from gmkern.testing import tolerance

pytestmark = pytest.mark.gpu


def machine(visible: int, hidden: int) -> RBM:
    rbm = RBM(visible, hidden)
    for parameter in rbm.parameters():
        parameter.data.normal_(0.0, 0.3)
    return rbm.cuda()


@pytest.mark.parametrize(("n", "visible", "hidden"), [(1, 1, 1), (1000, 70, 45), (300, 784, 500), (20_000, 300, 20)])
def test_each_unit_is_the_comparison_that_is_written(n, visible, hidden):
    rbm = machine(visible, hidden)
    w, a, b = (p.detach() for p in (rbm.weight, rbm.visible_bias, rbm.hidden_bias))
    ids, seed, start = torch.arange(n).cuda(), torch.tensor(9).cuda(), torch.tensor(5).cuda()
    v = (torch.rand(n, visible, device="cuda") < 0.5).float()
    ours = torch.ops.gmkern.gibbs_chain(w, a, b, v, seed, ids, start, 1)
    for x, weight, bias, y, step in ((v, w, b, ours[1], 10), (ours[1], w.t(), a, ours[0], 11)):
        p = torch.sigmoid(x.double() @ weight.double().t() + bias.double())
        u = noise.uniform(seed, ids, torch.tensor(step).cuda(), len(bias), GIBBS, torch.float32).double()
        size = 0.25 * 250  # magnitudes that are added, by a slope of at most 1/4
        near = (u - p).abs() < tolerance(torch.float32, x.shape[1] + 1) * size
        assert torch.equal(y[~near].bool(), (u < p)[~near])
        assert near.float().mean() < 0.01


def test_a_chain_is_the_same_alone_cut_beside_others_and_launched_otherwise(monkeypatch):
    rbm = machine(300, 40)
    many = rbm.sample(500, steps=9, seed=3)
    part = torch.tensor([0, 77, 499])
    assert torch.equal(rbm.sample(3, steps=9, seed=3, sample_ids=part), many[part])
    half = rbm.sample(500, steps=4, seed=3)
    assert torch.equal(rbm.sample(500, steps=5, seed=3, initial=half, start_step=4), many)
    monkeypatch.setattr(triton_kernels, "_NARROW", 10**9)
    assert torch.equal(rbm.sample(500, steps=9, seed=3), many)
    assert not torch.equal(rbm.sample(500, steps=9, seed=4), many)
    cpu = copy.deepcopy(rbm).cpu().sample(500, steps=1, seed=3)
    assert (rbm.sample(500, steps=1, seed=3).cpu() != cpu).float().mean() < 1e-3


def test_graph_and_nothing_that_synchronises():
    for shape in ((300, 40), (70, 45)):  # a launch a layer, one launch
        rbm = machine(*shape)
        seed, ids = torch.tensor(1, device="cuda"), torch.arange(100, device="cuda")
        rbm.sample(100, steps=5, seed=seed, sample_ids=ids)  # compiles
        torch.cuda.set_sync_debug_mode("error")
        try:
            rbm.sample(100, steps=5, seed=seed, sample_ids=ids)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            captured = rbm.sample(100, steps=5, seed=seed, sample_ids=ids)
        seed.fill_(9)
        graph.replay()
        assert torch.equal(captured, rbm.sample(100, steps=5, seed=9))
