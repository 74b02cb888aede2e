"""The gradient of noise through linear layers, in PyTorch: the noise drawn, and the layers' values made, again."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

_BLOCK = 4096  # rows whose layers are in memory at once

# In the order of csrc/latent/latent.h: y of (x, slope), and the gradient of x of (that of y, x, y, slope).
_FORWARD: tuple[Callable[[Tensor, float], Tensor], ...] = (
    lambda x, s: x,
    lambda x, s: F.relu(x),
    lambda x, s: F.leaky_relu(x, s),
    lambda x, s: F.elu(x, s),
    lambda x, s: F.gelu(x),
    lambda x, s: F.gelu(x, approximate="tanh"),
    lambda x, s: F.silu(x),
    lambda x, s: torch.tanh(x),
    lambda x, s: torch.sigmoid(x),
)
_BACKWARD: tuple[Callable[[Tensor, Tensor, Tensor, float], Tensor], ...] = (
    lambda g, x, y, s: g,
    lambda g, x, y, s: torch.where(x > 0, g, 0.0),
    lambda g, x, y, s: torch.where(x > 0, g, s * g),
    lambda g, x, y, s: torch.where(x > 0, g, (y + s) * g),
    lambda g, x, y, s: torch.ops.aten.gelu_backward(g, x),
    lambda g, x, y, s: torch.ops.aten.gelu_backward(g, x, approximate="tanh"),
    lambda g, x, y, s: torch.ops.aten.silu_backward(g, x),
    lambda g, x, y, s: g * (1 - y * y),
    lambda g, x, y, s: g * y * (1 - y),
)


def of_parameters(
    grad: Tensor,
    draw: Callable[[Tensor, Tensor], Tensor],
    seed: Tensor,
    sample_ids: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    activations: Sequence[int],
    slopes: Sequence[float],
) -> tuple[list[Tensor], list[Tensor]]:
    """Gradients of the weights and biases: blocks of rows in turn, their noise ``draw(seed, ids)`` drawn again."""
    to_weights, to_biases = [torch.zeros_like(w) for w in weights], [torch.zeros_like(b) for b in biases]
    for first in range(0, len(sample_ids), _BLOCK):
        part = slice(first, first + _BLOCK)
        outputs = [draw(seed[part] if seed.ndim else seed, sample_ids[part])]
        inputs = []
        for weight, bias, activation, slope in zip(weights, biases, activations, slopes, strict=True):
            inputs.append(F.linear(outputs[-1], weight, bias))
            outputs.append(_FORWARD[activation](inputs[-1], slope))
        g = grad[part]
        for i in reversed(range(len(weights))):
            g = _BACKWARD[activations[i]](g, inputs[i], outputs[i + 1], slopes[i])
            to_weights[i] = to_weights[i] + g.t() @ outputs[i]
            to_biases[i] = to_biases[i] + g.sum(0)
            g = g @ weights[i]
    return to_weights, to_biases
