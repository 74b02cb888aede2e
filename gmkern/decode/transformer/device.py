"""A Transformer's layers in the order of its Triton kernels: what ``generate`` and ``score`` run on a GPU."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from gmkern.decode.attention.triton_kernels import attention
from gmkern.decode.transformer import packed
from gmkern.decode.transformer import triton_kernels as kernels
from gmkern.decode.transformer.config import TransformerConfig
from gmkern.decode.transformer.device_weights import DeviceWeights, Layer, Linear, Norm
from gmkern.decode.transformer.module import Transformer

_TOKENS = 1 << 13  # that one call takes, about: enough to fill a GPU, and little memory
PLAIN = {"swiglu": "silu", "geglu": "gelu", "geglu_tanh": "gelu_tanh"}  # what a gate passes


class DeviceCache:
    """Keys and values [L, slots, room, Hkv, head_dim], and the rotation at each position [room, rotary_dim]."""

    def __init__(self, config: TransformerConfig, slots: int, room: int, dtype: torch.dtype, device: torch.device):
        shape = (config.n_layers, slots, room, config.n_kv_heads, config.head_dim)
        self.keys, self.values = (torch.zeros(shape, dtype=dtype, device=device) for _ in range(2))
        self.turns = packed.turns(config, room).to(device)


class DeviceEngine:
    """The layers over tokens of several sequences, each of which has a slot of a cache.

    Sums are float32 whatever the weights are held in. Keys and values are held in bfloat16 where the weights that make
    them are, and in float32 elsewhere.
    """

    def __init__(self, model: Transformer, format: str | None = None):
        self.config, self.weights = model.config, DeviceWeights(model, format)
        self.device = self.weights.device
        narrow = self.weights.layers[0].qkv.weight.dtype == torch.bfloat16
        self.cache_dtype = torch.bfloat16 if narrow else torch.float32

    def new_cache(self, slots: int, room: int) -> DeviceCache:
        return DeviceCache(self.config, slots, room, self.cache_dtype, self.device)

    def cache_bytes(self, room: int) -> int:
        """Of one slot."""
        config = self.config
        return 2 * config.n_layers * room * config.n_kv_heads * config.head_dim * self.cache_dtype.itemsize

    def run(self, cache: DeviceCache, tokens: Tensor, slots: Tensor, firsts: Tensor) -> Tensor:
        """What the layers make of tokens [B, t] at positions firsts + 0 ... t - 1 of slots, both [B] int32.

        The cache holds their keys and values afterwards. Returns [B, t, d_model] float32, ahead of the last norm.
        """
        config, asked = self.config, tokens.shape[1]
        x = torch.empty(tokens.numel(), config.d_model, device=self.device)
        qkv = x.new_empty(len(x), (config.n_heads + 2 * config.n_kv_heads) * config.head_dim)
        queries = x.new_empty(len(slots), asked, config.n_heads, config.head_dim)
        hidden = x.new_empty(len(x), config.d_ff)
        lengths, table = firsts + asked, slots.unsqueeze(1)  # a slot is a page
        scale = config.head_dim**-0.5 if config.attention_scale is None else config.attention_scale
        kernels.embed(tokens.contiguous(), firsts, self.weights.embedding, self.weights.places, x)
        for i, layer in enumerate(self.weights.layers):
            keys, values = cache.keys[i], cache.values[i]
            self._linear(x, layer.qkv, qkv, norm=layer.before_attention)
            norms = (layer.q_norm, layer.k_norm)
            kernels.place(qkv, norms, config.norm_eps, cache.turns, slots, firsts, queries, keys, values)
            window, cap = config.windows[i] or 0, config.attention_softcap or 0.0
            given = queries, keys, values, lengths, table, None, None, None, window, cap, scale
            attended = attention(*given)[0].view(len(x), -1)
            if config.parallel:  # the MLP reads x as attention did
                self._mlp(x, layer, hidden)
            self._add(x, attended, layer.out, layer.after_attention)
            if not config.parallel:
                self._mlp(x, layer, hidden)
            self._add(x, hidden, layer.down, layer.after_mlp)
        return x.view(*tokens.shape, -1)

    def read(
        self, cache: DeviceCache, sequences: list[Tensor], slots: Tensor | None = None
    ) -> Iterator[tuple[list[int], int, Tensor]]:
        """:meth:`run` over whole sequences [T], a batch of similar lengths after another, many positions at once.

        Yields which sequences, from which of their positions on, and what the layers made of them [b, t, d_model]; past
        a sequence's end stands anything. With ``slots`` None each batch takes the first slots of the cache.
        """
        lengths = [len(sequence) for sequence in sequences]
        order = sorted((i for i, length in enumerate(lengths) if length), key=lengths.__getitem__)
        while order:
            # from the longest down: as many as there are slots and room for their tokens, one at least
            longest = lengths[order[-1]]
            most = max(1, min(cache.keys.shape[1], _TOKENS // longest))
            order, some = order[:-most], order[-most:]
            padded = torch.nn.utils.rnn.pad_sequence([sequences[i] for i in some], batch_first=True).to(self.device)
            where = torch.arange(len(some), dtype=torch.int32, device=self.device) if slots is None else slots[some]
            for begin in range(0, longest, max(1, _TOKENS // len(some))):
                part = padded[:, begin : begin + max(1, _TOKENS // len(some))]
                yield some, begin, self.run(cache, part, where, torch.full_like(where, begin))

    def normed(self, x: Tensor) -> Tensor:
        """The last norm of x [rows, d_model]."""
        return kernels.norm(x, self.weights.norm, torch.empty_like(x), eps=self.config.norm_eps)

    def logits(self, normed: Tensor) -> Tensor:
        """[rows, V] float32 of what :meth:`normed` gave."""
        out = normed.new_empty(normed.shape[0], self.config.vocab_size)
        return self._linear(normed, self.weights.head, out, cap=self.config.logit_softcap or 0.0)

    def _mlp(self, x: Tensor, layer: Layer, hidden: Tensor) -> None:
        activation = PLAIN.get(self.config.activation, self.config.activation)
        self._linear(x, layer.up, hidden, norm=layer.before_mlp, gate=layer.gate, activation=activation)

    def _add(self, x: Tensor, y: Tensor, linear: Linear, after: Norm | None) -> None:
        if after is None:
            self._linear(y, linear, x, added=True)
        else:
            made = self._linear(y, linear, torch.empty_like(x))
            kernels.norm(made, after, x, eps=self.config.norm_eps, added=True)

    def _linear(
        self,
        x: Tensor,
        linear: Linear,
        out: Tensor,
        *,
        norm: Norm | None = None,
        gate: Linear | None = None,
        activation: str = "none",
        added: bool = False,
        cap: float = 0.0,
    ) -> Tensor:
        eps = self.config.norm_eps
        return kernels.linear(
            x, linear, out, norm=norm, eps=eps, gate=gate, activation=activation, added=added, cap=cap
        )
