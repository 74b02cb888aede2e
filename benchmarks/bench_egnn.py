"""An EGNN's step beside eager PyTorch.

A step is the velocity at every atom and the gradients of a loss of it in positions and parameters; a look is the
velocity alone. "pairs" is PyTorch with all pairs of a batch at once, [S, N, N, H], the first product split between the
two atoms (gmkern's own reference); "edges" is the list of edges of the published code, [E, 2 H + 1], summed by
index_add.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from _case import OURS, Case, Run, across
from torch import Tensor
from torch.nn.functional import silu

from gmkern.dynamics import EGNN

WIDTH, LAYERS = 64, 4
MESSAGE_FLOP = 2 * 2 * WIDTH * WIDTH  # of the two products of a message, forward


class Batch(NamedTuple):
    network: EGNN
    x: Tensor  # [S, N, 3]
    t: Tensor  # [S]


def batch(systems: int, atoms: int) -> Batch:
    torch.manual_seed(0)
    network = EGNN(WIDTH, LAYERS, neighbors=atoms - 1)
    for layer in network.layers:  # a field of order 1, as after training
        torch.nn.init.normal_(layer.move_out.weight, std=0.5)
    return Batch(network, 2.0 * torch.randn(systems, atoms, 3), torch.rand(systems))


def by_ours(given: Batch) -> Tensor:
    return given.network(given.x, given.t, backend="cpu")


def by_pairs(given: Batch) -> Tensor:
    return given.network(given.x, given.t, backend="reference")


def by_edges(given: Batch) -> Tensor:
    """The layers as the published code has them: gathered edges, concatenated inputs, index_add."""
    network, x, t = given
    systems, atoms, _ = x.shape
    assert network.of_time is not None
    i, j = (~torch.eye(atoms, dtype=torch.bool)).nonzero().unbind(1)
    first = atoms * torch.arange(systems)[:, None]
    i, j = (first + i).reshape(-1), (first + j).reshape(-1)
    start = x.reshape(-1, 3)
    place, h = start, network.of_type.weight + t.repeat_interleave(atoms)[:, None] * network.of_time
    for layer in network.layers:
        r = place[i] - place[j]
        square = (r * r).sum(1, keepdim=True)
        m = silu(layer.message_out(silu(layer.message_in(torch.cat([h[i], h[j], square], 1)))))
        sums = torch.zeros_like(h).index_add(0, i, m) / network.neighbors
        pull = layer.move_out(silu(layer.move_in(m))) / (1.0 + square.sqrt())
        place = place + torch.zeros_like(place).index_add(0, i, pull * r) / network.neighbors
        h = h + layer.update_out(silu(layer.update_in(torch.cat([h, sums], 1))))
    return (place - start).reshape(x.shape)


VELOCITIES = {OURS: by_ours, "pairs": by_pairs, "edges": by_edges}


def look(tool: str, given: Batch) -> Run:
    def run(_: int) -> list[Tensor]:
        with torch.no_grad():
            return [VELOCITIES[tool](given)]

    return run


def step(tool: str, given: Batch) -> Run:
    given = given._replace(x=given.x.clone().requires_grad_())
    wanted = [given.x, *given.network.parameters()]

    def run(_: int) -> list[Tensor]:
        loss = VELOCITIES[tool](given).square().sum()
        return list(torch.autograd.grad(loss, wanted, allow_unused=True, materialize_grads=True))

    return run


def check(how: Callable[[str, Batch], Run], given: Batch, tool: str, ours: list[Tensor], theirs: list[Tensor]) -> None:
    """float32 sums over up to a million messages, in different orders; ours is held to "pairs"."""
    if tool == OURS:
        theirs = how("pairs", given)(1)
    for a, b in zip(ours, theirs, strict=True):
        assert torch.isfinite(b).all()
        assert (a - b).abs().max() <= 1e-3 * b.abs().max(), tool


def case(kind: str, systems: int, atoms: int) -> Case:
    how = look if kind == "look" else step
    tools = {tool: partial(how, tool) for tool in VELOCITIES}
    flop = systems * atoms * (atoms - 1) * LAYERS * MESSAGE_FLOP
    moved = 4.0 * 2 * 3 * systems * atoms  # positions and velocities; messages need not be in memory
    name = f"EGNN, {kind}, {systems} x {atoms}"
    # A gradient is two more products for each.
    return Case(
        name, partial(batch, systems, atoms), tools, partial(check, how), moved, flop * (1 if kind == "look" else 3)
    )


CASES = [case("look", 64, 13), case("look", 256, 32), case("look", 16, 128), case("step", 128, 32)]


@across(CASES)
def test_egnn(case, tool, raced):
    raced(case, tool)
