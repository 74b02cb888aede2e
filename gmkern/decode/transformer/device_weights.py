"""A Transformer's weights as the Triton kernels read them: where they lie, or copies that are kept up to date."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from gmkern.decode.transformer import packed
from gmkern.decode.transformer.module import Transformer


class Linear(NamedTuple):
    """weight [outputs, inputs] in fp32, bf16, fp16 or int8; bias and scale [outputs] fp32, or None."""

    weight: Tensor
    bias: Tensor | None
    scale: Tensor | None


class Norm(NamedTuple):
    """[width] fp32; a root-mean-square norm has no bias."""

    weight: Tensor
    bias: Tensor | None


class Layer(NamedTuple):
    before_attention: Norm
    qkv: Linear
    out: Linear
    q_norm: Tensor | None
    k_norm: Tensor | None
    after_attention: Norm | None
    before_mlp: Norm
    gate: Linear | None
    up: Linear
    down: Linear
    after_mlp: Norm | None


class DeviceWeights:
    """embedding, places (learned positions, or None), layers, norm and head.

    A matrix in fp32, bf16 or fp16 is read where it lies; what is put side by side, scaled, computed from other numbers
    or held in another format is a copy. ``format`` is one of ``packed.FORMATS``; None and "float32" leave parameters as
    they are, since kernels widen what they read.
    """

    def __init__(self, model: Transformer, format: str | None):
        self.config, self.format = model.config, format
        self.device = model.embedding.weight.device
        self._made = list(self._laid_out(model))
        made = iter(tensor for tensor, _ in self._made)
        config = self.config

        def norm() -> Norm:
            return Norm(next(made), next(made) if config.norm == "layernorm" else None)

        def linear(biased: bool = True) -> Linear:
            weight, scale = next(made), next(made)
            bias = next(made) if biased else scale[:0]
            return Linear(weight, bias if bias.numel() else None, scale if scale.numel() else None)

        def layer() -> Layer:
            return Layer(
                before_attention=norm(),
                qkv=linear(),
                out=linear(),
                q_norm=next(made) if config.qk_norm else None,
                k_norm=next(made) if config.qk_norm else None,
                after_attention=norm() if config.post_norms else None,
                before_mlp=norm(),
                gate=linear() if config.gated else None,
                up=linear(),
                down=linear(),
                after_mlp=norm() if config.post_norms else None,
            )

        self.embedding = next(made)
        self.places = next(made) if config.position == "learned" else None
        self.layers = [layer() for _ in range(config.n_layers)]
        self.norm, self.head = norm(), linear(biased=False)

    def exact(self, model: Transformer) -> bool:
        """Whether the format holds the parameters as they are."""
        linears = (m.weight for m in model.modules() if isinstance(m, torch.nn.Linear))
        narrow = self.format == "bfloat16" and all(weight.dtype == torch.bfloat16 for weight in linears)
        return self.format in (None, "float32") or (narrow and model.head_weight.dtype == torch.bfloat16)

    @torch.no_grad()
    def refresh(self, model: Transformer) -> bool:
        """Reads the parameters as they are now, into the tensors that are there; False where one has moved."""
        for (held, owned), (fresh, _) in zip(self._made, self._laid_out(model), strict=True):
            if held.dtype != fresh.dtype or held.shape != fresh.shape or held.device != fresh.device:
                return False
            if owned:
                held.copy_(fresh)
            elif held.data_ptr() != fresh.data_ptr():
                return False
        return True

    @torch.no_grad()
    def _laid_out(self, model: Transformer) -> Iterator[tuple[Tensor, bool]]:
        """Every tensor in the order in which ``__init__`` takes them, and whether it is a copy of ours.

        A matrix is followed by its scale and, but for the head, its bias; either is empty where there is none.
        """
        storages = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
        weights, config = iter(packed.weights_of(model)), self.config

        def given(tensor: Tensor) -> tuple[Tensor, bool]:
            tensor = tensor.detach().contiguous()
            return tensor, tensor.untyped_storage().data_ptr() not in storages

        def vectors(count: int) -> Iterator[tuple[Tensor, bool]]:
            for _ in range(count):
                yield next(weights).detach().to(self.device, torch.float32, copy=True), True

        def matrix(weight: Tensor) -> Iterator[tuple[Tensor, bool]]:
            if self.format != "int8":
                yield given(weight.bfloat16() if self.format == "bfloat16" else weight)
                yield weight.new_empty(0), True
                return
            weight = weight.float()
            scale = weight.abs().amax(1) / 127
            steps = torch.where(scale[:, None] > 0, weight / scale[:, None], 0.0).round().clamp(-127, 127)
            yield steps.to(torch.int8), True
            yield scale, True

        def linear() -> Iterator[tuple[Tensor, bool]]:
            yield from matrix(next(weights))
            yield from vectors(1)

        def side_by_side(parts: int) -> Iterator[tuple[Tensor, bool]]:
            pairs = [(next(weights).detach(), next(weights).detach()) for _ in range(parts)]
            yield from matrix(torch.cat([weight for weight, _ in pairs]))
            yield torch.cat([bias.to(self.device, torch.float32) for _, bias in pairs]), True

        norm = 2 if config.norm == "layernorm" else 1
        yield given(next(weights))
        if config.position == "learned":
            yield given(next(weights))
        for _ in range(config.n_layers):
            yield from vectors(norm)
            yield from side_by_side(3)
            yield from linear()
            yield from vectors(2 * config.qk_norm + norm * config.post_norms + norm)
            for _ in range(3 if config.gated else 2):
                yield from linear()
            yield from vectors(norm * config.post_norms)
        yield from vectors(norm)
        yield from matrix(next(weights))
