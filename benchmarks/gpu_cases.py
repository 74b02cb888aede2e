"""What ``gpu_check.py`` times: each case checks its result first, then times the kernel beside its rivals.

A case is a function of (device, tiny) that returns a :class:`Case`; ``tiny`` shapes are for a dry run without a GPU.
"""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

import gmkern
from gmkern import context, decode, dynamics, latent, neighbors


@dataclass
class Case:
    """One kernel, ready to run."""

    shape: str
    run: Callable[[], object]
    check: Callable[[], None]  # raises AssertionError where the result is wrong
    rivals: dict[str, Callable[[], object]] = field(default_factory=dict)
    moved: int = 0  # bytes that one run must read and write: share of the copy bandwidth
    work: float = 0.0  # units of `unit` that one run does
    unit: str = ""
    rival_scale: float = 1.0  # runs of a rival that do the work of one of ours


def rotating(make: Callable[[], Tensor], nbytes: int, device: torch.device) -> Callable[[], Tensor]:
    """Inputs in turn, together over four times the L2, so that no run finds its input in the cache."""
    cache = torch.cuda.get_device_properties(device).L2_cache_size if device.type == "cuda" else 0
    inputs = [make() for _ in range(max(1, math.ceil(4 * cache / nbytes)))]
    state = {"at": 0}

    def following() -> Tensor:
        state["at"] = (state["at"] + 1) % len(inputs)
        return inputs[state["at"]]

    return following


def noise_normal(device: torch.device, tiny: bool) -> Case:
    rows, n = (3, 1000) if tiny else (4096, 1 << 16)
    ids = torch.arange(rows, device=device)

    def check() -> None:
        few = torch.tensor([0, rows - 1])
        ours = gmkern.random.normal(3, few.to(device), 1, n).cpu()
        assert torch.equal(ours, gmkern.random.normal(3, few, 1, n, backend="reference")), (
            "bits differ from the contract"
        )

    seed, step = torch.tensor(3, device=device), torch.tensor(1, device=device)
    return Case(
        f"{rows} x {n} fp32",
        lambda: gmkern.random.normal(seed, ids, step, n),
        check,
        {"torch.randn": lambda: torch.randn(rows, n, device=device)},
        moved=4 * rows * n,
    )


def _sampling(device: torch.device, tiny: bool, params: decode.SamplingParams, name: str) -> Case:
    rows, vocabulary = (4, 100) if tiny else (256, 50257)
    ids = torch.arange(rows, device=device)
    seed, step = torch.tensor(5, device=device), torch.tensor(0, device=device)
    following = rotating(lambda: 3 * torch.randn(rows, vocabulary, device=device), 4 * rows * vocabulary, device)

    def check() -> None:
        logits = 3 * torch.randn(rows, vocabulary, device=device)
        ours = decode.sample(logits, params, seed=5, sample_ids=ids, step=0)
        truth = decode.sample(logits.cpu(), params, seed=5, sample_ids=ids.cpu(), step=0, backend="reference")
        assert torch.equal(ours.tokens.cpu(), truth.tokens), "tokens differ from the reference"
        torch.testing.assert_close(ours.logprobs.cpu(), truth.logprobs, rtol=1e-5, atol=1e-5)

    def plain() -> Tensor:
        probabilities = torch.softmax(following() / params.temperature, dim=-1)
        return torch.multinomial(probabilities, 1)

    def sorting() -> Tensor:
        ordered, order = torch.sort(following() / params.temperature, dim=-1, descending=True)
        probabilities = torch.softmax(ordered, dim=-1)
        beyond = probabilities.cumsum(-1) - probabilities > params.top_p
        beyond[:, params.top_k :] = True
        return order.gather(1, torch.multinomial(probabilities.masked_fill(beyond, 0.0), 1))

    filtered = params.top_k > 0  # type: ignore[operator]
    return Case(
        f"B={rows} V={vocabulary} fp32{name}",
        lambda: decode.sample(following(), params, seed=seed, sample_ids=ids, step=step),
        check,
        {"sort + softmax + multinomial": sorting} if filtered else {"softmax + multinomial": plain},
        moved=4 * rows * vocabulary,
    )


def sample(device: torch.device, tiny: bool) -> Case:
    return _sampling(device, tiny, decode.SamplingParams(temperature=0.9), "")


def sample_filtered(device: torch.device, tiny: bool) -> Case:
    return _sampling(device, tiny, decode.SamplingParams(temperature=0.9, top_k=50, top_p=0.9), " top-k top-p")


