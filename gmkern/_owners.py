"""Which backend serves each public op on each kind of device, as data: one owner per op and device.

The table of docs/architecture.md is this one, and a test compares both with what the ops really do.
"""

from __future__ import annotations

from typing import NamedTuple


class Owner(NamedTuple):
    """An op's owners: the backend that a call without ``backend=`` gets, on the CPU and on a CUDA device."""

    op: str
    """Its public name below ``gmkern``."""
    cpu: str
    cuda: str
    kernels: tuple[str, ...]
    """The compiled ops in ``torch.ops.gmkern`` behind it; none where it is composed of other ops."""
    why: str
    """The reason for these owners, in a line."""


OWNERS: tuple[Owner, ...] = (
    Owner("random.uniform", "cpu", "triton", ("noise",), "element-wise, so nothing that CUDA C++ could do better"),
    Owner("random.normal", "cpu", "triton", ("noise",), "as above"),
    Owner("random.gumbel", "cpu", "triton", ("noise",), "as above"),
    Owner(
        "neighbors.knn",
        "cpu",
        "triton",
        ("knn", "knn_course", "edge_pull"),
        "screened by tiles of products, which Triton gives to tensor cores; differences decide, sorted in registers",
    ),
    Owner("neighbors.count_within", "cpu", "triton", ("count_within",), "as above, counted"),
    Owner(
        "neighbors.kernel_sum",
        "cpu",
        "triton",
        ("kernel_sum", "kernel_sum_backward", "kernel_sum_resume", "kernel_sum_total"),
        "tiles of differences, each pair a term; gradients by a pass a side",
    ),
    Owner("neighbors.log_kernel_sum", "cpu", "triton", ("kernel_sum", "kernel_sum_backward"), "as above"),
    Owner(
        "classical.RBM.sample",
        "cpu",
        "triton",
        ("gibbs_chain",),
        "products of tiles with their draws: all sweeps in one launch, or a launch a layer",
    ),
    Owner("context.draw", "cpu", "triton", ("draw_sets",), "a shuffle in registers and a gather: one launch"),
    Owner("decode.attention", "cpu", "triton", ("attention",), "tiles of products, which Triton gives to tensor cores"),
    Owner(
        "decode.sample",
        "cpu",
        "triton",
        ("sample",),
        "rows of reductions, which Triton schedules well, and no nvcc is needed",
    ),
    Owner(
        "decode.token_logprobs",
        "cpu",
        "triton",
        ("token_logprobs", "token_logprobs_backward"),
        "as above",
    ),
    Owner(
        "decode.score",
        "cpu",
        "triton",
        ("score_tokens", "score_tokens_backward", "transformer_hidden", "transformer_head"),
        "generate's engine and row function, so that values are its bits",
    ),
    Owner(
        "decode.generate",
        "cpu",
        "triton",
        (
            "fingerprint",
            "pack_transformer",
            "packed_transformer_size",
            "transformer_logits",
            "transformer_hidden",
            "transformer_head",
            "generate_steps",
        ),
        "the whole step in one call; on a GPU a graph of a few kernels a layer, or many steps in a launch",
    ),
    Owner("latent.sample", "cpu", "triton", ("latent_mlp",), "noise and products of tiles: one launch"),
    Owner(
        "dynamics.energy_and_forces",
        "cpu",
        "cuda",
        ("energy_and_forces", "energy_and_forces_backward"),
        "the trajectory's own sums over pairs, eight threads an atom; parameters' slopes by key, without atomics",
    ),
    Owner(
        "dynamics.simulate",
        "cpu",
        "cuda",
        ("simulate", "euler_maruyama_step"),
        "a block a system, all steps in one launch, the state in shared memory; large ones a warp an atom, by lists",
    ),
    Owner(
        "dynamics.path_log_prob",
        "cpu",
        "cuda",
        ("path_log_prob", "gaussian_log_prob"),
        "simulate's own step along stored states, so that values are its bits",
    ),
    Owner(
        "dynamics.EGNN",
        "cpu",
        "triton",
        ("egnn_layer", "egnn_layer_backward"),
        "messages are products of tiles, which Triton gives to tensor cores; an adjoint by a pass a side",
    ),
    Owner(
        "dynamics.neighbor_list",
        "cpu",
        "cuda",
        ("neighbor_list",),
        "a warp an atom counts and writes its pairs in the one order, from the cells around it in large systems",
    ),
)
