"""Neighbour lists: as sets those of ASE, in order and to the bit those of the reference."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gmkern.dynamics import VerletList, neighbor_list
from gmkern.testing import run_isa, supported_isas

pytestmark = pytest.mark.sanitize

BOXES = ["none", "cubic", "triclinic", "slab", "wire", "small", "flat"]


def case(box: str, dim: int, seed: int, atoms: int = 40) -> tuple[np.ndarray, np.ndarray | None, list[bool], float]:
    """(positions, cell, pbc, cutoff); positions reach out of the box."""
    draw = np.random.default_rng([seed, dim])
    pbc = {"none": [False] * 3, "slab": [True, True, False], "wire": [False, False, True]}.get(box, [True] * 3)[:dim]
    edge, cutoff = 4.0, 1.3
    cell = edge * np.eye(dim)
    if box in ("triclinic", "slab", "wire"):
        cell = cell + draw.uniform(-1.2, 1.2, (dim, dim))
    if box == "small":  # several images of each atom
        atoms, cell, cutoff = 5, np.eye(dim) * 0.9 + draw.uniform(-0.2, 0.2, (dim, dim)), 2.1
    if box == "flat":  # two nearly parallel vectors
        cell[-1] = cell[0] + 0.3 * cell[-1]
    x = draw.uniform(-1.5, 2.0, (atoms, dim)) @ cell
    x[-1] = x[0]  # two at one point
    return x, cell if any(pbc) else None, pbc, cutoff


def listed(box, dim, seed, dtype=torch.float64, **options):
    x, cell, pbc, cutoff = case(box, dim, seed)
    cell = None if cell is None else torch.from_numpy(cell)
    return neighbor_list(torch.from_numpy(x).to(dtype), cutoff, cell=cell, pbc=pbc, **options)


def same(a, b) -> bool:
    return all(torch.equal(p, q) and p.dtype == q.dtype for p, q in zip(a, b, strict=True))


@pytest.mark.parametrize("box", BOXES)
@pytest.mark.parametrize("dim", [2, 3])
def test_pairs_are_those_of_ase(box, dim):
    primitive = pytest.importorskip("ase.neighborlist").primitive_neighbor_list
    x, cell, pbc, cutoff = case(box, dim, 1)
    flat = np.zeros((len(x), 3))
    flat[:, :dim] = x
    frame = np.eye(3) * 50
    if cell is not None:
        frame[:dim, :dim] = cell
    want = primitive("ijSd", [*pbc, *[False] * (3 - dim)], frame, flat, cutoff)
    got = listed(box, dim, 1)
    pairs = {(int(i), int(j), *map(int, s[:dim])): d for i, j, s, d in zip(*want, strict=True)}
    mine = dict(zip(zip(got.i.tolist(), got.j.tolist(), *got.shift.T.tolist(), strict=True), got.distance, strict=True))
    assert len(mine) == got.i.numel()  # each once
    assert set(mine) == set(pairs)
    assert all(abs(float(mine[key]) - pairs[key]) < 1e-12 for key in pairs)  # a few roundings of numbers below 20


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("box", BOXES)
@pytest.mark.parametrize("dim", [1, 2, 3])
def test_equals_reference(box, dim, dtype):
    for seed, half in ((2, False), (3, True)):
        got, want = (listed(box, dim, seed, dtype, half=half, backend=b) for b in ("cpu", "reference"))
        assert same(got, want)
        assert got.i.numel() > 0


def test_rows_are_in_order_and_vectors_what_they_say():
    x, cell, pbc, cutoff = case("triclinic", 3, 4)
    got = neighbor_list(torch.from_numpy(x), cutoff, cell=torch.from_numpy(cell), pbc=pbc)
    keys = list(zip(got.i.tolist(), got.j.tolist(), got.shift.tolist(), strict=True))
    assert keys == sorted(keys)
    assert got.row_ptr.tolist() == np.searchsorted(got.i.numpy(), np.arange(len(x) + 1)).tolist()
    want = x[got.j] + got.shift.numpy() @ cell - x[got.i]
    assert np.abs(got.vector.numpy() - want).max() < 1e-13
    assert np.abs(got.distance.numpy() - np.linalg.norm(want, axis=1)).max() < 1e-13
    both = {(i, j, *s) for i, j, s in keys}
    assert all((j, i, *(-a for a in s)) in both for i, j, s in keys)


def test_half_is_each_pair_once():
    full, half = (listed("small", 3, 5, half=h) for h in (False, True))
    assert 2 * half.i.numel() == full.i.numel()
    mirrored = torch.cat([half.i, half.j]), torch.cat([half.j, half.i]), torch.cat([half.shift, -half.shift])
    key = [sorted(zip(i.tolist(), j.tolist(), s.tolist(), strict=True)) for i, j, s in (mirrored, full[:3])]
    assert key[0] == key[1]


@pytest.mark.parametrize("threads", [1, 2])
def test_a_system_has_its_list_alone_and_in_any_batch(threads, request):
    """Ragged, with empty systems and one of many tasks, each in a box of its own."""
    draw, sizes = np.random.default_rng(6), [3, 0, 1300, 17, 0]
    x = torch.from_numpy(draw.uniform(-8, 8, (sum(sizes), 3)))
    cells = torch.from_numpy(np.eye(3) * draw.uniform(9, 11, (5, 1, 1)))
    ptr = np.cumsum([0, *sizes])
    before = torch.get_num_threads()
    request.addfinalizer(lambda: torch.set_num_threads(before))
    torch.set_num_threads(threads)
    batch = neighbor_list(x, 1.7, cell=cells, pbc=True, system_ptr=ptr)
    for s in range(5):
        rows = slice(int(batch.row_ptr[ptr[s]]), int(batch.row_ptr[ptr[s + 1]]))
        alone = neighbor_list(x[ptr[s] : ptr[s + 1]], 1.7, cell=cells[s], pbc=True)
        assert torch.equal(alone.i + ptr[s], batch.i[rows])
        assert torch.equal(alone.j + ptr[s], batch.j[rows])
        assert torch.equal(alone.shift, batch.shift[rows])
        assert torch.equal(alone.vector, batch.vector[rows])
        assert torch.equal(alone.distance, batch.distance[rows])
    mixed = neighbor_list(x, 1.7)  # negative control: one system of all of them is another list
    assert mixed.i.numel() != batch.i.numel()


def test_a_large_system_is_every_pair():
    """Against all distances at once, without a box; many cells, uneven ones among them."""
    x = torch.from_numpy(np.random.default_rng(7).normal(size=(1500, 3)) ** 3)
    got = neighbor_list(x, 0.31)
    distance = torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist").fill_diagonal_(9.0)
    sure, maybe = (distance < 0.31 - 1e-12).sum(), (distance < 0.31 + 1e-12).sum()
    assert sure <= got.i.numel() <= maybe
    assert torch.allclose(distance[got.i, got.j], got.distance, rtol=1e-13, atol=1e-13)


def test_far_from_the_origin():
    """Positions many boxes away, in fp32: pairs are those of the numbers given."""
    x, cell, _, cutoff = case("cubic", 3, 8)
    far = torch.from_numpy(x).float() + torch.tensor([4.0e4, -4.0e5, 0.0])
    got, want = (
        neighbor_list(far, cutoff, cell=torch.from_numpy(cell), pbc=True, backend=b) for b in ("cpu", "reference")
    )
    assert same(got, want)


def test_gradients():
    x, cell, pbc, cutoff = case("triclinic", 3, 9)
    x, cell = torch.from_numpy(x[:12]).requires_grad_(), torch.from_numpy(cell)

    def values(x):
        near = neighbor_list(x, cutoff, cell=cell, pbc=pbc)
        return near.vector, near.distance

    assert values(x)[1].numel() >= 10
    assert torch.autograd.gradcheck(values, (x,))
    assert torch.autograd.gradgradcheck(values, (x,))
    pair = torch.zeros(2, 3, dtype=torch.float64, requires_grad=True)  # at one point
    near = neighbor_list(pair, 1.0, capacity=5)
    (grad,) = torch.autograd.grad(near.distance[:2].sum() + near.vector[0].sum(), pair)
    assert grad.tolist() == [[-1.0] * 3, [1.0] * 3]


def test_capacity_leaves_room_or_refuses():
    want = listed("cubic", 2, 10)
    count = want.i.numel()
    got = listed("cubic", 2, 10, capacity=count + 3)
    assert all(torch.equal(g[:count], w) for g, w in zip(got[:5], want[:5], strict=True))
    assert got.i[count:].tolist() == got.j[count:].tolist() == [-1] * 3
    assert torch.isinf(got.distance[count:]).all()
    assert same(listed("cubic", 2, 10, capacity=count), want)
    with pytest.raises(ValueError, match=f"capacity.*{count}"):
        listed("cubic", 2, 10, capacity=count - 1)


@pytest.mark.parametrize("half", [False, True])
def test_a_verlet_list_is_the_list_at_every_step(half):
    x, cell, pbc, cutoff = case("slab", 3, 11, atoms=60)
    cell = torch.from_numpy(cell)
    neighbors, draw = VerletList(cutoff, 0.4, cell=cell, pbc=pbc, half=half), np.random.default_rng(12)
    x, changes, before = torch.from_numpy(x), 0, -1
    for _ in range(25):
        x = x + torch.from_numpy(draw.normal(0, 0.02, x.shape))
        got = neighbors(x)
        assert same(got, neighbor_list(x, cutoff, cell=cell, pbc=pbc, half=half))
        changes += got.i.numel() != before
        before = got.i.numel()
    assert changes > 10  # pairs come and go
    assert 1 < neighbors.rebuilds < 12


def test_op_is_well_behaved():
    from gmkern._library import ops

    x, cell, _, cutoff = case("cubic", 3, 13)
    arguments = (torch.from_numpy(x).float().requires_grad_(), torch.tensor([0, 25, 40]), torch.from_numpy(cell)[None],
                 torch.linalg.inv(torch.from_numpy(cell)).T.contiguous()[None], [1, 1, 1], cutoff, False)  # fmt: skip
    for capacity in (-1, 500):
        torch.library.opcheck(ops.neighbor_list.default, (*arguments, capacity))

    def energy(x):
        near = ops.neighbor_list.default(x, *arguments[1:], 500)
        return torch.where(near[2] >= 0, torch.exp(-near[0]), 0.0).sum()

    compiled = torch.compile(energy, backend="aot_eager", fullgraph=True)
    assert torch.equal(compiled(arguments[0]), energy(arguments[0]))


LIST_IT = "from gmkern.dynamics import neighbor_list; out = list(neighbor_list(x, 1.3, cell=cell, pbc=True))"


@pytest.mark.isas
def test_every_instruction_set_has_the_same_list():
    x, cell, _, _ = case("triclinic", 3, 14)
    x, cell = torch.from_numpy(x).float(), torch.from_numpy(cell)
    first, *rest = (run_isa(isa, LIST_IT, x=x, cell=cell) for isa in supported_isas())
    assert all(same(first, other) for other in rest)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"cutoff": 0.0}, "cutoff"),
        ({"cutoff": float("nan")}, "cutoff"),
        ({"cutoff": 1e30}, "cutoff"),
        ({"skin": -0.1}, "skin"),
        ({"half": 1}, "half"),
        ({"capacity": -1}, "capacity"),
        ({"capacity": 1}, "capacity"),
        ({"positions": torch.zeros(3, 4), "cell": None, "pbc": False}, "positions"),
        ({"positions": torch.full((3, 3), float("inf"))}, "positions"),
        ({"positions": torch.full((3, 3), 1e25)}, "positions"),
        ({"cell": None}, "cell"),
        ({"cell": torch.zeros(3, 3)}, "cell"),
        ({"cell": torch.eye(3, requires_grad=True)}, "cell"),
        ({"pbc": [True, False]}, "pbc"),
        ({"system_ptr": [0, 2]}, "system_ptr"),
    ],
)
def test_what_does_not_fit_is_named(change, word):
    arguments = {"positions": torch.rand(3, 3), "cutoff": 1.0, "cell": torch.eye(3), "pbc": True} | change
    positions, cutoff = arguments.pop("positions"), arguments.pop("cutoff")
    with pytest.raises((TypeError, ValueError, RuntimeError), match=word):
        neighbor_list(positions, cutoff, **arguments)


def test_nothing_is_a_list_too():
    for shape in ((0, 3), (2, 0, 3), (1, 3)):
        got = neighbor_list(torch.zeros(shape), 1.0)
        assert got.i.numel() == 0
        assert got.row_ptr.tolist() == [0] * (int(np.prod(shape[:-1])) + 1)
    assert neighbor_list(torch.zeros(0, 3), 1.0, system_ptr=[0]).row_ptr.tolist() == [0]
