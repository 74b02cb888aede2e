"""What the Triton launchers ask of the device: nothing that the host waits for, or one answer; none while captured."""

from __future__ import annotations

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import gmkern
from gmkern.classical import RBM
from gmkern.context.draw import triton_kernels as draw_kernels
from gmkern.decode.attention import triton_kernels as attention_kernels
from gmkern.decode.sample import SamplingParams
from gmkern.decode.sample import triton_kernels as sample_kernels
from gmkern.dynamics import EGNN
from gmkern.dynamics.egnn import triton_adjoint as egnn_adjoint
from gmkern.dynamics.egnn import triton_kernels as egnn_kernels
from gmkern.dynamics.systems import systems_of
from gmkern.latent.sample import triton_kernels as latent_kernels
from gmkern.neighbors import triton_screening
from gmkern.neighbors.count_within import ops as count_ops
from gmkern.neighbors.count_within import triton_kernels as count_kernels
from gmkern.neighbors.kernel_sum import triton_kernels as sum_kernels
from gmkern.neighbors.knn import ops as knn_ops
from gmkern.neighbors.knn import triton_kernels as knn_kernels
from gmkern.random import triton_kernels as noise_kernels

SEED, IDS = torch.tensor(3), torch.arange(5)


class Answers(TorchDispatchMode):
    """Lists operations of PyTorch whose result the host must know, on a GPU: numbers, and sizes that depend on them."""

    ASK = ("local_scalar_dense", "nonzero", "is_nonzero", "masked_select", "unique", "bincount", "equal")
    METHODS = ("tolist", "cpu", "numpy")  # which are no operations on a CPU

    def __init__(self):
        super().__init__()
        self.asked: list[str] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__.strip("_")
        masks = name.startswith("index") and len(args) > 1 and isinstance(args[1], (list, tuple))
        if name.removesuffix("2") in self.ASK or (
            masks and any(x is not None and not x.dtype.is_signed for x in args[1])
        ):
            self.asked.append(name)
        return function(*args, **(kwargs or {}))


def asked(run) -> list[str]:
    with Answers() as mode, pytest.MonkeyPatch.context() as patch:
        for name in Answers.METHODS:
            method = getattr(torch.Tensor, name)
            patch.setattr(
                torch.Tensor,
                name,
                lambda x, *args, name=name, method=method, **kw: mode.asked.append(name) or method(x, *args, **kw),
            )
        run()
    return mode.asked


def points(n: int, m: int, d: int = 12) -> tuple[torch.Tensor, torch.Tensor]:
    made = torch.Generator().manual_seed(n + m)
    return torch.randn(1, n, d, generator=made), torch.randn(1, m, d, generator=made)


def attended(page: bool, kind: torch.dtype):
    q, keys = torch.randn(2, 1, 4, 16), torch.randn(2, 40, 2, 16).to(kind)
    scale = torch.rand(2, 40, 2) if kind == torch.int8 else None
    table = torch.tensor([[1], [0]], dtype=torch.int32) if page else None
    lengths = torch.tensor([40, 7], dtype=torch.int32)
    return attention_kernels.attention(q, keys, keys, lengths, table, scale, scale, None, 0, 0.0, 0.25)


def sampled():
    logits, packed = torch.randn(5, 70), SamplingParams(top_k=5, repetition_penalty=1.2).packed(5, torch.device("cpu"))
    history = torch.randint(70, (5, 4))
    sample_kernels.sample(logits, packed, logits > -2, history, SEED, IDS, SEED)


def rated():
    logits, packed = torch.randn(5, 70), SamplingParams().packed(5, torch.device("cpu"))
    sample_kernels.token_logprobs(logits, IDS, packed, None, None)
    sample_kernels.token_logprobs_backward(torch.ones(5), logits, IDS, packed, None, None)


def summed(log: bool):
    x, y = points(9, 30)
    numbers = torch.ones(1, 30), torch.ones(1, 30), torch.zeros(1, 30) if log else None
    return sum_kernels.kernel_sum(x, y, *numbers, 0, 1.0, 0.0, 1, False)