def attention(device: torch.device, tiny: bool) -> Case:
    """One query a row against a cache of bf16: the keys and values are read once."""
    rows, held, heads, key_heads, dim = (2, 300, 4, 2, 16) if tiny else (64, 4096, 64, 8, 128)
    q = torch.randn(rows, heads, dim, device=device, dtype=torch.bfloat16)
    cache = torch.randn(2, rows, held, key_heads, dim, device=device, dtype=torch.bfloat16)  # 1 GB: past any L2
    keys, values = cache
    lengths = torch.full((rows,), held, dtype=torch.int32, device=device)

    def check() -> None:
        ours = decode.attention(q, keys, values, lengths)
        few = [x[:2].cpu() for x in (q, keys, values, lengths)]
        truth = decode.attention(*(x.double() if x.is_floating_point() else x for x in few), backend="reference")
        torch.testing.assert_close(ours.out[:2].double().cpu(), truth.out, rtol=2**-8, atol=2**-12)
        torch.testing.assert_close(ours.lse[:2].double().cpu(), truth.lse, rtol=1e-5, atol=1e-5)

    def fused() -> Tensor:
        by_heads = (x.transpose(1, 2) for x in (keys, values))
        return torch.nn.functional.scaled_dot_product_attention(q.unsqueeze(2), *by_heads, enable_gqa=True)

    return Case(
        f"B={rows} T={held} Hq={heads} Hkv={key_heads} D={dim} bf16",
        lambda: decode.attention(q, keys, values, lengths),
        check,
        {"scaled_dot_product_attention": fused},
        moved=2 * cache.numel(),
    )


def latent_network(device: torch.device, tiny: bool) -> Case:
    """Noise through a small decoder: no intermediate reaches memory."""
    rows = 100 if tiny else 1 << 16
    widths = (32, 128, 128, 64)
    torch.manual_seed(4)
    layers: list[torch.nn.Module] = []
    for inputs, outputs in itertools.pairwise(widths):
        layers += [torch.nn.Linear(inputs, outputs), torch.nn.GELU()]
    decoder = torch.nn.Sequential(*layers[:-1]).to(device).requires_grad_(False)
    seed = torch.tensor(7, device=device)

    def check() -> None:
        ours = latent.sample(decoder, 100, seed=7)
        truth = latent.sample(copy.deepcopy(decoder).cpu(), 100, seed=7, backend="reference")
        torch.testing.assert_close(ours.cpu(), truth, rtol=1e-4, atol=1e-5)

    return Case(
        f"n={rows} {' x '.join(map(str, widths))} fp32",
        lambda: latent.sample(decoder, rows, seed=seed),
        check,
        {"randn + eager layers": lambda: decoder(torch.randn(rows, widths[0], device=device))},
        work=2.0 * rows * sum(a * b for a, b in itertools.pairwise(widths)),
        unit="flop",
    )


