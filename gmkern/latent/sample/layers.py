"""What a decoder computes, as linear layers with activations between them: read from its modules, norms folded in."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

ACTIVATIONS = ("identity", "relu", "leaky_relu", "elu", "gelu", "gelu_tanh", "silu", "tanh", "sigmoid")
"""In the order of csrc/latent/latent.h."""

_READ: dict[type, Callable[[Any], tuple[str, float]]] = {
    nn.ReLU: lambda m: ("relu", 0.0),
    nn.LeakyReLU: lambda m: ("leaky_relu", m.negative_slope),
    nn.ELU: lambda m: ("elu", m.alpha),
    nn.GELU: lambda m: ("gelu_tanh" if m.approximate == "tanh" else "gelu", 0.0),
    nn.SiLU: lambda m: ("silu", 0.0),
    nn.Tanh: lambda m: ("tanh", 0.0),
    nn.Sigmoid: lambda m: ("sigmoid", 0.0),
}


class Layers(NamedTuple):
    """x -> activation(x weight.T + bias), layer by layer, and the shape of a sample made of the last one's outputs."""

    weights: list[Tensor]
    biases: list[Tensor]
    activations: list[int]
    slopes: list[float]
    shape: tuple[int, ...]


class NotLayers(Exception):
    """Why a decoder is not a stack of linear layers."""


def read(decoder: nn.Module) -> Layers:
    """The layers of a decoder; weights are functions of its parameters, so that gradients reach those.

    Raises
    ------
    NotLayers : the decoder computes something else; the text says what.
    """
    found = Layers([], [], [], [], ())
    shape: tuple[int, ...] | None = None
    pending: tuple[Tensor, Tensor] | None = None  # x -> x scale + shift, to be folded into the next linear
    for name, module in _parts(decoder):
        if shape is not None:
            raise NotLayers(f"takes nothing after Unflatten, got {name}")
        if type(module) is nn.Linear:
            weight: Tensor = module.weight
            bias: Tensor = weight.new_zeros(weight.shape[0]) if module.bias is None else module.bias
            if pending is not None:
                scale, shift = pending
                weight, bias, pending = weight * scale, bias + weight @ shift, None
            found.weights.append(weight)
            found.biases.append(bias)
            found.activations.append(0)
            found.slopes.append(0.0)
        elif type(module) is nn.BatchNorm1d:
            if pending is not None or not found.weights:
                raise NotLayers(f"takes a BatchNorm1d beside a Linear, got {name}")
            scale, shift = _affine(name, module)
            if found.activations[-1] == 0:
                found.weights[-1] = found.weights[-1] * scale[:, None]
                found.biases[-1] = found.biases[-1] * scale + shift
            else:
                pending = scale, shift
        elif type(module) in _READ:
            activation, slope = _READ[type(module)](module)
            if not found.weights or found.activations[-1] != 0 or pending is not None:
                raise NotLayers(f"takes one activation after each Linear, got {name}")
            found.activations[-1] = ACTIVATIONS.index(activation)
            found.slopes[-1] = float(slope)
        elif type(module) is nn.Unflatten and module.dim in (1, -1) and found.weights:
            shape = tuple(int(extent) for extent in module.unflattened_size)
        elif type(module) is nn.Flatten and (module.start_dim, module.end_dim) == (1, -1):
            continue  # of rows, which are flat
        else:
            raise NotLayers(f"takes Linear, BatchNorm1d, activations and Unflatten, got {name}")
    if not found.weights:
        raise NotLayers("takes at least one Linear")
    if pending is not None:
        raise NotLayers("takes a BatchNorm1d beside a Linear, got one after the last activation")
    device = found.weights[0].device
    for tensor in (*found.weights, *found.biases):
        if tensor.dtype != torch.float32 or tensor.device != device or tensor.layout != torch.strided:
            raise NotLayers(f"takes float32 parameters on one device, got {tensor.dtype} on {tensor.device}")
    outputs = found.weights[-1].shape[0]
    if shape is not None:
        shape = tuple(torch.empty(outputs, device="meta").unflatten(0, shape).shape)  # resolves an extent of -1
    return found._replace(shape=(outputs,) if shape is None else shape)


def _parts(module: nn.Module, name: str = "the decoder") -> Iterator[tuple[str, nn.Module]]:
    """The modules that compute, in order; those that do nothing in eval mode are left out."""
    shown = f"{type(module).__name__} ({name})"
    if "forward" in vars(module) or module._forward_hooks or module._forward_pre_hooks:
        raise NotLayers(f"runs neither hooks nor a forward of its own, got one on {shown}")
    if type(module) is nn.Sequential:
        for inner, part in module._modules.items():  # named_children leaves out a module that comes again
            if part is None:
                raise NotLayers(f"takes modules, got None ({inner})")
            yield from _parts(part, inner if name == "the decoder" else f"{name}.{inner}")
    elif isinstance(module, nn.Dropout) and (not module.training or module.p == 0):
        return
    elif type(module) is not nn.Identity:
        yield shown, module


def _affine(name: str, norm: nn.BatchNorm1d) -> tuple[Tensor, Tensor]:
    """A BatchNorm1d in eval mode as x -> x scale + shift."""
    if norm.training or norm.running_mean is None or norm.running_var is None:
        raise NotLayers(f"takes norms in eval mode with running statistics, got {name}")
    scale = (norm.running_var + norm.eps).rsqrt()
    if norm.weight is not None:
        scale = scale * norm.weight
    shift = -norm.running_mean * scale
    return scale, shift if norm.bias is None else shift + norm.bias
