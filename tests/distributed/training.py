"""Trainers on two ranks: modules under DDP and FSDP whose losses use gmkern's collectives."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from gmkern import decode, distributed, latent, neighbors
from tests.distributed.processes import told
from tests.distributed.ranks import decoder, model

ROWS = 25  # of the whole batch: shares differ
END = 3


def network() -> nn.Module:
    torch.manual_seed(2)
    return nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 3)).double()


def batch() -> Tensor:
    return torch.randn(ROWS, 4, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def references() -> Tensor:
    return torch.randn(50, 3, generator=torch.Generator().manual_seed(4), dtype=torch.float64)


def novelty(x: Tensor, y: Tensor, search: Any) -> Tensor:
    """The sum over samples of their distances to stored references, and of their density, which tells copies."""
    far = search.knn(x, y.requires_grad_(), k=3).distances.sum()
    return search.log_kernel_sum(x, y, bandwidth=0.5).sum() - far


def repulsion(x: Tensor, _: Tensor, search: Any) -> Tensor:
    """Samples of all ranks keep off each other: references have gradients as well, of the other ranks' losses."""
    near = search.knn(x, k=2, exclude_self=True).distances.sum()
    return search.kernel_sum(x, bandwidth=0.5, exclude_self=True).sum() - near


LOSSES = {"novelty": novelty, "repulsion": repulsion}


class Scorer(nn.Module):
    """A forward that is a score, so that DDP and FSDP see it."""

    def __init__(self, policy: nn.Module) -> None:
        super().__init__()
        self.policy = policy

    def forward(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        return decode.score(self.policy, tokens, lengths)


class Drawer(nn.Module):
    """A forward that draws this rank's rows."""

    def __init__(self, decoder: nn.Module, draw: Callable[..., Tensor]) -> None:
        super().__init__()
        self.decoder, self.draw = decoder, draw

    def forward(self) -> Tensor:
        return self.draw(self.decoder, ROWS, seed=7)


DECODERS = {"kernel": decoder, "module": network}  # one in C++, one in PyTorch, whose values are made twice


class Density(nn.Module):
    """A forward that is a sum of kernels, of a width that is learnt."""

    def __init__(self) -> None:
        super().__init__()
        self.network = network()
        self.bandwidth = nn.Parameter(torch.tensor([0.7], dtype=torch.float64))

    def forward(self, z: Tensor, y: Tensor, search: Any) -> Tensor:
        return search.kernel_sum(self.network(z), y, bandwidth=self.bandwidth[0]).sum()


def advantages() -> Tensor:
    return torch.linspace(-1, 1, ROWS)[:, None]


def gradients_of(module: nn.Module) -> list[Tensor]:
    grads = [p.grad for p in module.parameters()]
    return [getattr(g, "full_tensor", lambda g=g: g)() for g in grads]


def trained(wrap: Callable[[nn.Module], nn.Module]) -> dict[str, Any]:
    """Gradients on this rank. Losses are sums over its part of the batch, over the mean number of samples a rank."""
    out: dict[str, Any] = {}
    each = ROWS / dist.get_world_size()
    rows, shard = distributed.share(ROWS), distributed.share(len(references()))
    for name, loss in LOSSES.items():
        module = wrap(network())
        (loss(module(batch()[rows]), references()[shard], distributed) / each).backward()
        out[name] = gradients_of(module)
    module = wrap(Density())
    (module(batch()[rows], references()[shard], distributed) / each).backward()
    out["density"] = gradients_of(module)
    for name, made in DECODERS.items():
        module = wrap(Drawer(made(), distributed.sample))
        (module().square().sum() / each).backward()
        out[name] = gradients_of(module)
    return out


def ddp(_: Path) -> dict[str, Any]:
    wrap = DistributedDataParallel
    out = trained(wrap)
    policy = model()
    scorer = wrap(Scorer(policy))
    drawn = distributed.generate(policy, n=ROWS, max_new_tokens=6, end_token=END, seed=1)
    rows = distributed.share(ROWS)
    logprobs = scorer(drawn.tokens, drawn.lengths)
    out["exact"] = [torch.tensor(torch.equal(logprobs, drawn.logprobs))]
    ((logprobs * advantages()[rows]).sum() / (ROWS / dist.get_world_size())).backward()
    out["policy"] = gradients_of(policy)
    return out


def fsdp(_: Path) -> dict[str, Any]:
    out = trained(fully_shard)
    policy = model()
    scorer = fully_shard(Scorer(policy))
    rows = distributed.share(ROWS)
    out["sharded"] = [told(lambda: distributed.generate(policy, n=2, max_new_tokens=2, seed=1))]
    out["sharded points"] = [told(lambda: distributed.knn(policy.embedding.weight))]
    out["scored sharded"] = [told(lambda: decode.score(policy, torch.ones(1, 1), torch.ones(1)))]
    scorer.unshard()
    drawn = distributed.generate(policy, n=ROWS, max_new_tokens=6, end_token=END, seed=1)
    scorer.reshard()
    logprobs = scorer(drawn.tokens, drawn.lengths)
    out["exact"] = [torch.tensor(torch.equal(logprobs, drawn.logprobs))]
    ((logprobs * advantages()[rows]).sum() / (ROWS / dist.get_world_size())).backward()
    out["policy"] = gradients_of(policy)
    return out


def both(folder: Path) -> dict[str, Any]:
    return {"ddp": ddp(folder), "fsdp": fsdp(folder)}


def alone() -> dict[str, list[Tensor]]:
    """The gradients of one process that has the whole batch."""
    out = {}
    for name, loss in LOSSES.items():
        module = network()
        (loss(module(batch()), references(), neighbors) / ROWS).backward()
        out[name] = gradients_of(module)
    module = Density()
    (module(batch(), references(), neighbors) / ROWS).backward()
    out["density"] = gradients_of(module)
    for name, made in DECODERS.items():
        module = Drawer(made(), latent.sample)
        (module().square().sum() / ROWS).backward()
        out[name] = gradients_of(module)
    policy = model()
    drawn = decode.generate(policy, n=ROWS, max_new_tokens=6, end_token=END, seed=1)
    logprobs = decode.score(policy, drawn.tokens, drawn.lengths)
    ((logprobs * advantages()).sum() / ROWS).backward()
    out["policy"] = gradients_of(policy)
    return out
