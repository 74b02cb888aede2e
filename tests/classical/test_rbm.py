"""RBM against exact enumeration of a tiny machine, and its chains against the written sweep."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from scipy.stats import chi2

from gmkern._library import ops
from gmkern.classical import RBM
from gmkern.classical.gibbs import reference
from gmkern.random import reference as noise
from gmkern.random.streams import GIBBS
from gmkern.testing import run_isa, supported_isas, tolerance

pytestmark = pytest.mark.sanitize


def machine(visible=4, hidden=3, scale=1.0):
    rbm = RBM(visible, hidden)
    generator = torch.Generator().manual_seed(1)
    for parameter in rbm.parameters():
        parameter.data.normal_(0.0, scale, generator=generator)
    return rbm


def exact(rbm):
    """p(v) over all states, from the joint sum over v and h."""
    states = torch.tensor(list(itertools.product((0.0, 1.0), repeat=rbm.weight.shape[1])), dtype=torch.float64)
    hiddens = torch.tensor(list(itertools.product((0.0, 1.0), repeat=rbm.weight.shape[0])), dtype=torch.float64)
    w, a, b = (p.detach().double() for p in (rbm.weight, rbm.visible_bias, rbm.hidden_bias))
    energy = hiddens @ w @ states.t() + states @ a + (hiddens @ b)[:, None]
    return states, energy.exp().sum(0) / energy.exp().sum(), math.log(energy.exp().sum())


def test_free_energy_and_partition_are_the_joint_s():
    for shape in ((4, 3), (3, 5)):
        rbm = machine(*shape)
        states, p, log_z = exact(rbm)
        assert float(rbm.log_partition().detach()) == pytest.approx(log_z, rel=1e-12)
        torch.testing.assert_close(rbm.double().log_prob(states).exp(), p, rtol=1e-10, atol=0)
    with pytest.raises(ValueError, match="25 units"):
        RBM(30, 25).log_partition()


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_chains_reach_the_exact_law(backend):
    """Chi-square of 16 states' counts over 20,000 chains of 60 sweeps, p > 1e-6 under the exact law."""
    rbm, n = machine(), 20_000
    _, p, _ = exact(rbm)
    v = rbm.sample(n, steps=60, seed=3, backend=backend)
    counts = torch.bincount((v @ torch.tensor([8.0, 4.0, 2.0, 1.0])).long(), minlength=16)
    assert float(((counts - n * p) ** 2 / (n * p)).sum()) < chi2.isf(1e-6, 15)


@pytest.mark.isas
@pytest.mark.parametrize("isa", supported_isas())
def test_each_unit_is_the_comparison_that_is_written(isa):
    """A sweep: a unit is 1 where its uniform is below sigmoid, but for those nearer to it than rounding."""
    rbm = machine(70, 45, 0.3)
    v = (torch.rand(101, 70) < 0.5).float()
    w, a, b = (p.detach() for p in (rbm.weight, rbm.visible_bias, rbm.hidden_bias))
    given = (w, a, b, v, torch.tensor(9), torch.arange(101), torch.tensor(5))
    code = "import gmkern; out = dict(zip('vh', torch.ops.gmkern.gibbs_chain(*given.values(), 1)))"
    found = run_isa(isa, code, given={str(i): value for i, value in enumerate(given)})
    for x, weight, bias, y, step in ((v, w, b, found["h"], 10), (found["h"], w.t(), a, found["v"], 11)):
        p = torch.sigmoid(x.double() @ weight.double().t() + bias.double())
        u = noise.uniform(given[4], given[5], torch.tensor(step), len(bias), GIBBS, torch.float32).double()
        near = (u - p).abs() < tolerance(torch.float32, 71) * 30  # magnitudes up to 30 are added, slope at most 1/4
        assert torch.equal(y[~near].bool(), (u < p)[~near])
        assert near.float().mean() < 0.001


def test_a_chain_is_the_same_alone_cut_and_beside_others():
    rbm = machine(17, 9)
    ids = torch.arange(50, 160)
    many = rbm.sample(110, steps=7, seed=3, sample_ids=ids)
    for row in (0, 48, 109):
        assert torch.equal(rbm.sample(1, steps=7, seed=3, sample_ids=ids[row : row + 1])[0], many[row])
    half = rbm.sample(110, steps=3, seed=3, sample_ids=ids)
    assert torch.equal(rbm.sample(110, steps=4, seed=3, sample_ids=ids, initial=half, start_step=3), many)
    assert not torch.equal(rbm.sample(110, steps=4, seed=3, sample_ids=ids, initial=half), many)  # the control
    torch.set_num_threads(2)
    assert torch.equal(rbm.sample(110, steps=7, seed=3, sample_ids=ids), many)
    torch.set_num_threads(1)
    weights = (rbm.weight, rbm.visible_bias, rbm.hidden_bias)
    given = (many, torch.tensor(3), ids, torch.tensor(0))
    ours, theirs = ops.gibbs_chain(*weights, *given, 1), reference.gibbs_chain(*weights, *given, 1)
    assert (ours[0] != theirs[0]).float().mean() < 0.01  # a uniform within rounding of its probability is rare


def test_training_raises_the_exact_likelihood():
    bars = torch.zeros(6, 9)
    for i in range(3):
        bars[i].view(3, 3)[i] = 1
        bars[3 + i].view(3, 3)[:, i] = 1
    data = bars.repeat(20, 1)
    rbm = RBM(9, 8, seed=2)
    before = float(rbm.log_prob(bars).mean().detach())
    rbm.fit(data, epochs=150, seed=4, learning_rate=0.2, batch_size=30, chains=60)
    after = float(rbm.log_prob(bars).mean().detach())
    assert before == pytest.approx(-9 * math.log(2), abs=0.1)
    assert after > before / 2  # six patterns of 512: -log 6 = -1.79 is the best there is
    again = RBM(9, 8, seed=2).fit(data, epochs=2, seed=4)
    assert torch.equal(again.weight, RBM(9, 8, seed=2).fit(data, epochs=2, seed=4).weight)


def test_opcheck():
    rbm = machine(5, 3)
    weights = [p.detach() for p in (rbm.weight, rbm.visible_bias, rbm.hidden_bias)]
    chain = (torch.zeros(4, 5), torch.tensor(1), torch.arange(4), torch.tensor(2), 3)
    torch.library.opcheck(ops.gibbs_chain.default, (*weights, *chain))


def test_a_rate_that_the_weights_cannot_hold_is_named():
    with pytest.raises(ValueError, match=r"learning_rate: got 1e\+300; takes a finite number <= 3.4"):
        machine().fit(torch.zeros(2, 4), learning_rate=1e300, epochs=1, seed=0)


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"n": -1}, ValueError, "n: got -1"),
        ({"steps": 0}, ValueError, "steps: got 0"),
        ({"start_step": 2**31}, ValueError, "start_step: got"),
        ({"initial": torch.zeros(3, 4)}, ValueError, "initial: got"),
        ({"initial": torch.full((2, 4), 2.0)}, ValueError, "initial: got a number outside"),
        ({"backend": "triton"}, ValueError, "backend"),
    ],
)
def test_bad_input_is_named(change, error, match):
    with pytest.raises(error, match=match):
        machine().sample(**({"n": 2, "steps": 1, "seed": 0} | change))
    with pytest.raises(ValueError, match="data: got"):
        machine().fit(torch.zeros(0, 4), epochs=1, seed=0)
    assert machine().sample(0, steps=2, seed=0).shape == (0, 4)
