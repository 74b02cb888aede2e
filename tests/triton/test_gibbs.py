"""Block Gibbs chains in Triton, in the interpreter: each unit is the comparison that is written, with its uniform."""

from __future__ import annotations

import pytest
import torch

from gmkern.classical import RBM
from gmkern.classical.gibbs import triton_kernels
from gmkern.random import reference as noise
from gmkern.random.streams import GIBBS
from gmkern.testing import tolerance


@pytest.fixture(params=["one launch", "a launch a layer"])
def launches(request, monkeypatch):
    monkeypatch.setattr(triton_kernels, "_NARROW", 10**9 if request.param == "one launch" else 0)


def machine(visible: int, hidden: int) -> RBM:
    rbm = RBM(visible, hidden)
    for parameter in rbm.parameters():
        parameter.data.normal_(0.0, 0.3)
    return rbm


@pytest.mark.usefixtures("launches")
@pytest.mark.parametrize(("visible", "hidden"), [(70, 45), (1, 1), (5, 130)])
def test_each_unit_is_the_comparison_that_is_written(visible, hidden):
    """A unit is 1 where its uniform is below sigmoid, but for those nearer to it than rounding: two sweeps, each from
    what the one before gave."""
    rbm = machine(visible, hidden)
    w, a, b = (p.detach() for p in (rbm.weight, rbm.visible_bias, rbm.hidden_bias))
    ids, seed = torch.tensor([5, -1, 2**40, 0, 7] * 14), torch.tensor(9)
    v, drawn, excused = (torch.rand(70, visible) < 0.5).float(), 0, 0
    for t in (5, 6):
        ours = triton_kernels.gibbs_chain(w, a, b, v, seed, ids, torch.tensor(t), 1)
        for x, weight, bias, y, step in ((v, w, b, ours[1], 2 * t), (ours[1], w.t(), a, ours[0], 2 * t + 1)):
            p = torch.sigmoid(x.double() @ weight.double().t() + bias.double())
            u = noise.uniform(seed, ids, torch.tensor(step), len(bias), GIBBS, torch.float32).double()
            near = (u - p).abs() < tolerance(torch.float32, x.shape[1] + 1) * 30  # as in tests/classical
            assert torch.equal(y[~near].bool(), (u < p)[~near])
            drawn, excused = drawn + y.numel(), excused + int(near.sum())
        v = ours[0]
    assert excused <= 1e-3 * drawn


def test_a_chain_is_the_same_alone_cut_beside_others_and_launched_otherwise(monkeypatch):
    rbm, ids = machine(17, 9), torch.arange(50, 120)
    seeds = torch.randint(1 << 62, (70,))

    def sample(rows=slice(None), steps=3, **more):
        return rbm.sample(len(ids[rows]), steps=steps, seed=seeds[rows], sample_ids=ids[rows], backend="triton", **more)

    many = sample()
    assert torch.equal(sample(slice(64, 67)), many[64:67])
    half = sample(steps=1)
    assert torch.equal(sample(steps=2, initial=half, start_step=1), many)
    assert not torch.equal(sample(steps=2, initial=half), many)  # the control
    monkeypatch.setattr(triton_kernels, "_NARROW", 0)
    assert torch.equal(sample(), many)
    assert (rbm.sample(70, steps=3, seed=seeds, sample_ids=ids, backend="cpu") != many).float().mean() < 0.01
    one = rbm.sample(70, steps=3, seed=4, backend="triton")
    assert torch.equal(one, rbm.sample(70, steps=3, seed=torch.full((70,), 4), backend="triton"))


def test_nothing_to_do_and_what_is_lost():
    rbm = machine(6, 4)
    assert rbm.sample(0, steps=2, seed=1, backend="triton").shape == (0, 6)
    rbm.visible_bias.data[2] = torch.nan
    lost = rbm.sample(5, steps=2, seed=1, backend="triton")
    assert torch.equal(lost[:, 2], torch.zeros(5))  # no uniform is below NaN
    with pytest.raises(ValueError, match="triton: takes float32 parameters, got torch.float64"):
        rbm.double().sample(5, steps=2, seed=1, backend="triton")


def test_bad_arguments_are_named():
    ids, step = torch.arange(5), torch.tensor(0)
    good = [torch.zeros(3, 4), torch.zeros(4), torch.zeros(3), torch.zeros(5, 4), torch.tensor(1), ids, step, 2]
    for at, name, bad in [
        (0, "weight", torch.zeros(3, 4, dtype=torch.float64)),
        (1, "visible_bias", torch.zeros(3)),
        (2, "hidden_bias", torch.zeros(4)),
        (3, "visible", torch.zeros(5, 3)),
        (4, "seed", torch.zeros(2, dtype=torch.int64)),
        (5, "sample_ids", ids.int()),
        (6, "first_step", torch.zeros(5, dtype=torch.int64)),
        (7, "steps", 0),
    ]:
        with pytest.raises(ValueError, match=f"^{name}: got"):
            triton_kernels.gibbs_chain(*good[:at], bad, *good[at + 1 :])
