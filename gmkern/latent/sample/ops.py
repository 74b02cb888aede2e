"""The op ``gmkern::latent_mlp``: its fake kernel, and the gradient of weights and biases."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gmkern._interrupt import audible
from gmkern._library import ops
from gmkern.latent.sample import gradient
from gmkern.random.ops import KINDS, noise
from gmkern.random.streams import LATENT

latent_mlp = audible(ops.latent_mlp.default)


@torch.library.register_fake("gmkern::latent_mlp")
def _(
    seed: Tensor,
    sample_ids: Tensor,
    weights: list[Tensor],
    biases: list[Tensor],
    activations: list[int],
    slopes: list[float],
) -> Tensor:
    return weights[0].new_empty((sample_ids.shape[0], weights[-1].shape[0]))


@torch.library.register_kernel("gmkern::latent_mlp", "cuda")
def _(*args: Any) -> Tensor:
    from gmkern.latent.sample import triton_kernels  # Triton is optional, and slow to import

    return triton_kernels.latent_mlp(*args)


def _context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    seed, sample_ids, weights, biases, ctx.activations, ctx.slopes = inputs
    ctx.depth = len(weights)
    ctx.save_for_backward(seed, sample_ids, *weights, *biases)


def _backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    seed, sample_ids, *parameters = ctx.saved_tensors
    weights, biases = parameters[: ctx.depth], parameters[ctx.depth :]

    def draw(seeds: Tensor, ids: Tensor) -> Tensor:
        return noise(seeds, ids, torch.zeros_like(ids[:1]), weights[0].shape[1], LATENT, KINDS.index("normal"), False)

    given = (seed, sample_ids, weights, biases, ctx.activations, ctx.slopes)
    to_weights, to_biases = gradient.of_parameters(grad, draw, *given)
    return None, None, to_weights, to_biases, None, None


torch.library.register_autograd("gmkern::latent_mlp", _backward, setup_context=_context)
