"""Custom ops of torch drop forward-mode tangents in silence: the library refuses them, and the reference has them."""

import pytest
import torch
from torch.autograd import forward_ad

from gmkern.decode import token_logprobs
from gmkern.dynamics import LennardJones, VelocityVerlet, energy_and_forces, simulate
from gmkern.neighbors import knn

POINTS = 1.3 * torch.cartesian_prod(*[torch.arange(2.0, dtype=torch.float64)] * 3)
CALLS = {
    "neighbors.knn": (lambda x: knn(x, POINTS.flip(0) + 0.3).distances, POINTS),
    "decode.token_logprobs": (lambda z: token_logprobs(z, torch.arange(3)), torch.eye(3)),
    "energy_and_forces": (lambda x: energy_and_forces(LennardJones(), x).energy, POINTS),
    "simulate": (lambda x: simulate(LennardJones(), x, integrator=VelocityVerlet(0.01), steps=1).positions, POINTS),
}


@pytest.mark.parametrize("name", CALLS)
def test_forward_mode_is_refused(name):
    call, x = CALLS[name]
    with pytest.raises(RuntimeError, match=f"{name}: has no forward-mode derivative"):
        torch.func.jvp(call, (x,), (torch.ones_like(x),))
    with forward_ad.dual_level():
        call(x)  # nothing is asked of this one
        with pytest.raises(RuntimeError, match=f"{name}: has no forward-mode derivative"):
            call(forward_ad.make_dual(x, torch.ones_like(x)))


def test_the_reference_has_it():
    """Along a direction, the energy's slope is that direction times the forces, negated."""
    push = torch.randn(8, 3, dtype=torch.float64)
    _, slope = torch.func.jvp(
        lambda x: energy_and_forces(LennardJones(), x, backend="reference").energy, (POINTS,), (push,)
    )
    terms = push * energy_and_forces(LennardJones(), POINTS).forces
    # 28 pairs of terms below 4, each through some 30 roundings, times three coordinates
    assert abs(float(slope[0]) + float(terms.sum())) < 28 * 4 * 30 * 3 * 2**-53 * float(push.abs().max())