def summed_back():
    x, y = points(9, 30)
    ones = torch.ones(1, 30)
    return sum_kernels.kernel_sum_backward(
        torch.ones(1, 9), torch.ones(1, 9), x, y, ones, ones, None, 0, 1.0, 0.0, 1, False, True, True
    )


def pulled():
    return knn_ops._pull_by_columns(*points(5, 9), torch.zeros(1, 5, 2).long(), torch.ones(1, 5, 2), 0)


def messages():
    x, h, box, ptr = torch.randn(7, 3), torch.randn(7, 5), torch.empty(0, 3, 3).double(), torch.tensor([0, 3, 7])
    given = x, h, torch.randn(210), ptr, box, box, True, 2.0, 1.0
    egnn_adjoint.egnn_layer_backward(*given, egnn_kernels.egnn_layer(*given)[2], x, h, True)


def moved():
    """An EGNN's velocities, once its systems are bound: what each step of a run asks for."""
    net, x, ptr = EGNN(5, 2, types=2, cutoff=2.0), torch.randn(7, 3), [0, 3, 7]
    bound = net.bind(systems_of(x, ptr), x, [0, 1] * 3 + [0], None, False, "triton")
    return lambda: bound.field(x, torch.tensor([0.1, 0.2]))


def swept():
    rbm = RBM(6, 300)
    rbm.sample(5, steps=2, seed=SEED, sample_ids=IDS, backend="triton")


WEIGHTS = [torch.randn(20, 6), torch.randn(3, 20)], [torch.randn(20), torch.randn(3)]
CALLS = {
    "noise": lambda: noise_kernels.noise(SEED, IDS, SEED, 9, 0, 2, False),
    "draw": lambda: draw_kernels.draw_sets(torch.randn(30, 4), SEED, IDS, 3),
    "latent": lambda: latent_kernels.latent_mlp(SEED, IDS, *WEIGHTS, [4, 0], [0.0, 0.0]),
    "attention": lambda: attended(False, torch.float32),
    "attention, int8 in pages": lambda: attended(False, torch.int8) and attended(True, torch.float32),
    "sample": sampled,
    "log-probabilities, and back": rated,
    "kernel sums, backward": summed_back,
    "pulls of edges": pulled,
    "messages, and back": messages,
    "sweeps": swept,
}
FLAGGED = {
    "knn": lambda: knn_kernels.knn(*points(5, 40), 3, 0, False, 0, 1),
    "knn, many": lambda: knn_kernels.knn(*points(5, 90), 70, 0, False, 0, 1),
    "knn, screened": lambda: knn_kernels.knn(*points(5, 60), 2, 0, False, 0, 2),
    "counts": lambda: count_kernels.count_within(*points(5, 40), torch.ones(1, 5), False, False, False, 1),
    "counts, screened": lambda: count_kernels.count_within(*points(5, 60), torch.ones(1, 5), False, False, False, 2),
    "kernel sums": lambda: summed(False),
    "log kernel sums": lambda: summed(True),
}


@torch.no_grad()
def test_a_step_along_a_network_waits_for_nothing():
    assert asked(moved()) == []


@pytest.mark.parametrize("name", CALLS)
def test_nothing_is_waited_for(name):
    assert asked(CALLS[name]) == []


@pytest.fixture
def capturing(monkeypatch):
    """The launchers believe that a graph is captured."""
    for module in (knn_kernels, count_kernels, sum_kernels, triton_screening):
        monkeypatch.setattr(module, "captured", lambda x: True)


@pytest.mark.parametrize("name", FLAGGED)
def test_a_call_waits_once_and_not_while_captured(name, request):
    assert len(asked(FLAGGED[name])) == 1
    request.getfixturevalue("capturing")
    assert asked(FLAGGED[name]) == []


def test_the_list_of_answers_misses_none():
    x = torch.arange(3.0)
    asks = [lambda: x.sum().item(), lambda: bool(x.any()), lambda: int(x.max()), lambda: x[x > 1], x.unique, x.nonzero]
    for ask in [*asks, lambda: x.tolist(), lambda: torch.equal(x, x), lambda: x.cpu(), lambda: x.masked_select(x > 1)]:
        assert asked(ask)


