"""A decoder-only transformer in plain PyTorch: what is trained, and what the compiled engine is held to."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gmkern._validate import bad
from gmkern.decode.transformer.config import TransformerConfig


@dataclass
class Cache:
    """Keys and values of the tokens seen so far: each [L, B, Hkv, T, head_dim]."""

    keys: Tensor
    values: Tensor


class RMSNorm(nn.Module):
    """``x / sqrt(mean(x²) + eps) * weight`` over the last axis (Zhang and Sennrich, 2019)."""

    def __init__(self, width: int, eps: float):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.eps) * self.weight


def _norm(config: TransformerConfig) -> nn.Module:
    if config.norm == "rmsnorm":
        return RMSNorm(config.d_model, config.norm_eps)
    return nn.LayerNorm(config.d_model, eps=config.norm_eps)


def rotation(config: TransformerConfig, positions: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Cosines and sines [..., head_dim / 2] of the rotation at ``positions`` [...], from fp64 (Su et al., 2021)."""
    even = torch.arange(0, config.head_dim, 2, dtype=torch.float64, device=positions.device)
    angle = positions.double().unsqueeze(-1) * config.rope_theta ** (-even / config.head_dim)
    return angle.cos().to(dtype), angle.sin().to(dtype)


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Pairs (i, i + D/2) of x [B, H, T, D] turned by the angles whose cos and sin are [B or 1, 1, T, D/2]."""
    a, b = x.chunk(2, -1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)


class Attention(nn.Module):
    """Grouped-query causal attention."""

    def __init__(self, config: TransformerConfig):
        super().__init__()
        self.head_dim = config.head_dim
        queries, keys = config.n_heads * config.head_dim, config.n_kv_heads * config.head_dim
        self.q = nn.Linear(config.d_model, queries, bias=config.qkv_bias)
        self.k = nn.Linear(config.d_model, keys, bias=config.qkv_bias)
        self.v = nn.Linear(config.d_model, keys, bias=config.qkv_bias)
        self.o = nn.Linear(queries, config.d_model, bias=config.bias)
        self.q_norm = RMSNorm(config.head_dim, config.norm_eps) if config.qk_norm else nn.Identity()
        self.k_norm = RMSNorm(config.head_dim, config.norm_eps) if config.qk_norm else nn.Identity()

    def forward(
        self,
        x: Tensor,
        turn: tuple[Tensor, Tensor] | None,
        positions: Tensor,
        memory: tuple[Tensor, Tensor] | None,
    ) -> Tensor:
        q = self.q_norm(self.q(x).unflatten(-1, (-1, self.head_dim))).transpose(1, 2)  # [B, Hq, T, D]
        k = self.k_norm(self.k(x).unflatten(-1, (-1, self.head_dim))).transpose(1, 2)  # [B, Hkv, T, D]
        v = self.v(x).unflatten(-1, (-1, self.head_dim)).transpose(1, 2)
        if turn is not None:
            q, k = _rotate(q, *turn), _rotate(k, *turn)
        if memory is None:
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        else:
            keys, values = memory  # [B, Hkv, S, D], written at this call's positions
            at = positions[:, None, :, None].expand_as(k)
            keys.scatter_(2, at, k)
            values.scatter_(2, at, v)
            seen = torch.arange(keys.shape[2], device=x.device) <= positions[:, None, :, None]  # [B, 1, T, S]
            y = F.scaled_dot_product_attention(q, keys, values, attn_mask=seen, enable_gqa=True)
        return self.o(y.transpose(1, 2).flatten(2))


class MLP(nn.Module):
    """``down(act(up(x)))``, or ``down(act(gate(x)) * up(x))``."""

    def __init__(self, config: TransformerConfig):
        super().__init__()
        self.activation = config.activation
        self.gate = nn.Linear(config.d_model, config.d_ff, bias=config.bias) if config.gated else None
        self.up = nn.Linear(config.d_model, config.d_ff, bias=config.bias)
        self.down = nn.Linear(config.d_ff, config.d_model, bias=config.bias)

    def forward(self, x: Tensor) -> Tensor:
        if self.gate is not None:
            gate = self.gate(x)
            return self.down((F.silu(gate) if self.activation == "swiglu" else F.gelu(gate)) * self.up(x))
        x = self.up(x)
        if self.activation in ("gelu", "gelu_tanh"):
            return self.down(F.gelu(x, approximate="tanh" if self.activation == "gelu_tanh" else "none"))
        return self.down(F.relu(x) if self.activation == "relu" else F.silu(x))


class Block(nn.Module):
    def __init__(self, config: TransformerConfig):
        super().__init__()
        self.attention_norm = _norm(config)
        self.attention = Attention(config)
        self.mlp_norm = _norm(config)
        self.mlp = MLP(config)

    def forward(
        self,
        x: Tensor,
        turn: tuple[Tensor, Tensor] | None,
        positions: Tensor,
        memory: tuple[Tensor, Tensor] | None,
    ) -> Tensor:
        x = x + self.attention(self.attention_norm(x), turn, positions, memory)
        return x + self.mlp(self.mlp_norm(x))


class Transformer(nn.Module):
    """A trainable decoder-only transformer; ``gmkern.decode.generate`` samples it with compiled code.

    The module is ordinary PyTorch: train it with any optimiser, in any dtype, on any device. Weights begin normal with
    variance 1 / (3 fan-in), those that write to the residual stream divided by sqrt(2 L); embeddings, deviation 0.02.

    Parameters
    ----------
    config : a :class:`~gmkern.decode.TransformerConfig`.
    """

    def __init__(self, config: TransformerConfig):
        super().__init__()
        if not isinstance(config, TransformerConfig):
            raise bad("config", config, "a TransformerConfig", error=TypeError)
        self.config = config
        self.embedding = nn.Embedding(config.vocab_size, config.d_model)
        self.position_embedding = (
            nn.Embedding(config.max_seq_len, config.d_model) if config.position == "learned" else None
        )
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.n_layers))
        self.norm = _norm(config)
        self.head = None if config.tie_embeddings else nn.Linear(config.d_model, config.vocab_size, bias=False)
        self._initialise()

    @torch.no_grad()
    def _initialise(self) -> None:
        for name, module in self.named_modules():
            if isinstance(module, nn.Embedding):
                module.weight.normal_(0.0, 0.02)
            elif isinstance(module, nn.Linear):
                to_residual = name.endswith((".o", ".down"))
                depth = 2 * self.config.n_layers if to_residual else 1
                module.weight.normal_(0.0, 1 / math.sqrt(3 * module.in_features * depth))
                if module.bias is not None:
                    module.bias.zero_()

    def forward(self, tokens: Tensor, positions: Tensor | None = None, cache: Cache | None = None) -> Tensor:
        """Logits of the token that follows each token.

        Parameters
        ----------
        tokens : [B, T] int64. Attention is causal: padding after a row's end changes nothing before it.
        positions : [B, T] int64, where each token stands in its sequence; None takes 0, 1, ..., T - 1.
        cache : from :meth:`new_cache`; the tokens are added to it at ``positions`` and attend to all that it holds up
            to there. For decoding without gradients.

        Returns
        -------
        Tensor
            [B, T, V], in the parameters' dtype.
        """
        config = self.config
        if tokens.ndim != 2 or tokens.dtype != torch.int64:
            raise bad("tokens", tokens, "int64 token ids of shape [B, T]")
        if tokens.shape[1] > config.max_seq_len:
            raise bad("tokens", tokens, f"at most max_seq_len = {config.max_seq_len} tokens a row")
        if positions is None:
            positions = torch.arange(tokens.shape[1], device=tokens.device).expand(tokens.shape)
        elif positions.shape != tokens.shape:
            raise bad("positions", positions, f"the shape of tokens, {list(tokens.shape)}")
        x = self.embedding(tokens)
        if self.position_embedding is not None:
            x = x + self.position_embedding(positions)
        turn = None
        if config.position == "rope":
            cos, sin = rotation(config, positions, x.dtype)
            turn = (cos.unsqueeze(1), sin.unsqueeze(1))
        for layer, block in enumerate(self.blocks):
            x = block(x, turn, positions, None if cache is None else (cache.keys[layer], cache.values[layer]))
        return F.linear(self.norm(x), self.embedding.weight if self.head is None else self.head.weight)

    def new_cache(self, rows: int, length: int) -> Cache:
        """An empty cache for ``rows`` sequences of up to ``length`` tokens."""
        config, like = self.config, self.embedding.weight
        shape = (config.n_layers, rows, config.n_kv_heads, length, config.head_dim)
        return Cache(*(torch.zeros(shape, dtype=like.dtype, device=like.device) for _ in range(2)))
