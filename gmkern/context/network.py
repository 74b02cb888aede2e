"""A network that reads a set of points and makes one like them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from gmkern import _validate


class SetTransformer(nn.Module):
    """Attention over a set, pooled by a query that carries noise: ``points [B, size, *shape] -> [B, *shape]``.

    The order of a set does not matter beyond rounding: points carry no position, and all else is a sum over the set.

    Parameters
    ----------
    shape : of a point, such as [64] or [1, 28, 28].
    noise_dim : numbers of noise that ``forward`` takes besides the points; 0 makes a function of the set alone.
    width, heads, layers : of the transformer.

    Notes
    -----
    Method: the Set Transformer's self-attention and pooling by multi-head attention (Lee et al., ICML 2019), in
    pre-norm form, without dropout.

    Examples
    --------
    >>> import torch
    >>> from gmkern.context import SetTransformer
    >>> SetTransformer([3], noise_dim=2)(torch.randn(5, 10, 3), torch.randn(5, 2)).shape
    torch.Size([5, 3])
    """

    def __init__(self, shape: Sequence[int], *, noise_dim: int = 0, width: int = 128, heads: int = 4, layers: int = 2):
        super().__init__()
        extents = _validate.sequence("shape", shape, "ints >= 1")
        self.shape = tuple(_validate.integer("shape", extent, low=1) for extent in extents)
        width, heads = _validate.integer("width", width, low=1), _validate.integer("heads", heads, low=1)
        if width % heads:
            raise _validate.bad("width", str(width), f"a multiple of heads, {heads}")
        self.noise_dim = _validate.integer("noise_dim", noise_dim, low=0)
        numbers = math.prod(self.shape)
        self.embed = nn.Linear(numbers, width)
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(
                width, heads, 4 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
            )
            for _ in range(_validate.integer("layers", layers, low=0))
        )
        self.norm = nn.LayerNorm(width)
        self.query = nn.Parameter(torch.randn(width) / math.sqrt(width))
        self.perturb = nn.Linear(self.noise_dim, width) if self.noise_dim else None
        self.pool = nn.MultiheadAttention(width, heads, batch_first=True)
        self.leave = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, numbers)
        )

    def forward(self, points: Tensor, noise: Tensor | None = None) -> Tensor:
        """``points`` [B, size, *shape] and, where ``noise_dim`` > 0, ``noise`` [B, noise_dim]."""
        if points.ndim != 2 + len(self.shape) or points.shape[2:] != self.shape:
            raise _validate.bad("points", points, f"shape [B, size, {', '.join(map(str, self.shape))}]")
        if (noise is None) != (self.perturb is None) or (noise is not None and noise.shape[1:] != (self.noise_dim,)):
            raise _validate.bad("noise", noise, f"[B, {self.noise_dim}]" if self.noise_dim else "None (noise_dim is 0)")
        x = self.embed(points.flatten(2).to(self.query.dtype))
        for block in self.blocks:
            x = block(x)
        x = self.norm(x)
        query = self.query.expand(len(points), 1, -1)
        if self.perturb is not None:
            query = query + self.perturb(noise).unsqueeze(1)
        pooled = query + self.pool(query, x, x, need_weights=False)[0]
        return self.leave(pooled.squeeze(1)).unflatten(1, self.shape)
