"""From a Hugging Face model to a Transformer of the same parameters."""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch import nn

from gmkern._validate import bad
from gmkern.decode.adapters.families import FAMILIES, Family, refuse
from gmkern.decode.adapters.parts import Part, check_linear, is_linear
from gmkern.decode.transformer import Transformer, TransformerConfig

_ROTATIONS = ("default", "linear", "llama3", "yarn")
_known: weakref.WeakKeyDictionary[nn.Module, tuple[tuple[int, ...], Transformer]] = weakref.WeakKeyDictionary()


def from_transformers(hf_model: nn.Module) -> Transformer:
    """A Transformer of the same parameters (see :meth:`gmkern.decode.Transformer.from_transformers`)."""
    inner = _unwrapped(hf_model)
    family = _family(inner)
    if family is None:
        raise bad("hf_model", f"a {type(hf_model).__name__}", _takes(), error=TypeError)
    config = _config(inner, family)
    with torch.device("meta"):  # shapes alone: every parameter is replaced
        model = Transformer(config)
    for ours, theirs in family.outer.items():
        if ours not in ("blocks", "rotation", "head") or (ours == "head" and model.head is not None):
            _place(model, ours, inner, theirs, family)
    blocks: Any = inner.get_submodule(family.outer["blocks"])
    for block, their_block in zip(model.blocks, blocks, strict=True):
        for ours, theirs in family.inner.items():
            _place(block, ours, their_block, theirs, family, config.n_heads)
    model.train(inner.training)
    left = [name for name, parameter in model.named_parameters() if parameter.is_meta]
    if left:
        raise bad("hf_model", f"no parameters for {left}", "a model with all of its weights")
    model.__dict__["_dropouts"] = (inner.config, family.dropouts)
    return model


def resolve(model: Any) -> Any:
    """A Hugging Face model's Transformer, built once and again when its modules or parameters are others; any other
    model itself. What ``torch.compile`` gave is the module that it was given."""
    if isinstance(model, nn.Module):
        model = getattr(model, "_orig_mod", model)
    if isinstance(model, Transformer) or not isinstance(model, nn.Module):
        return model
    inner = _unwrapped(model)
    if _family(inner) is None:
        if any(kind.__name__ == "PreTrainedModel" for kind in type(inner).__mro__):
            raise bad("model", f"a {type(inner).__name__}", _takes(), error=TypeError)
        return model
    key = tuple(map(id, (*inner.modules(), *inner.parameters())))
    known = _known.get(inner)
    if known is None or known[0] != key:
        known = (key, from_transformers(inner))
        _known[inner] = known
    known[1].train(inner.training)
    return known[1]


def active_dropout(model: Transformer) -> str | None:
    """The dropout of the Hugging Face model that would change its training forward, as "name = value"; or None."""
    config, names = model.__dict__.get("_dropouts", (None, ()))
    if not model.training:
        return None
    return next((f"{name} = {getattr(config, name)}" for name in names if getattr(config, name, None)), None)


def _takes() -> str:
    return "a Transformer, a callable, or a Hugging Face " + ", ".join(
        family.model_class for family in FAMILIES.values()
    )


def _unwrapped(model: Any) -> Any:
    """The model inside a PEFT wrapper."""
    if not hasattr(model, "peft_config") or not hasattr(model, "get_base_model"):
        return model
    if getattr(getattr(model, "active_peft_config", None), "is_prompt_learning", False):
        raise bad("model", f"a {type(model).__name__} that learns prompts", "a plain LoRA, or the base model")
    return model.get_base_model()


def _family(model: Any) -> Family | None:
    family = FAMILIES.get(getattr(getattr(model, "config", None), "model_type", None))  # type: ignore[arg-type]
    return family if family is not None and type(model).__name__ == family.model_class else None


def _config(model: Any, family: Family) -> TransformerConfig:
    config = model.config
    fields = family.read(config)
    if "rotation" in family.outer:
        rotation = model.get_submodule(family.outer["rotation"])
        if rotation.rope_type not in _ROTATIONS:
            kinds = " or ".join(map(repr, _ROTATIONS))
            name = "rope_parameters" if hasattr(config, "rope_parameters") else "rope_scaling"
            raise refuse(config, name, f"a rotation of type {kinds}")
        frequencies = tuple(rotation.inv_freq.double().tolist())
        fields |= {"rope_frequencies": frequencies, "rotary_dim": 2 * len(frequencies)}
        fields["rope_magnitude"] = float(rotation.attention_scaling)
    embedding, head = (model.get_submodule(family.outer[name]) for name in ("embedding", "head"))
    bos = config.bos_token_id
    vocab = embedding.weight.shape[0]
    return TransformerConfig(
        vocab_size=vocab,
        tie_embeddings=head.weight is embedding.weight,
        bos_id=bos if isinstance(bos, int) and 0 <= bos < vocab else None,
        **fields,
    )


def _place(ours: Any, our_name: str, theirs: Any, their_name: str, family: Family, heads: int = 1) -> None:
    """Puts their module, or their parameters, where ours stand."""
    parent, _, last = our_name.rpartition(".")
    owner, source = ours.get_submodule(parent), theirs.get_submodule(their_name)
    module = getattr(owner, last)
    if isinstance(module, nn.Linear):
        check_linear(their_name, source)
        if is_linear(source) and (family.fused is None or last not in "qkv"):
            setattr(owner, last, source)
        elif last in ("q", "k", "v") and family.fused:
            setattr(owner, last, Part(source, family.fused, "qkv".index(last), heads))
        else:
            setattr(owner, last, Part(source))
        return
    if isinstance(module, nn.Embedding):
        module.padding_idx = getattr(source, "padding_idx", None)  # its row has no gradient
    for name, parameter in module.named_parameters(recurse=False):
        their_parameter = getattr(source, name, None)
        if not isinstance(their_parameter, nn.Parameter) or their_parameter.shape != parameter.shape:
            raise bad(
                f"model.{their_name}",
                f"a {type(source).__name__}",
                f"a parameter {name} of shape {list(parameter.shape)}",
            )
        setattr(module, name, their_parameter)
