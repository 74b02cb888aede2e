"""Linears that read another model's parameters where they lie: transposed, fused with others, or under a LoRA."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from gmkern._validate import bad


class Part(nn.Module):
    """Some outputs of ``source``, a linear of another model. ``weight`` and ``bias`` are computed from its parameters
    at each use, as views where their layout allows, so that values and gradients are the other model's.

    Parameters
    ----------
    source : an ``nn.Linear``, a Conv1D ([inputs, outputs]), or a PEFT LoRA layer over one.
    fused : None for all outputs; "thirds" and "heads" as in :class:`~gmkern.decode.adapters.families.Family`.
    index, heads : which of query, key and value, and of how many heads, where fused.
    """

    def __init__(self, source: nn.Module, fused: str | None = None, index: int = 0, heads: int = 1):
        super().__init__()
        self.source, self.fused, self.index, self.heads = source, fused, index, heads

    @property
    def weight(self) -> Tensor:
        """[outputs, inputs]."""
        return self._take(whole_weight(self.source))

    @property
    def bias(self) -> Tensor | None:
        """[outputs], or None."""
        base: Any = getattr(self.source, "base_layer", self.source)
        return None if base.bias is None else self._take(base.bias)

    def _take(self, whole: Tensor) -> Tensor:
        if self.fused is None:
            return whole
        if self.fused == "thirds":
            return whole.chunk(3)[self.index]
        return whole.unflatten(0, (self.heads, 3, -1))[:, self.index].flatten(0, 1)

    @property
    def settings(self) -> tuple[Any, ...]:
        """What the weight depends on beside parameters: a LoRA's switches."""
        layer: Any = self.source
        if not _is_lora(layer):
            return ()
        return (layer.disable_adapters, layer.merged, *((name, layer.scaling[name]) for name in layer.active_adapters))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias)


def is_linear(module: nn.Module) -> bool:
    return type(module) is nn.Linear


def _is_conv(module: Any) -> bool:
    return type(module).__name__ == "Conv1D" and getattr(module, "weight", None) is not None


def _is_lora(module: Any) -> bool:
    return all(hasattr(module, name) for name in ("base_layer", "lora_A", "lora_B", "scaling", "active_adapters"))


def check_linear(name: str, module: Any) -> None:
    """That the module is one that :class:`Part` reads."""
    takes = "nn.Linear, transformers' Conv1D, or a plain LoRA over one (or merge first: model.merge_and_unload())"
    if _is_lora(module):
        for feature in ("use_dora", "lora_bias", "lora_variant"):
            given = getattr(module, feature, None) or {}
            if any(given.get(adapter) for adapter in module.active_adapters):
                raise bad(f"model.{name}", f"a LoRA layer with {feature}", takes)
        check_linear(f"{name}.base_layer", module.base_layer)
    elif not (is_linear(module) or _is_conv(module)):
        raise bad(f"model.{name}", f"a {type(module).__name__}", takes, error=TypeError)


def whole_weight(module: Any) -> Tensor:
    """[outputs, inputs] of a linear that check_linear passed; with a LoRA, W + scaling B A (Hu et al., 2022)."""
    if not _is_lora(module):
        return module.weight.t() if _is_conv(module) else module.weight
    weight = whole_weight(module.base_layer)
    if module.disable_adapters or module.merged:
        return weight
    for adapter in module.active_adapters:
        if adapter in module.lora_A:
            down, up = module.lora_A[adapter].weight, module.lora_B[adapter].weight
            weight = weight + module.scaling[adapter] * (up @ down).to(weight.dtype)
    return weight
