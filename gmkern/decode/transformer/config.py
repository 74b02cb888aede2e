"""What a decoder-only transformer is made of, in one validated record."""

from __future__ import annotations

from dataclasses import dataclass

from gmkern import _validate
from gmkern._validate import bad

NORMS = ("rmsnorm", "layernorm")
ACTIVATIONS = ("swiglu", "geglu", "gelu", "gelu_tanh", "relu", "silu")
POSITIONS = ("rope", "learned", "none")
GATED = ("swiglu", "geglu")


@dataclass(frozen=True)
class TransformerConfig:
    """The shape of a :class:`~gmkern.decode.Transformer`: GPT-2, Llama, Mistral and Qwen are points of it.

    Parameters
    ----------
    vocab_size : V, the number of tokens.
    n_layers : L, the number of blocks; each is ``x + attention(norm(x))``, then ``x + mlp(norm(x))``.
    n_heads : Hq, the number of query heads.
    d_model : the width of the residual stream.
    max_seq_len : the largest number of tokens in a sequence, prompt included.
    n_kv_heads : Hkv, the number of key and value heads; divides ``n_heads``, which it is when None.
    d_ff : the width of the MLP; None takes 4 * d_model, or (8 * d_model) // 3 where the activation is gated.
    head_dim : the width of a head; None takes d_model / n_heads. Even where ``position="rope"``.
    norm : "rmsnorm" or "layernorm" (which has a bias), before attention, before the MLP and before the head.
    norm_eps : what is added to the mean square (the variance) under the root.
    activation : "swiglu" and "geglu" multiply a gate, silu(gate(x)) * up(x) or gelu(gate(x)) * up(x); "gelu" (by erf),
        "gelu_tanh", "relu" and "silu" are plain.
    position : "rope" turns pairs (i, i + head_dim / 2) of queries and keys by position * rope_theta^(-2i / head_dim);
        "learned" adds a vector a position; "none" leaves position to the causal mask.
    rope_theta : the base of the rotation's frequencies.
    qkv_bias, bias : biases in the query, key and value projections; in the output projection and the MLP.
    qk_norm : a root-mean-square norm with a weight over each query and key head, before the rotation.
    tie_embeddings : the head is the token embedding.
    bos_id : the token that begins a sequence without a prompt, or None.

    Examples
    --------
    GPT-2 124M: ``TransformerConfig(50257, 12, 12, 768, 1024, norm="layernorm", activation="gelu_tanh",
    position="learned", qkv_bias=True, bias=True)``; Qwen3 0.6B: ``TransformerConfig(151936, 28, 16, 1024, 40960,
    n_kv_heads=8, d_ff=3072, head_dim=128, norm_eps=1e-6, rope_theta=1e6, qk_norm=True)``.
    """

    vocab_size: int
    n_layers: int
    n_heads: int
    d_model: int
    max_seq_len: int
    n_kv_heads: int = None  # type: ignore[assignment]  # None is resolved on construction, as for the next two
    d_ff: int = None  # type: ignore[assignment]
    head_dim: int = None  # type: ignore[assignment]
    norm: str = "rmsnorm"
    norm_eps: float = 1e-5
    activation: str = "swiglu"
    position: str = "rope"
    rope_theta: float = 10000.0
    qkv_bias: bool = False
    bias: bool = False
    qk_norm: bool = False
    tie_embeddings: bool = True
    bos_id: int | None = None

    def __post_init__(self) -> None:
        for name in ("vocab_size", "n_layers", "n_heads", "d_model", "max_seq_len"):
            self._set(name, _validate.integer(name, getattr(self, name), low=1))
        _validate.one_of("norm", self.norm, NORMS)
        _validate.one_of("activation", self.activation, ACTIVATIONS)
        _validate.one_of("position", self.position, POSITIONS)
        for name in ("qkv_bias", "bias", "qk_norm", "tie_embeddings"):
            if not isinstance(getattr(self, name), bool):
                raise bad(name, getattr(self, name), "a bool", error=TypeError)
        self._set("norm_eps", _validate.number("norm_eps", self.norm_eps, low=0.0))
        self._set("rope_theta", _validate.number("rope_theta", self.rope_theta, above=0.0))
        if self.n_kv_heads is None:
            self._set("n_kv_heads", self.n_heads)
        if self.n_heads % _validate.integer("n_kv_heads", self.n_kv_heads, low=1):
            raise bad("n_kv_heads", str(self.n_kv_heads), f"a divisor of n_heads, {self.n_heads}")
        if self.d_ff is None:
            self._set("d_ff", 8 * self.d_model // 3 if self.activation in GATED else 4 * self.d_model)
        _validate.integer("d_ff", self.d_ff, low=1)
        if self.head_dim is None:
            if self.d_model % self.n_heads:
                raise bad("d_model", str(self.d_model), f"a multiple of n_heads, {self.n_heads}, or give head_dim")
            self._set("head_dim", self.d_model // self.n_heads)
        if _validate.integer("head_dim", self.head_dim, low=1) % 2 and self.position == "rope":
            raise bad("head_dim", str(self.head_dim), 'an even number with position="rope"')
        if self.bos_id is not None:
            _validate.integer("bos_id", self.bos_id, low=0, high=self.vocab_size - 1)

    def _set(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)

    @property
    def gated(self) -> bool:
        """Whether the activation multiplies a gate."""
        return self.activation in GATED
