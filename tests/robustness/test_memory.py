"""A thousand calls leave nothing behind: neither memory of the process, nor tensors."""

from __future__ import annotations

import ctypes
import gc
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import gmkern
from gmkern import classical, context, decode, dynamics, latent, metrics, neighbors

# What a call may leave on average, in bytes. A tensor that stayed would be 64 bytes of numbers and several hundred of
# its own; the allocator's arenas were seen to move by some 10 kB in all between two measures, which is 20 a call.
MOST = 96.0
CALLS, WARM = 1000, 300


def resident() -> int:
    """Bytes of its own that this process has in memory, once the allocator has given back what it can: pages of files,
    which the kernel drops and reads again, are not counted."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon:")) * 1024


def tensors() -> int:
    gc.collect()
    return sum(isinstance(thing, torch.Tensor) for thing in gc.get_objects())


def backward(value: torch.Tensor) -> None:
    value.sum().backward()


def jobs() -> dict[str, object]:
    """One small call of each op, with its gradient where it has one."""
    x, y = torch.randn(12, 5), torch.randn(20, 5)
    xg, yg = x.clone().requires_grad_(), y.clone().requires_grad_()
    low = torch.randn(30, 3)
    logits = torch.randn(4, 30, requires_grad=True)
    few = decode.SamplingParams(top_p=0.9, temperature=torch.full((4,), 0.7))
    model = decode.Transformer(decode.TransformerConfig(9, n_layers=1, n_heads=1, d_model=8, max_seq_len=8, bos_id=0))
    drawn = decode.generate(model, n=3, max_new_tokens=4, seed=0)
    q, cache = torch.randn(2, 2, 8, requires_grad=True), torch.randn(2, 6, 1, 8, requires_grad=True)
    held = torch.tensor([6, 3])
    cloud = (1.3 * torch.cartesian_prod(*[torch.arange(2.0)] * 3)).requires_grad_()
    field = dynamics.LennardJones(torch.tensor(1.0, requires_grad=True)) + dynamics.Harmonic(0.1)
    learned = dynamics.LearnedPair(
        nn.Sequential(nn.Linear(1, 4), nn.Tanh(), nn.Linear(4, 1)).double(), 2.0, intervals=8
    )
    egnn = dynamics.EGNN(8, 1, conservative=True)
    kicks = dynamics.EulerMaruyama(1e-3, 0.1)
    mlp = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2))
    rbm = classical.RBM(4, 3)
    mixture = classical.GaussianMixture(torch.tensor([0.5, 0.5]), torch.zeros(2, 5), torch.ones(2))

    def moved(with_gradient: bool) -> None:
        path = dynamics.simulate(
            field, cloud if with_gradient else cloud.detach(), integrator=kicks, steps=2, seed=0, log_prob=True,
            record_every=1,
        )  # fmt: skip
        if with_gradient:
            backward(path.log_prob_forward)

    def changed() -> None:
        """The parameters are new ones each time, as after a step of an optimiser."""
        with torch.no_grad():
            next(iter(model.parameters())).mul_(1.0)
        decode.generate(model, n=2, max_new_tokens=3, seed=0)

    def refused() -> None:
        with pytest.raises(ValueError, match="k: got 50"):
            neighbors.knn(x, y, 50)
        with pytest.raises(ValueError, match="queries: got nan"):
            neighbors.knn(x * torch.nan, y)

    return {
        "noise": lambda: gmkern.random.normal(0, 4, 0, 5),
        "knn": lambda: backward(neighbors.knn(xg, yg, 3).distances),
        "knn in a tree": lambda: neighbors.knn(low, k=2, exclude_self=True),
        "knn of arrays": lambda: neighbors.knn(x.numpy(), np.asfortranarray(y.numpy()), 2, metric="cosine"),
        "knn in blocks": lambda: neighbors.knn(x, iter(y.split(7)), 3),
        "count_within": lambda: neighbors.count_within(x, y, 2.0),
        "kernel_sum": lambda: backward(neighbors.kernel_sum(xg, yg, bandwidth=1.0)),
        "log_kernel_sum": lambda: backward(neighbors.log_kernel_sum(xg, yg, bandwidth=1.0)),
        "prdc": lambda: metrics.prdc(x, y, 3),
        "mmd": lambda: backward(metrics.mmd(xg, yg, bandwidth=1.0)),
        "evaluate": lambda: metrics.evaluate(x, y, k=2, resamples=2),
        "sample": lambda: decode.sample(logits, few, seed=0, sample_ids=range(4), step=0),
        "token_logprobs": lambda: backward(decode.token_logprobs(logits, torch.zeros(4, dtype=torch.int64), few)),
        "attention": lambda: backward(decode.attention(q, cache, cache, held).out),
        "generate": changed,
        "score": lambda: backward(decode.score(model, drawn.tokens, drawn.lengths)),
        "energy_and_forces": lambda: backward(dynamics.energy_and_forces(field, cloud).forces),
        "a learnt pair": lambda: backward(dynamics.energy_and_forces(learned, cloud).energy),
        "a learnt network": lambda: backward(dynamics.energy_and_forces(egnn, cloud).energy),
        "simulate": lambda: moved(False),
        "simulate, with gradients": lambda: moved(True),
        "neighbor_list": lambda: backward(dynamics.neighbor_list(cloud, 1.5).distance),
        "latent": lambda: backward(latent.sample(mlp, 5, seed=0)),
        "context": lambda: context.draw(y, 4, 3, seed=0),
        "rbm": lambda: rbm.sample(3, steps=2, seed=0),
        "mixture": lambda: (mixture.sample(4, seed=0), mixture.log_prob(x)),
        "errors": refused,
    }  # fmt: skip


@pytest.mark.parametrize("name", list(jobs()))
def test_a_thousand_calls_leave_nothing(name):
    call = jobs()[name]
    slow = name in ("evaluate", "simulate", "simulate, with gradients", "score", "a learnt pair", "a learnt network")
    calls, warm = (CALLS // 4, WARM // 4) if slow else (CALLS, WARM)
    for _ in range(warm):
        call()
    before, held = resident(), tensors()
    for _ in range(calls):
        call()
    assert tensors() <= held
    left = resident() - before
    assert left <= max(MOST * calls, 1 << 18), f"{left} bytes after {calls} calls"


def test_the_measure_can_fail():
    """A thousand tensors that stay are seen, by both measures."""
    kept: list[torch.Tensor] = []
    before, held = resident(), tensors()
    for _ in range(CALLS):
        kept.append(torch.ones(4096))  # holes that earlier tests left in the heap would take smaller ones
    assert tensors() >= held + CALLS
    assert resident() - before > MOST * CALLS
