"""A decoder-only transformer in plain PyTorch: what is trained, and what the compiled engine is held to."""

from __future__ import annotations

import math
from collections.abc import Callable
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
    """``x / sqrt(mean(x²) + eps) * (offset + weight)`` over the last axis (Zhang and Sennrich, 2019)."""

    def __init__(self, width: int, eps: float, offset: float = 0.0):
        super().__init__()
        self.weight = nn.Parameter(torch.full((width,), 1.0 - offset))
        self.eps, self.offset = eps, offset

    @property
    def scale(self) -> Tensor:
        """offset + weight: what multiplies."""
        return self.weight + self.offset if self.offset else self.weight

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.eps) * self.scale


def _norm(config: TransformerConfig) -> nn.Module:
    if config.norm == "rmsnorm":
        return RMSNorm(config.d_model, config.norm_eps, config.norm_offset)
    return nn.LayerNorm(config.d_model, eps=config.norm_eps)


def rotation(config: TransformerConfig, positions: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Cosines and sines [..., rotary_dim / 2] of the rotation at ``positions`` [...], from fp64 (Su et al., 2021)."""
    if config.rope_frequencies is None:
        even = torch.arange(0, config.rotary_dim, 2, dtype=torch.float64, device=positions.device)
        frequency = config.rope_theta ** (-even / config.rotary_dim)
    else:
        frequency = torch.tensor(config.rope_frequencies, dtype=torch.float64, device=positions.device)
    angle = positions.double().unsqueeze(-1) * frequency
    return (config.rope_magnitude * angle.cos()).to(dtype), (config.rope_magnitude * angle.sin()).to(dtype)


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Pairs (i, i + R/2) of x [B, H, T, D]'s first R dimensions turned; cos and sin are [B or 1, 1, T, R/2]."""
    half = cos.shape[-1]
    a, b, rest = x[..., :half], x[..., half : 2 * half], x[..., 2 * half :]
    return torch.cat([a * cos - b * sin, b * cos + a * sin, rest], -1)


def soft_cap(x: Tensor, cap: float | None) -> Tensor:
    """cap tanh(x / cap), or x where there is no cap."""
    return x if cap is None else cap * torch.tanh(x / cap)


class Attention(nn.Module):
    """Grouped-query causal attention."""

    def __init__(self, config: TransformerConfig, layer: int):
        super().__init__()
        self.head_dim = config.head_dim
        queries, keys = config.n_heads * config.head_dim, config.n_kv_heads * config.head_dim
        self.q = nn.Linear(config.d_model, queries, bias=config.qkv_bias)
        self.k = nn.Linear(config.d_model, keys, bias=config.qkv_bias)
        self.v = nn.Linear(config.d_model, keys, bias=config.qkv_bias)
        self.window, self.scale, self.softcap = config.windows[layer], config.attention_scale, config.attention_softcap
        self.o = nn.Linear(queries, config.d_model, bias=config.o_bias)
        self.q_norm, self.k_norm = (
            RMSNorm(config.head_dim, config.norm_eps, config.norm_offset) if config.qk_norm else nn.Identity()
            for _ in range(2)
        )

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
        if memory is None and self.window is None and self.softcap is None:
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=self.scale, enable_gqa=True)
        else:
            keys, values, held = k, v, positions[:, None, None, :]
            if memory is not None:
                keys, values = memory  # [B, Hkv, S, D], written at this call's positions
                at = positions[:, None, :, None].expand_as(k)
                keys.scatter_(2, at, k)
                values.scatter_(2, at, v)
                held = torch.arange(keys.shape[2], device=x.device)
            here = positions[:, None, :, None]
            seen = held <= here  # [B, 1, T, S]
            if self.window is not None:
                seen = seen & (held > here - self.window)
            if self.softcap is None:
                y = F.scaled_dot_product_attention(q, keys, values, attn_mask=seen, scale=self.scale, enable_gqa=True)
            else:
                y = self._capped_attention(q, keys, values, seen)
        return self.o(y.transpose(1, 2).flatten(2))

    def _capped_attention(self, q: Tensor, keys: Tensor, values: Tensor, seen: Tensor) -> Tensor:
        """q [B, Hq, T, D], keys and values [B, Hkv, S, D], seen [B, 1, T, S] -> [B, Hq, T, D]."""
        grouped = q.unflatten(1, (keys.shape[1], -1))  # [B, Hkv, group, T, D]
        scale = self.head_dim**-0.5 if self.scale is None else self.scale
        scores = soft_cap((grouped * scale) @ keys.unsqueeze(2).transpose(-1, -2), self.softcap)
        weights = scores.masked_fill(~seen.unsqueeze(2), -math.inf).softmax(-1)
        return (weights @ values.unsqueeze(2)).flatten(1, 2)


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
            return self.down(_ACTIVATIONS[self.activation](gate) * self.up(x))
        return self.down(_ACTIVATIONS[self.activation](self.up(x)))


def _gelu_tanh(x: Tensor) -> Tensor:
    return F.gelu(x, approximate="tanh")


_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "swiglu": F.silu,
    "geglu": F.gelu,
    "geglu_tanh": _gelu_tanh,
    "gelu": F.gelu,
    "gelu_tanh": _gelu_tanh,
    "relu": F.relu,
    "silu": F.silu,
}


