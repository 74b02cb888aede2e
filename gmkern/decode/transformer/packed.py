"""A Transformer's weights as the compiled engine reads them: packed once, and again when a parameter has changed."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import torch
from torch import Tensor

from gmkern import _backend
from gmkern._validate import bad
from gmkern.decode.transformer import ops
from gmkern.decode.transformer.config import ACTIVATIONS, NORMS, POSITIONS, TransformerConfig
from gmkern.decode.transformer.module import RMSNorm, Transformer, rotation

SERVED = (torch.float32, torch.bfloat16, torch.float16)
FORMATS = ("float32", "bfloat16", "int8")  # of the linears' weights: WeightFormat in csrc/decode/transformer.h
_LANES = 16


class Packed(NamedTuple):
    """weights: opaque; shape and reals: what every op of the engine takes beside them; format: one of FORMATS."""

    weights: Tensor
    shape: list[int]
    reals: list[float]
    config: TransformerConfig
    format: str
    exact: bool  # the format holds the parameters as they are


def why_not(model: Transformer) -> str | None:
    """Why the engine on the CPU cannot serve the model, or None."""
    for name, parameter in model.named_parameters():
        if parameter.device.type != "cpu":
            return f"takes parameters on the CPU, got {name} on {parameter.device}"
    return _unread(model)


def why_not_on_gpu(model: Transformer) -> str | None:
    """Why the Triton kernels cannot serve the model, or None."""
    device = model.embedding.weight.device
    for name, parameter in model.named_parameters():
        if parameter.device != device:
            return f"takes parameters on one device, got {name} on {parameter.device} and others on {device}"
    if model.config.head_dim > 256:
        return f"takes head_dim to 256, got {model.config.head_dim}"
    return _backend.on_triton(device) or _unread(model)


def _unread(model: Transformer) -> str | None:
    """Why an engine cannot read the parameters, or they are not all that the model computes with; or None."""
    for name, parameter in model.named_parameters():
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


def shape_of(config: TransformerConfig, format: str = "float32") -> list[int]:
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
        int(config.post_norms),
        FORMATS.index(format),
        *(window or 0 for window in config.windows),
    ]


def reals_of(config: TransformerConfig) -> list[float]:
    """The config's other numbers, in the order of csrc/decode/transformer_ops.h."""
    scale = config.head_dim**-0.5 if config.attention_scale is None else config.attention_scale
    return [config.norm_eps, scale, config.attention_softcap or 0.0, config.logit_softcap or 0.0]


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
        for module in (attention.q_norm, attention.k_norm, block.attention_post_norm, block.mlp_norm):
            norm(module)
        for module in (mlp.up, mlp.down) if mlp.gate is None else (mlp.gate, mlp.up, mlp.down):
            linear(module)
        norm(block.mlp_post_norm)
    norm(model.norm)
    weights.append(model.head_weight)
    return weights


def check_format(weights: str | None) -> None:
    """``generate``'s and ``score``'s argument ``weights``."""
    if weights is not None and weights not in FORMATS:
        raise bad("weights", repr(weights), "None, 'float32', 'bfloat16' or 'int8'")


def pack(model: Transformer, format: str | None = None) -> Packed:
    """The packed weights, from the model's cache where no parameter has changed since they were packed.

    What is compared is a fingerprint of the values, not torch's version counters: they miss ``p.data.copy_(...)``, with
    which averaged weights are often swapped in. It costs one reading of the parameters, as one step for one row does.

    ``format`` None takes bfloat16 where all linears' weights are bfloat16, and float32 elsewhere: what holds them.
    """
    parameters = [parameter.detach().contiguous() for parameter in model.parameters()]
    settings = [module.settings for module in model.modules() if hasattr(module, "settings")]
    key = (int(ops.fingerprint(parameters)), [parameter.dtype for parameter in parameters], settings)
    held = model.__dict__.get("_packed")
    if held is None or held[0] != key:
        held = model.__dict__["_packed"] = (key, {})
    made: dict[str | None, Packed] = held[1]
    if format not in made:
        weights = [_read(weight.detach()) for weight in weights_of(model)]
        tables = 1 if model.position_embedding is None else 2  # looked up, and held in fp32: what follows multiplies
        narrow = all(weight.dtype == torch.bfloat16 for weight in weights[tables:] if weight.ndim == 2)
        chosen = format or ("bfloat16" if narrow else "float32")
        if chosen not in made:
            shape, exact = shape_of(model.config, chosen), chosen == "float32" or (chosen == "bfloat16" and narrow)
            values = ops.pack_transformer(weights, shape)
            made[chosen] = Packed(values, shape, reals_of(model.config), model.config, chosen, exact)
        made[format] = made[chosen]
    return made[format]


def _read(weight: Tensor) -> Tensor:
    """A parameter as pack_transformer takes it."""
    return (weight if weight.dtype == torch.bfloat16 else weight.float()).contiguous()


def turns(config: TransformerConfig, length: int) -> Tensor:
    """[length, rotary_dim]: the rotation's cosines, then its sines, at each position; [length, 0] without rope."""
    if config.position != "rope":
        return torch.empty(length, 0, dtype=torch.float32)
    return torch.cat(rotation(config, torch.arange(length), torch.float32), -1)


def cache_floats(config: TransformerConfig, length: int) -> int:
    """The size of one sequence's cache."""
    return config.n_layers * config.n_kv_heads * length * (config.head_dim + _up(config.head_dim))


def new_cache(config: TransformerConfig, slots: int, length: int) -> Tensor:
    """Keys and values of ``slots`` sequences of up to ``length`` tokens, in the engine's own order."""
    width = config.head_dim + _up(config.head_dim)
    return torch.empty(slots, config.n_layers, config.n_kv_heads, _up(length), width, dtype=torch.float32)


def _up(n: int) -> int:
    return -(-n // _LANES) * _LANES