def _nearest(device: torch.device, tiny: bool, dim: int, k: int) -> Case:
    rows = 200 if tiny else 50_000
    made = torch.Generator().manual_seed(2)
    x, y = (torch.randn(rows, dim, generator=made).to(device) for _ in range(2))

    def check() -> None:
        few = x[:: rows // 100]
        ours, truth = neighbors.knn(few, y, k), neighbors.knn(few.cpu(), y.cpu(), k, backend="reference")
        assert torch.equal(ours.indices.cpu(), truth.indices), "indices differ from the reference"
        assert torch.equal(ours.distances.cpu(), truth.distances), "distances differ from the reference"

    def product() -> Tensor:
        squares = y.square().sum(1)
        blocks = [(squares - 2 * (block @ y.T)).topk(k, largest=False).indices for block in x.split(4096)]
        return torch.cat(blocks)

    return Case(
        f"{rows} x {rows} D={dim} k={k} fp32",
        lambda: neighbors.knn(x, y, k),
        check,
        {"matmul + topk": product},
        work=float(rows) * rows,
        unit="pairs",
    )


def nearest(device: torch.device, tiny: bool) -> Case:
    return _nearest(device, tiny, 64, 1)


def nearest_five(device: torch.device, tiny: bool) -> Case:
    return _nearest(device, tiny, 64, 5)


def counts_within(device: torch.device, tiny: bool) -> Case:
    rows, dim = (200, 64) if tiny else (50_000, 64)
    x = torch.randn(rows, dim, generator=torch.Generator().manual_seed(3)).to(device)
    radius = math.sqrt(2 * dim) - 2.0

    def check() -> None:
        few = x[:: rows // 100]
        ours = neighbors.count_within(few, x, radius)
        assert torch.equal(ours.cpu(), neighbors.count_within(few.cpu(), x.cpu(), radius, backend="reference"))

    return Case(
        f"{rows} x {rows} D={dim} fp32",
        lambda: neighbors.count_within(x, x, radius),
        check,
        {"cdist": lambda: torch.cat([(torch.cdist(block, x) <= radius).sum(1) for block in x.split(4096)])},
        work=float(rows) * rows,
        unit="pairs",
    )


def kernel_sums(device: torch.device, tiny: bool) -> Case:
    rows, dim = (200, 64) if tiny else (50_000, 64)
    x = torch.randn(rows, dim, generator=torch.Generator().manual_seed(5)).to(device)

    def check() -> None:
        few = x[:: rows // 100]
        ours = neighbors.kernel_sum(few, x, bandwidth=8.0)
        truth = neighbors.kernel_sum(few.cpu().double(), x.cpu().double(), bandwidth=8.0)
        torch.testing.assert_close(ours.cpu().double(), truth, rtol=1e-5, atol=0.0)

    def blocks() -> Tensor:
        return torch.cat([(torch.cdist(block, x).square() / -128.0).exp().sum(1) for block in x.split(4096)])

    return Case(
        f"{rows} x {rows} D={dim} rbf fp32",
        lambda: neighbors.kernel_sum(x, x, bandwidth=8.0),
        check,
        {"cdist + exp + sum": blocks},
        work=float(rows) * rows,
        unit="pairs",
    )


def context_sets(device: torch.device, tiny: bool) -> Case:
    sets, size, rows = (50, 10, 300) if tiny else (16384, 10, 60_000)
    train = torch.randn(rows, 784, generator=torch.Generator().manual_seed(4)).to(device)
    seed, ids = torch.tensor(6, device=device), torch.arange(sets, device=device)

    def check() -> None:
        ours = context.draw(train, 50, size, seed=6)
        truth = context.draw(train.cpu(), 50, size, seed=6, backend="reference")
        assert torch.equal(ours.indices.cpu(), truth.indices), "indices differ from the reference"
        assert torch.equal(ours.points.cpu(), truth.points), "points are not the rows drawn"

    def by_choice() -> Tensor:
        drawn = [torch.randperm(rows, device=device)[:size] for _ in range(sets // 64 or 1)]
        return train[torch.stack(drawn)]

    return Case(
        f"{sets} sets of {size} of {rows} x 784 fp32",
        lambda: context.draw(train, sets, size, seed=seed, sample_ids=ids),
        check,
        {"randperm a set + gather": by_choice},
        moved=2 * 4 * sets * size * 784,
        rival_scale=sets / (sets // 64 or 1),
    )


def _cloud(systems: int, atoms: int, device: torch.device) -> Tensor:
    """Atoms on a cubic grid at 1.2 sigma, jittered: [S, N, 3]."""
    side = math.ceil(atoms ** (1 / 3))
    grid = torch.cartesian_prod(*[torch.arange(side, dtype=torch.float32)] * 3)[:atoms] * 1.2
    generator = torch.Generator().manual_seed(1)
    return (grid + 0.05 * torch.randn(systems, atoms, 3, generator=generator)).to(device)


def _langevin(device: torch.device, systems: int, atoms: int, steps: int, rival_steps: int) -> Case:
    start = _cloud(systems, atoms, device)
    field = dynamics.LennardJones()
    integrator = dynamics.BAOAB(dt=0.002, temperature=0.5, friction=1.0)

    def run(positions: Tensor, count: int, backend: str | None = None) -> Tensor:
        return dynamics.simulate(
            field, positions, integrator=integrator, steps=count, seed=7, backend=backend
        ).positions

    def check() -> None:
        ours = run(start[:4], 10).cpu()
        truth = run(start[:4].cpu(), 10, "reference")
        # Ten steps of three updates round each coordinate 30 times by eps/2 of its size; sums of forces in another
        # order add dt^2 eps |f|, which is less.
        close = 30 * torch.finfo(torch.float32).eps * float(start.abs().max())
        torch.testing.assert_close(ours, truth, rtol=0, atol=close)

    return Case(
        f"{systems} x {atoms} LJ BAOAB, {steps} steps",
        lambda: run(start, steps),
        check,
        {"eager PyTorch": lambda: run(start, rival_steps, "reference")},
        work=systems * atoms * steps,
        unit="atom-steps",
        rival_scale=steps / rival_steps,
    )


def langevin_many(device: torch.device, tiny: bool) -> Case:
    return _langevin(device, *((4, 8, 20, 10) if tiny else (4096, 32, 1000, 10)))


def langevin_one(device: torch.device, tiny: bool) -> Case:
    return _langevin(device, *((1, 27, 20, 10) if tiny else (1, 512, 1000, 10)))


CASES: dict[str, Callable[[torch.device, bool], Case]] = {
    "noise.normal": noise_normal,
    "decode.sample": sample,
    "decode.sample filtered": sample_filtered,
    "neighbors.knn nearest": nearest,
    "neighbors.knn": nearest_five,
    "neighbors.count_within": counts_within,
    "neighbors.kernel_sum": kernel_sums,
    "decode.attention": attention,
    "latent.sample": latent_network,
    "context.draw": context_sets,
    "dynamics.simulate": langevin_many,
    "dynamics.simulate one system": langevin_one,
}
