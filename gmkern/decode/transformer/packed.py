"""A Transformer's weights as the compiled engine reads them: packed once, and again when a parameter has changed."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import torch
from torch import Tensor

from gmkern.decode.transformer import ops
from gmkern.decode.transformer.config import ACTIVATIONS, NORMS, POSITIONS, TransformerConfig
from gmkern.decode.transformer.module import RMSNorm, Transformer, rotation

SERVED = (torch.float32, torch.bfloat16, torch.float16)
_LANES = 16


class Packed(NamedTuple):
    """weights: fp32, opaque; shape and eps: what every op of the engine takes beside them."""

    weights: Tensor
    shape: list[int]
    eps: float
    config: TransformerConfig


def why_not(model: Transformer) -> str | None:
    """Why the engine cannot serve the model, or None."""
    for name, parameter in model.named_parameters():
        if parameter.device.type != "cpu":
            return f"takes parameters on the CPU, got {name} on {parameter.device}"
        if parameter.dtype not in SERVED:
            return f"takes float32, bfloat16 or float16 parameters, got {name} in {parameter.dtype}"
        if parameter.layout != torch.strided or type(parameter.data) is not Tensor:
            return f"takes dense parameters, got {name} of type {type(parameter.data).__name__}"
    return _altered(model)


@functools.lru_cache(maxsize=16)
def _made(config: TransformerConfig) -> dict[str, tuple[type, dict[str, torch.Size]]]:
    """The modules that a config makes: each one's type, and the shapes of its own parameters."""
    with torch.device("meta"):
        model = Transformer(config)
    return {name: (type(module), _shapes(module)) for name, module in model.named_modules()}


def _shapes(module: torch.nn.Module) -> dict[str, torch.Size]:
    return {name: value.shape for name, value in module._parameters.items() if value is not None}


def _altered(model: Transformer) -> str | None:
    """Why the config does not say what the model computes: another module, an own forward, a hook; or None."""
    made = _made(model.config)
    left = set(made)
    computed: list[str] = []
    for name, module in model.named_modules(remove_duplicate=False):
        if any(name.startswith(f"{part}.") for part in computed):
            continue
        shown = name or "the model"
        kind, shapes = made.get(name, (None, {}))
        left.discard(name)
        if hasattr(module, "settings"):  # a linear whose weight is computed from another model's parameters
            computed.append(name)
            if kind is not torch.nn.Linear:
                return f"takes the modules that the config makes, got a {type(module).__name__} for {shown}"
        elif kind is None or not _computes(type(module), kind) or _shapes(module) != shapes:
            return f"takes the modules that the config makes, got another {type(module).__name__} for {shown}"
        if "forward" in vars(module) or module._forward_hooks or module._forward_pre_hooks:
            return f"runs neither hooks nor a forward of its own, got one on {shown}"
    return f"takes the modules that the config makes, got no {min(left)}" if left else None


def _computes(given: type, kind: type) -> bool:
    """Whether a class computes what ``kind`` does: it, or a subclass that leaves the computation alone."""
    names = ("forward", "__call__", "hidden", "head_weight")
    return issubclass(given, kind) and all(getattr(given, n, None) is getattr(kind, n, None) for n in names)


def shape_of(config: TransformerConfig) -> list[int]:
    """The config as numbers, in the order of csrc/decode/transformer_ops.h."""
    return [
        config.vocab_size,
        config.n_layers,
        config.n_heads,
        config.d_model,
        config.max_seq_len,
        config.n_kv_heads,
        config.d_ff,
        config.head_dim,
        NORMS.index(config.norm),
        ACTIVATIONS.index(config.activation),
        POSITIONS.index(config.position),
        int(config.qk_norm),
        config.rotary_dim,
        int(config.parallel),
        config.window or 0,
    ]


@torch.no_grad()
def weights_of(model: Transformer) -> list[Tensor]:
    """What multiplies and adds, in the order of pack_transformer, an absent bias empty."""
    none, scale = torch.empty(0), model.config.embedding_scale
    embedding = model.embedding.weight
    weights = [embedding if scale == 1 else embedding.float() * scale]
    if model.position_embedding is not None:
        weights.append(model.position_embedding.weight)

    def linear(module: torch.nn.Linear) -> None:
        weights.extend([module.weight, none if module.bias is None else module.bias])

    def norm(module: torch.nn.Module) -> None:
        if isinstance(module, RMSNorm):
            weights.append(module.weight.float() + module.offset if module.offset else module.weight)
        else:
            weights.extend(module.parameters())

    block: Any
    for block in model.blocks:
        attention, mlp = block.attention, block.mlp
        norm(block.attention_norm)
        for module in (attention.q, attention.k, attention.v, attention.o):
            linear(module)
        for module in (attention.q_norm, attention.k_norm, block.mlp_norm):
            norm(module)
        for module in (mlp.up, mlp.down) if mlp.gate is None else (mlp.gate, mlp.up, mlp.down):
            linear(module)
    norm(model.norm)
    weights.append(model.head_weight)
    return weights


def pack(model: Transformer) -> Packed:
    """The packed weights, from the model's cache where no parameter has changed since they were packed.

    What is compared is a fingerprint of the values, not torch's version counters: they miss ``p.data.copy_(...)``, with
    which averaged weights are often swapped in. It costs one reading of the parameters, as one step for one row does.
    """
    parameters = [parameter.detach().contiguous() for parameter in model.parameters()]
    settings = [module.settings for module in model.modules() if hasattr(module, "settings")]
    key = (int(ops.fingerprint(parameters)), [parameter.dtype for parameter in parameters], settings)
    cached = model.__dict__.get("_packed")
    if cached is None or cached[0] != key:
        shape = shape_of(model.config)
        plain = [weight.detach().float().contiguous() for weight in weights_of(model)]
        cached = (key, Packed(ops.pack_transformer(plain, shape), shape, model.config.norm_eps, model.config))
        model.__dict__["_packed"] = cached
    return cached[1]


def turns(config: TransformerConfig, length: int) -> Tensor:
    """[length, rotary_dim]: the rotation's cosines, then its sines, at each position; [length, 0] without rope."""
    if config.position != "rope":
        return torch.empty(length, 0)
    return torch.cat(rotation(config, torch.arange(length), torch.float32), -1)


def cache_floats(config: TransformerConfig, length: int) -> int:
    """The size of one sequence's cache."""
    return config.n_layers * config.n_kv_heads * length * (config.head_dim + _up(config.head_dim))


def new_cache(config: TransformerConfig, slots: int, length: int) -> Tensor:
    """Keys and values of ``slots`` sequences of up to ``length`` tokens, in the engine's own order."""
    width = config.head_dim + _up(config.head_dim)
    return torch.empty(slots, config.n_layers, config.n_kv_heads, _up(length), width)


def _up(n: int) -> int:
    return -(-n // _LANES) * _LANES
