"""The CUDA kernels of neighbour lists on a host: the CPU's list to the bit."""

from __future__ import annotations

import math

import pytest
import torch

from gmkern.dynamics.systems import lattice_of, systems_of
from tests.dynamics.kernels_on_host import ops_on_host

CPU = torch.ops.gmkern


@pytest.fixture(scope="module")
def host():
    return ops_on_host()


def arguments(x, sizes, cutoff, cell=None, pbc=False, half=False, capacity=-1):
    systems = systems_of(x, torch.tensor([0, *sizes]).cumsum(0))
    return (x, systems.ptr, *lattice_of(cell, pbc, systems, x.device), cutoff, half, capacity)


CASES = [  # dimension, which directions repeat, cutoff
    (1, True, 1.3), (2, False, 0.6), (2, [True, False], 0.9), (3, False, 0.7), (3, True, 0.5),
    (3, [False, True, True], 2.7),
]  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("dim", "pbc", "cutoff"), CASES)
def test_the_cpus_list_to_the_bit(host, dim, pbc, cutoff, dtype):
    """Atoms outside their box, boxes of any shape and smaller than the cutoff, lists of both ends and of one."""
    sizes = (9, 0, 1, 37)
    x = (3 * torch.rand(47, dim, dtype=torch.float64) - 1).to(dtype)
    x[11] = x[12]  # two at one point
    periodic = pbc is True or (pbc is not False and any(pbc))
    cell = (
        torch.eye(dim, dtype=torch.float64) + 0.2 * torch.rand(4, dim, dim, dtype=torch.float64) if periodic else None
    )
    for half in (False, True):
        call = arguments(x, sizes, cutoff, cell, pbc, half)
        got, want = host.neighbor_list(*call), CPU.neighbor_list(*call)
        assert want[0].shape[0] > 10
        for ours, theirs in zip(got, want, strict=True):
            assert ours.dtype == theirs.dtype
            assert torch.equal(ours, theirs)


# From 1,024 atoms of a batch on, systems of 256 or more are sorted into cells where those around one are at most half.
CELLS = {  # atoms, which directions repeat, the box's vectors, cutoff
    "free": ((1100,), False, None, 1.2),
    "cube": ((1100,), True, [[10.0, 0, 0], [0, 10.0, 0], [0, 0, 10.0]], 1.1),
    "ragged, each its box": ((700, 0, 1, 40, 500), True, [[9.0, 0, 0], [1.5, 8.0, 0], [-2.0, 1.0, 11.0]], 1.0),
    "slab": ((1100,), [True, False, True], [[10.0, 0, 1.0], [0, 1.0, 0], [-2.0, 0, 10.0]], 1.2),
    # an atom sees several images of another, and of itself, and still has cells along the wire
    "wire thinner than the cutoff": ((1100,), True, [[0.9, 0, 0], [0.3, 1.0, 0], [0, 0, 600.0]], 1.5),
    "plane": ((1100,), True, [[30.0, 0], [4.0, 28.0]], 1.5),
    "line": ((1100,), True, [[700.0]], 1.5),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", CELLS)
def test_cells_give_the_cpus_list_to_the_bit(host, name, dtype):
    """Atoms outside their box, two at one point, and some away from all others, so that cells are empty."""
    sizes, pbc, box, cutoff = CELLS[name]
    dim = 3 if box is None else len(box)
    cell = None if box is None else torch.tensor(box, dtype=torch.float64)
    fraction = 1.6 * torch.rand(sum(sizes), dim, dtype=torch.float64) - 0.3
    x = fraction @ (6.0 * torch.eye(dim, dtype=torch.float64) if cell is None else cell)
    x[7], x[8], x[9] = x[6], x[6] + 4.0, x[6] - 30.0
    if len(sizes) > 1:
        cell = cell + 0.2 * torch.rand(len(sizes), dim, dim, dtype=torch.float64)
    for half in (False, True):
        call = arguments(x.to(dtype), sizes, cutoff, cell, pbc, half)
        got, want = host.neighbor_list(*call), CPU.neighbor_list(*call)
        assert want[0].shape[0] > 1000
        for ours, theirs in zip(got, want, strict=True):
            assert torch.equal(ours, theirs)


def test_cells_are_left_where_they_do_not_serve(host):
    """All in one point, one too far out for its fraction to be told well, one that is lost."""
    x = torch.rand(1100, 3, dtype=torch.float64)
    cell = 4.0 * torch.eye(3, dtype=torch.float64)
    near, far, lost = 0.01 * x, 4.0 * x, 4.0 * x
    far[3] += 2.0**29.5
    for given, box in ((near, None), (far, cell), (0 * x[:1030], None)):
        call = arguments(given, (len(given),), 0.004, box, box is not None, capacity=1_100_000)
        for ours, theirs in zip(host.neighbor_list(*call), CPU.neighbor_list(*call), strict=True):
            assert torch.equal(ours, theirs)
    lost[3, 1] = math.inf
    with pytest.raises(RuntimeError, match="gmkern: positions"):
        host.neighbor_list(*arguments(lost, (1100,), 0.5))
    good = arguments(4.0 * x, (1100,), 0.5)
    for ptr in ([0, 1101], [0, 700, 1200], [-1, 1100]):
        assert int(host.neighbor_list(good[0], torch.tensor(ptr), *good[2:7], 50)[5][-1]) == -1


def test_capacity_is_filled_and_never_truncates(host):
    x = torch.rand(40, 3)
    full = CPU.neighbor_list(*arguments(x, (40,), 0.4))
    pairs = full[0].shape[0]
    for capacity in (0, pairs - 1, pairs, pairs + 70):
        call = arguments(x, (40,), 0.4, capacity=capacity)
        for ours, theirs in zip(host.neighbor_list(*call), CPU.neighbor_list(*call), strict=True):
            assert torch.equal(ours, theirs)


def test_what_the_host_cannot_read_is_never_silent(host):
    x = torch.rand(8, 3)
    good = arguments(x, (8,), 0.5)
    for ptr in ([0, 9], [1, 8], [-1, 8]):
        with pytest.raises(RuntimeError, match="gmkern: positions"):
            host.neighbor_list(x, torch.tensor(ptr), *good[2:])
        assert int(host.neighbor_list(x, torch.tensor(ptr), *good[2:7], 50)[5][-1]) == -1
    lost = x.clone()
    lost[3, 1] = math.nan
    with pytest.raises(RuntimeError, match="gmkern: positions"):
        host.neighbor_list(lost, *good[1:])
    with pytest.raises(RuntimeError, match="gmkern: cutoff"):
        host.neighbor_list(*good[:5], math.inf, *good[6:])
    box = arguments(x, (8,), 1e7, torch.eye(3), True)
    assert int(host.neighbor_list(*box[:7], 50)[5][-1]) == -1
    none = host.neighbor_list(x[:0], torch.tensor([0]), *good[2:])
    assert none[0].shape == (0,)
    assert none[5].tolist() == [0]