def test_captured_results_are_those_of_a_call(capturing, monkeypatch):
    """Also of rows that were not certified, or had no room, which the device does over without being asked which."""
    lost = torch.arange(6) % 3 == 1

    def worse(screened, flaw):
        def search(*arguments):
            found, told = screened(*arguments)
            found[lost] = 7
            return found, torch.where(lost, flaw, told)

        return search

    monkeypatch.setattr(knn_kernels, "screened", worse(knn_kernels.screened, -1))
    monkeypatch.setattr(count_kernels, "screened", worse(count_kernels.screened, False))
    x, y = (one.repeat(2, 1, 1) for one in points(6, 70))
    y[1] += 1.0
    for k, one in ((2, slice(None)), (66, slice(1))):
        distances, indices = knn_kernels.knn(x[one], y[one], k, 0, False, 0, 2)
        theirs = knn_ops.knn(x[one], y[one], k, 0, False, 0, 1)
        assert torch.equal(distances, theirs[0])
        assert torch.equal(indices, theirs[1])
    radii = theirs[0][:, :, 40].repeat(2, 1)
    ours = count_kernels.count_within(x, y, radii, False, False, False, 2)
    assert torch.equal(ours, count_ops.count_within(x, y, radii, False, False, False, 1))


@pytest.mark.parametrize("method", [1, 2])
def test_what_a_captured_call_does_not_take_becomes_nan(capturing, method):
    x, y = points(5, 40)
    y[0, 7, 3] = torch.inf
    distances, indices = knn_kernels.knn(x, y, 2, 0, False, 0, method)
    assert distances.isnan().all()
    assert (indices == 0).all()  # a gradient that gathers by them reads what is there
    assert (count_kernels.count_within(x, y, torch.ones(1, 5), False, False, False, method) == -1).all()
    y[0, 7, 3] = 0.0
    radii = torch.tensor([[1.0, torch.nan, 1.0, 1.0, 1.0]])
    assert (count_kernels.count_within(x, y, radii, False, False, False, method) == -1).all()
    good, bad = torch.ones(1, 40), torch.ones(1, 40).index_fill(1, torch.tensor(5), torch.nan)
    for rates, weights in ((good, bad), (bad, good), (-good, good)):
        assert sum_kernels.kernel_sum(x, y, rates, weights, None, 0, 1.0, 0.0, 1, False).isnan().all()
    assert sum_kernels.kernel_sum(x, y, good, -good, 0 * good, 0, 1.0, 0.0, 1, False).isnan().all()
    assert sum_kernels.kernel_sum(x, y, good, good, 0 * good, 0, 1.0, 0.0, 1, False).isfinite().all()


def test_cosine_while_captured(monkeypatch):
    from gmkern.neighbors import reference

    monkeypatch.setattr(reference, "captured", lambda x: True)
    x = torch.randn(1, 3, 4).index_fill(1, torch.tensor(1), 0.0)
    assert asked(lambda: reference.directions("queries", x)) == []
    assert reference.directions("queries", x).isfinite().all(-1).tolist() == [[True, False, True]]


def test_parameters_reach_a_device_without_a_copy():
    """The row that kernels make on a GPU is the one that the host makes."""
    from gmkern.decode.sample import params

    numbers = [0.7, 50.0, 0.9, 0.0, -1.5, 1e-30, 3.0]
    row = torch.zeros(1, len(numbers), dtype=torch.float64)
    torch._foreach_add_(row[0].unbind(), numbers)
    assert torch.equal(row, params._row(numbers, torch.device("cpu")))
    assert params._row(numbers, torch.device("meta")).shape == (1, len(numbers))
    for word in (0, -5, (1 << 64) - 1, 1 << 63):
        assert int(gmkern._validate.seed(word, torch.device("cpu"))) % (1 << 64) == word % (1 << 64)
