"""Every op on another stream, on a second device, and captured in a graph: the results of a plain call."""

from __future__ import annotations

import pytest
import torch

import gmkern
from gmkern import context, decode, dynamics, latent, neighbors
from gmkern.classical import RBM

pytestmark = pytest.mark.gpu
SECOND = pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs a second CUDA device")


def made(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


class Inputs:
    """The ops' tensors on a device; ``change`` gives those that may hold anything other numbers, in place."""

    def __init__(self, device: str):
        self.x, self.y, self.logits = made(70, 16).to(device), made(5000, 16).to(device), made(6, 900).to(device)
        self.q, self.keys, self.values = (made(3, n, h, 64).to(device) for n, h in ((1, 4), (600, 2), (600, 2)))
        self.lengths = torch.tensor([600, 300, 7], dtype=torch.int32, device=device)
        self.tokens = torch.arange(6, device=device)
        self.seed, self.step = torch.tensor(3, device=device), torch.tensor(1, device=device)
        self.ids = torch.arange(6, device=device)
        torch.manual_seed(0)
        self.decoder = torch.nn.Sequential(torch.nn.Linear(8, 40), torch.nn.GELU(), torch.nn.Linear(40, 3)).to(device)
        self.decoder.requires_grad_(False)
        self.machine = RBM(300, 20).to(device).requires_grad_(False)
        self.machine.weight.normal_()
        self.weights = dynamics.EGNN(16, 1).layers[0].packed(torch.float32).detach().to(device)
        self.ptr = torch.tensor([0, 30, 70], device=device)
        self.box = torch.empty(0, 3, 3, dtype=torch.float64, device=device)

    def change(self) -> None:
        for tensor in (self.x, self.logits, self.q, self.keys):
            tensor.mul_(0.5)
        self.seed.add_(1)
        self.lengths.sub_(2)


def gradient(run, leaf: torch.Tensor) -> torch.Tensor:
    copy = leaf.detach().requires_grad_()  # of the same storage
    return torch.autograd.grad(run(copy).sum(), copy)[0]


def messages(i: Inputs, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
    places = x[:, :3].contiguous()
    return torch.ops.gmkern.egnn_layer(places, x, i.weights, i.ptr, i.box, i.box, True, 4.0, 9.0)


FILTERED = decode.SamplingParams(temperature=0.8, top_k=20, top_p=0.9)
OPS = {
    "noise": lambda i: gmkern.random.normal(i.seed, i.ids, i.step, 900),
    "knn": lambda i: neighbors.knn(i.x, i.y, 3),
    "knn, many": lambda i: neighbors.knn(i.x, i.y, 100),
    "knn, screened": lambda i: neighbors.knn(i.y, i.y, 3, exclude_self=True),
    "knn, of directions": lambda i: neighbors.knn(i.x, i.y, 3, metric="cosine"),
    "knn, backward": lambda i: gradient(lambda x: neighbors.knn(x, i.y, 3).distances, i.x),
    "count_within": lambda i: neighbors.count_within(i.x, i.y, 4.0),
    "count_within, screened": lambda i: neighbors.count_within(i.y, i.y, 4.0),
    "kernel_sum": lambda i: neighbors.kernel_sum(i.x, i.y, bandwidth=2.0),
    "log_kernel_sum": lambda i: neighbors.log_kernel_sum(i.x, i.y, bandwidth=2.0),
    "kernel_sum, backward": lambda i: gradient(lambda x: neighbors.kernel_sum(x, i.y, bandwidth=2.0), i.x),
    "draw": lambda i: context.draw(i.y, 6, 10, seed=i.seed, sample_ids=i.ids),
    "draw, backward": lambda i: gradient(lambda y: context.draw(y, 6, seed=i.seed, sample_ids=i.ids).points, i.y),
    "latent": lambda i: latent.sample(i.decoder, 6, seed=i.seed, sample_ids=i.ids),
    "sweeps": lambda i: i.machine.sample(6, steps=3, seed=i.seed, sample_ids=i.ids),
    "messages": lambda i: messages(i, i.x),
    "messages, backward": lambda i: gradient(lambda x: messages(i, x)[1], i.x),
    "attention": lambda i: decode.attention(i.q[:, 0], i.keys, i.values, i.lengths),
    "attention, backward": lambda i: gradient(lambda q: decode.attention(q, i.keys, i.values, i.lengths).out, i.q),
    "sample": lambda i: decode.sample(i.logits, seed=i.seed, sample_ids=i.ids, step=i.step),
    "sample, filtered": lambda i: decode.sample(i.logits, FILTERED, seed=i.seed, sample_ids=i.ids, step=i.step),
    "token_logprobs": lambda i: decode.token_logprobs(i.logits, i.tokens),
    "token_logprobs, backward": lambda i: gradient(lambda z: decode.token_logprobs(z, i.tokens), i.logits),
}


def tensors(result) -> list[torch.Tensor]:
    return [result] if isinstance(result, torch.Tensor) else list(result)


def same(ours, theirs) -> bool:
    return all(torch.equal(a.cpu(), b.cpu()) for a, b in zip(tensors(ours), tensors(theirs), strict=True))


@pytest.mark.parametrize("name", OPS)
def test_on_another_stream(name):
    """Behind work that delays that stream alone: what ran on another one would read what is not there yet."""
    given, stream = Inputs("cuda"), torch.cuda.Stream()
    want = OPS[name](given)
    given.change()
    changed = OPS[name](given)
    given = Inputs("cuda")
    torch.cuda.synchronize()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(20_000_000)
        given.change()
        ours = OPS[name](given)
    stream.synchronize()
    assert same(ours, changed)
    assert not same(want, changed)  # the control


@pytest.mark.parametrize("name", OPS)
def test_captured(name):
    given = Inputs("cuda")
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        OPS[name](given)  # compiles
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        held = OPS[name](given)
    for _ in range(2):
        given.change()
        graph.replay()
        assert same(held, OPS[name](given))


def test_a_captured_search_does_over_what_was_not_certified():
    y = made(2, 24)[torch.arange(6000) % 2].cuda()  # more copies than a list has room for
    want = neighbors.knn(y, y, 2)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        held = neighbors.knn(y, y, 2)
        counts = neighbors.count_within(y, y, 0.0)
    graph.replay()
    assert same(held, want)
    assert (counts == 3000).all()
    y[7, 3] = torch.nan
    graph.replay()
    assert held.distances.isnan().all()
    assert (counts == -1).all()


@SECOND
@pytest.mark.parametrize("name", OPS)
def test_on_the_second_device(name):
    """While the first is the current one."""
    want = OPS[name](Inputs("cuda:0"))
    assert torch.cuda.current_device() == 0
    ours = OPS[name](Inputs("cuda:1"))
    assert all(tensor.device == torch.device("cuda:1") for tensor in tensors(ours))
    assert same(ours, want)
    assert torch.cuda.current_device() == 0