def _hear(grad: Tensor) -> None:
    """Between the layers of a backward pass: Python runs, and with it the handlers of signals (Ctrl-C)."""


class Block(nn.Module):
    def __init__(self, config: TransformerConfig, layer: int):
        super().__init__()
        self.attention_norm = _norm(config)
        self.attention = Attention(config, layer)
        self.mlp_norm = _norm(config)
        self.mlp = MLP(config)
        self.attention_post_norm, self.mlp_post_norm = (
            _norm(config) if config.post_norms else nn.Identity() for _ in range(2)
        )
        self.parallel = config.parallel

    def forward(
        self,
        x: Tensor,
        turn: tuple[Tensor, Tensor] | None,
        positions: Tensor,
        memory: tuple[Tensor, Tensor] | None,
    ) -> Tensor:
        read = x + self.attention_post_norm(self.attention(self.attention_norm(x), turn, positions, memory))
        return read + self.mlp_post_norm(self.mlp(self.mlp_norm(x if self.parallel else read)))


class Transformer(nn.Module):
    """A trainable decoder-only transformer; ``gmkern.decode.generate`` samples it with compiled code.

    The module is ordinary PyTorch: train it with any optimiser, in any dtype, on any device. Weights begin normal with
    variance 1 / (3 fan-in), those that write to the residual stream divided by sqrt(2 L); embeddings, deviation 0.02.

    Parameters
    ----------
    config : a :class:`~gmkern.decode.TransformerConfig`.

    Examples
    --------
    >>> import torch
    >>> from gmkern.decode import Transformer, TransformerConfig
    >>> model = Transformer(TransformerConfig(17, n_layers=1, n_heads=2, d_model=8, max_seq_len=32))
    >>> model(torch.tensor([[1, 2, 3]])).shape  # logits of a training step
    torch.Size([1, 3, 17])
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
        self.blocks = nn.ModuleList(Block(config, layer) for layer in range(config.n_layers))
        self.norm = _norm(config)
        self.head = None if config.tie_embeddings else nn.Linear(config.d_model, config.vocab_size, bias=False)
        self._initialise()

    def __getstate__(self) -> dict[str, object]:
        """Copies and pickles leave the engine's packed weights behind: they are made again where they are used."""
        return {name: value for name, value in vars(self).items() if name != "_packed"}

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
        logits = F.linear(self.hidden(tokens, positions, cache), self.head_weight)
        return soft_cap(logits, self.config.logit_softcap)

    def hidden(self, tokens: Tensor, positions: Tensor | None = None, cache: Cache | None = None) -> Tensor:
        """The last norm's output [B, T, d_model], of which the head makes logits; arguments as :meth:`forward`'s."""
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
        if config.embedding_scale != 1:
            x = x * config.embedding_scale
        if self.position_embedding is not None:
            x = x + self.position_embedding(positions)
        turn = None
        if config.position == "rope":
            cos, sin = rotation(config, positions, x.dtype)
            turn = (cos.unsqueeze(1), sin.unsqueeze(1))
        for layer, block in enumerate(self.blocks):
            x = block(x, turn, positions, None if cache is None else (cache.keys[layer], cache.values[layer]))
            if x.requires_grad and not torch.compiler.is_compiling():
                x.register_hook(_hear)
        return self.norm(x)

    @property
    def head_weight(self) -> Tensor:
        """What turns hidden states to logits, [V, d_model]."""
        return self.embedding.weight if self.head is None else self.head.weight

    @classmethod
    def from_transformers(cls, hf_model: nn.Module) -> Transformer:
        """A Hugging Face causal language model as a Transformer with the same parameters, not copies.

        Parameters
        ----------
        hf_model : GPT2LMHeadModel, or the ForCausalLM of GPTNeoX, Llama, Mistral, Qwen2, Qwen3, Gemma or Gemma2; plain
            LoRA layers of PEFT in it are read as W + scaling B A.

        Returns
        -------
        Transformer
            Its parameters are ``hf_model``'s own: train either, and the other, ``generate`` and ``score`` have it.
            Where Hugging Face fuses or transposes, the weights are computed from the parameters at each use. It has no
            dropout.

        Raises
        ------
        TypeError, ValueError : naming the config's feature or the module that is not served.
        """
        from gmkern.decode import adapters

        return adapters.from_transformers(hf_model)

    def hf_state_dict(self, model_type: str) -> dict[str, Tensor]:
        """The parameters under Hugging Face's names, for ``load_state_dict`` of a model of this config.

        Parameters
        ----------
        model_type : "gpt2", "gpt_neox", "llama", "mistral", "qwen2", "qwen3", "gemma" or "gemma2".

        Returns
        -------
        dict
            Detached; shared with the module where the layout is the same.

        Raises
        ------
        ValueError : where the family has no place for a part of this model.
        """
        from gmkern.decode import adapters

        return adapters.hf_state_dict(self, model_type)

    def new_cache(self, rows: int, length: int) -> Cache:
        """An empty cache for ``rows`` sequences of up to ``length`` tokens."""
        config, like = self.config, self.embedding.weight
        shape = (len(self.blocks), rows, config.n_kv_heads, length, config.head_dim)
        return Cache(*(torch.zeros(shape, dtype=like.dtype, device=like.device) for _ in range(2)))
