"""A Transformer's parameters under a Hugging Face family's names."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gmkern import _validate
from gmkern._validate import bad
from gmkern.decode.adapters.families import FAMILIES, Family
from gmkern.decode.transformer import Transformer


def hf_state_dict(model: Transformer, model_type: str) -> dict[str, Tensor]:
    """The parameters, detached, under ``model_type``'s names (see :meth:`gmkern.decode.Transformer.hf_state_dict`)."""
    _validate.one_of("model_type", model_type, tuple(FAMILIES))
    family = FAMILIES[model_type]
    _check(model, model_type, family)
    state = {}
    for ours, theirs in family.outer.items():
        if ours == "head":
            state[f"{theirs}.weight"] = model.head_weight
        elif ours not in ("blocks", "rotation"):
            _name(state, theirs, model.get_submodule(ours))
    for index, block in enumerate(model.blocks):
        prefix = f"{family.outer['blocks']}.{index}."
        for ours, theirs in family.inner.items():
            module: Any = block.get_submodule(ours)
            if ours == "attention.q" and family.fused:
                three = [block.get_submodule(f"attention.{name}") for name in "qkv"]
                for field in ("weight", "bias"):
                    if getattr(module, field) is not None:
                        state[f"{prefix}{theirs}.{field}"] = _fuse([getattr(m, field) for m in three], model, family)
            elif not (family.fused and ours in ("attention.k", "attention.v")):
                _name(state, prefix + theirs, module)
    if family.transposed:
        linears = {f".{theirs}.weight" for ours, theirs in family.inner.items() if "norm" not in ours}
        state = {n: t.t() if any(n.endswith(end) for end in linears) else t for n, t in state.items()}
    return {name: tensor.detach().contiguous() for name, tensor in state.items()}


def _name(state: dict[str, Tensor], name: str, module: Any) -> None:
    state[f"{name}.weight"] = module.weight
    if getattr(module, "bias", None) is not None:
        state[f"{name}.bias"] = module.bias


def _fuse(parts: list[Tensor], model: Transformer, family: Family) -> Tensor:
    if family.fused == "thirds":
        return torch.cat(parts)
    heads = [part.unflatten(0, (model.config.n_heads, -1)) for part in parts]
    return torch.stack(heads, 1).flatten(0, 2)


def _check(model: Transformer, model_type: str, family: Family) -> None:
    """That the family has a place for each part of the model."""
    c = model.config
    llama = model_type not in ("gpt2", "gpt_neox")
    wants = {
        "norm": "rmsnorm" if llama else "layernorm",
        "position": "learned" if model_type == "gpt2" else "rope",
        "gated": llama,
        "qk_norm": model_type == "qwen3",
        "norm_offset": 1.0 if model_type in ("gemma", "gemma2") else 0.0,
        "post_norms": model_type == "gemma2",
        "parallel": c.parallel if model_type == "gpt_neox" else False,
        "n_kv_heads": c.n_heads if family.fused else c.n_kv_heads,
    }
    for name, value in wants.items():
        if getattr(c, name) != value:
            raise bad("model_type", repr(model_type), f"one that fits the model's {name} = {getattr(c, name)!r}")
