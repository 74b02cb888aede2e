"""gmkern.random, latent, context and classical with drawn arguments."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor, nn

from gmkern import classical, context
from gmkern.testing import tolerance
from tests.robustness.fuzzing import FLOATS, SIZES, WIDE, Draw, fuzz, laid_out, numbers


def keys(draw: Draw, rows: int) -> dict[str, Any]:
    """A seed, one or many, and who the rows are."""
    ids = (numbers(draw, [rows]) * 1e9).long()
    seed = draw(st.sampled_from([0, -1, 2**64 + 3, torch.tensor(5), torch.arange(rows)]))
    return {
        "seed": seed,
        "sample_ids": draw(st.sampled_from([ids.tolist(), ids.numpy()]))
        if draw(st.booleans())
        else laid_out(draw, ids),
    }


def noise(draw: Draw) -> dict[str, Any]:
    rows = draw(SIZES | st.just(0))
    step = draw(st.sampled_from([0, 2**32 - 1, torch.tensor(7), torch.arange(rows)]))
    given = {
        "step": step,
        "n": draw(SIZES | st.sampled_from([0, 100])),
        "stream": draw(st.sampled_from([0, 2**31 - 1])),
    }
    return keys(draw, rows) | given | {"dtype": draw(st.sampled_from(WIDE))}


test_uniform = fuzz("random.uniform")(noise)
test_normal = fuzz("random.normal")(noise)
test_gumbel = fuzz("random.gumbel")(noise)


@cache
def networks() -> dict[str, nn.Module]:
    torch.manual_seed(0)
    return {
        "mlp": nn.Sequential(nn.Linear(5, 16), nn.ReLU(), nn.Linear(16, 3)).eval(),
        "odd": nn.Sequential(nn.Linear(5, 4), nn.Softmax(-1), nn.Unflatten(-1, (2, 2))).eval(),
        "set": context.SetTransformer((3,), width=8, heads=2, layers=1).eval(),
        "noisy": context.SetTransformer((3,), noise_dim=2, width=8, heads=2, layers=1).eval(),
    }


# Sums of 16 products after sums of 5, of a few units each.
@fuzz("latent.sample", rounding=8 * tolerance(torch.float32, 16))
def test_latent_sample(draw: Draw) -> dict[str, Any]:
    """An MLP in one kernel, and a decoder that is none."""
    rows = draw(st.integers(1, 40))
    decoder = networks()[draw(st.sampled_from(["mlp", "odd"]))]
    batch = draw(st.sampled_from([1, 7, 1024]))
    return {"decoder": decoder, "n": rows, "latent_dim": 5, "batch_size": batch} | keys(draw, rows)


def train(draw: Draw) -> dict[str, Any]:
    m = draw(st.sampled_from([1, 2, 10, 33]))
    return {"n": draw(st.integers(0, 9)), "size": draw(st.integers(1, m)), "train": m}


@fuzz("context.draw")
def test_context_draw(draw: Draw) -> dict[str, Any]:
    """Points of any dtype and shape, which are gathered as they are."""
    given = train(draw)
    shape = [given["train"], *draw(st.sampled_from([[], [3], [2, 5], [0]]))]
    dtype = draw(st.sampled_from([*FLOATS, torch.int64, torch.uint8, torch.bool]))
    points = (numbers(draw, shape) * 3).to(dtype)
    return given | {"train": laid_out(draw, points)} | keys(draw, given["n"])


@fuzz("context.sample", rounding=64 * tolerance(torch.float32, 8), keep=("model",), also=("points", "noise"))
def test_context_sample(draw: Draw) -> dict[str, Any]:
    """A set transformer, with and without noise."""
    given = train(draw) | {"n": draw(st.integers(1, 9))}
    noise_dim = draw(st.sampled_from([0, 2]))
    points = laid_out(draw, numbers(draw, [given["train"], 3]))
    model = networks()["noisy" if noise_dim else "set"]
    batch = draw(st.sampled_from([1, 4, 1024]))
    return (
        given | {"model": model, "train": points, "noise_dim": noise_dim, "batch_size": batch} | keys(draw, given["n"])
    )


def parameters(thing: Any) -> list[Any]:
    if isinstance(thing, nn.Module):
        return [p.shape.numel() for p in thing.parameters()]
    return [thing.weights, thing.means]


@fuzz("context.SetTransformer", show=parameters)
def test_set_transformer(draw: Draw) -> dict[str, Any]:
    """Small ones."""
    heads = draw(st.sampled_from([1, 2]))
    return {
        "shape": draw(st.sampled_from([(3,), (2, 2)])),
        "noise_dim": 1,
        "width": 4 * heads,
        "heads": heads,
        "layers": 1,
    }


@fuzz("classical.RBM", show=parameters)
def test_rbm(draw: Draw) -> dict[str, Any]:
    """Small ones."""
    return {"visible": draw(SIZES), "hidden": draw(SIZES), "seed": draw(st.integers(-3, 3))}


@fuzz("classical.GaussianMixture", show=parameters)
def test_gaussian_mixture(draw: Draw) -> dict[str, Any]:
    """Weights that add up to 1, spherical covariances."""
    k, dim = draw(st.integers(1, 4)), draw(SIZES)
    dtype = draw(st.sampled_from(WIDE))
    covariance = draw(st.sampled_from([torch.ones(k, dtype=dtype), torch.eye(dim, dtype=dtype)]))
    return {
        "weights": torch.full((k,), 1 / k, dtype=dtype),
        "means": laid_out(draw, numbers(draw, [k, dim], dtype)),
        "covariance": covariance,
    }


@cache
def machine() -> classical.RBM:
    return classical.RBM(6, 4, seed=1)


@cache
def mixture() -> classical.GaussianMixture:
    return classical.GaussianMixture(torch.tensor([0.5, 0.5]), torch.tensor([[0.0, 0.0], [3.0, 1.0]]), torch.ones(2))


def points_of(width: int) -> Any:
    def case(draw: Draw) -> dict[str, Any]:
        return {"x": laid_out(draw, numbers(draw, [draw(SIZES), width]))}

    return case


def units(draw: Draw) -> Tensor:
    return (numbers(draw, [draw(SIZES), 6]) > 0).float()


test_mixture_log_prob = fuzz("classical.GaussianMixture.log_prob", of=mixture)(points_of(2))
test_mixture_responsibilities = fuzz("classical.GaussianMixture.responsibilities", of=mixture)(points_of(2))


@fuzz("classical.GaussianMixture.sample", of=mixture)
def test_mixture_sample(draw: Draw) -> dict[str, Any]:
    """The same samples again."""
    rows = draw(st.integers(0, 9))
    return {"n": rows} | keys(draw, rows)


@fuzz("classical.GaussianMixture.fit", show=parameters, keep=("max_steps",))
def test_mixture_fit(draw: Draw) -> dict[str, Any]:
    """The same fit again."""
    x = numbers(draw, [draw(st.integers(8, 40)), draw(st.integers(1, 3))], draw(st.sampled_from(WIDE)), "normal")
    return {"data": laid_out(draw, x), "components": draw(st.integers(1, 3)), "seed": draw(st.integers(0, 9))}


def fitted(**given: Any) -> classical.RBM:
    return classical.RBM(6, 4, seed=1).fit(**given)


@fuzz("classical.RBM.sample", of=machine)
def test_rbm_sample(draw: Draw) -> dict[str, Any]:
    """Chains on both backends."""
    rows = draw(st.integers(1, 9))
    return {"n": rows, "steps": draw(st.integers(1, 4))} | keys(draw, rows)


@fuzz("classical.RBM.log_prob", of=machine)
def test_rbm_log_prob(draw: Draw) -> dict[str, Any]:
    """Exact for a small machine."""
    return {"visible": units(draw)}


@fuzz("classical.RBM.free_energy", of=machine)
def test_rbm_free_energy(draw: Draw) -> dict[str, Any]:
    """Of visible units."""
    return {"visible": units(draw)}


@fuzz("classical.RBM.fit", of=machine, call=fitted, show=parameters, keep=("epochs", "batch_size", "chains"))
def test_rbm_fit(draw: Draw) -> dict[str, Any]:
    """The same fit again."""
    return {
        "data": units(draw),
        "epochs": draw(st.integers(1, 2)),
        "seed": draw(st.integers(0, 9)),
        "batch_size": 8,
        "chains": 4,
    }
