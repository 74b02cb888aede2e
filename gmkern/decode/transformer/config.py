"""What a decoder-only transformer is made of, in one validated record."""

from __future__ import annotations

from dataclasses import dataclass

from gmkern import _validate
from gmkern._validate import bad

NORMS = ("rmsnorm", "layernorm")
ACTIVATIONS = ("swiglu", "geglu", "gelu", "gelu_tanh", "relu", "silu", "geglu_tanh")
POSITIONS = ("rope", "learned", "none")
GATED = ("swiglu", "geglu", "geglu_tanh")


@dataclass(frozen=True)
class TransformerConfig:
    """The shape of a :class:`~gmkern.decode.Transformer`: GPT-2, NeoX, Llama, Mistral, Qwen, Gemma are points of it.

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
    activation : "swiglu", "geglu" and "geglu_tanh" multiply a gate, as silu(gate(x)) * up(x); "gelu" (by erf),
        "gelu_tanh", "relu" and "silu" are plain.
    position : "rope" turns pairs (i, i + rotary_dim / 2) of queries and keys by position times
        rope_theta^(-2i / rotary_dim);
        "learned" adds a vector a position; "none" leaves position to the causal mask.
    rope_theta : the base of the rotation's frequencies.
    rope_frequencies : the rotary_dim / 2 frequencies themselves in place of rope_theta's: so scaled rotations are said.
    rope_magnitude : what cosines and sines are multiplied by (other than 1 in YaRN alone).
    rotary_dim : how many dimensions of a head, its first ones, are turned; None takes head_dim.
    qkv_bias, bias : biases in the query, key and value projections; in the output projection and the MLP.
    o_bias : of the output projection alone; None takes ``bias``.
    qk_norm : a root-mean-square norm with a weight over each query and key head, before the rotation.
    norm_offset : what is added to the weights of root-mean-square norms (1 in Gemma).
    parallel : ``x + attention(norm(x)) + mlp(other norm(x))`` in one step, as GPT-NeoX has it.
    embedding_scale : what token embeddings are multiplied by (sqrt(d_model) in Gemma); the head is not.
    window : the number of latest positions, its own included, that a query sees; None: all. Or one a layer.
    attention_scale : what a query's products with keys are multiplied by; None takes head_dim^(-1/2).
    attention_softcap, logit_softcap : a cap c holds scores, and logits, within it, as c tanh(x / c); None: no cap.
    post_norms : what attention and the MLP add passes norms of its own (Gemma 2); not with ``parallel``.
    tie_embeddings : the head is the token embedding.
    bos_id : the token that begins a sequence without a prompt, or None.

    Examples
    --------
    GPT-2 124M: ``TransformerConfig(50257, 12, 12, 768, 1024, norm="layernorm", activation="gelu_tanh",
    position="learned", qkv_bias=True, bias=True)``; Qwen3 0.6B: ``TransformerConfig(151936, 28, 16, 1024, 40960,
    n_kv_heads=8, d_ff=3072, head_dim=128, norm_eps=1e-6, rope_theta=1e6, qk_norm=True)``.

    >>> from gmkern.decode import TransformerConfig
    >>> TransformerConfig(17, n_layers=1, n_heads=2, d_model=8, max_seq_len=32).d_ff
    21
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
    rope_frequencies: tuple[float, ...] | None = None
    rope_magnitude: float = 1.0
    rotary_dim: int = None  # type: ignore[assignment]
    o_bias: bool = None  # type: ignore[assignment]
    norm_offset: float = 0.0
    parallel: bool = False
    embedding_scale: float = 1.0
    window: int | tuple[int | None, ...] | None = None
    attention_scale: float | None = None
    attention_softcap: float | None = None
    logit_softcap: float | None = None
    post_norms: bool = False

    def __post_init__(self) -> None:
        for name in ("vocab_size", "n_layers", "n_heads", "d_model", "max_seq_len"):
            self._set(name, _validate.integer(name, getattr(self, name), low=1))
        _validate.one_of("norm", self.norm, NORMS)
        _validate.one_of("activation", self.activation, ACTIVATIONS)
        _validate.one_of("position", self.position, POSITIONS)
        if self.o_bias is None:
            self._set("o_bias", self.bias)
        for name in ("qkv_bias", "bias", "o_bias", "qk_norm", "tie_embeddings", "parallel", "post_norms"):
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
        if _validate.integer("head_dim", self.head_dim, low=1) % 2 and self.position == "rope" and not self.rotary_dim:
            raise bad("head_dim", str(self.head_dim), 'an even number with position="rope"')
        self._check_rotation()
        for name in ("norm_offset", "embedding_scale"):
            self._set(name, _validate.number(name, getattr(self, name)))
        self._check_windows()
        for name in ("attention_scale", "attention_softcap", "logit_softcap"):
            if getattr(self, name) is not None:
                self._set(name, _validate.number(name, getattr(self, name), above=0.0))
        if self.post_norms and self.parallel:
            raise bad("post_norms", "True with parallel=True", "one of the two")
        if self.bos_id is not None:
            _validate.integer("bos_id", self.bos_id, low=0, high=self.vocab_size - 1)

    def _check_windows(self) -> None:
        if isinstance(self.window, tuple | list):
            if len(self.window) != self.n_layers:
                raise bad("window", f"{len(self.window)} windows", f"one, or one a layer: {self.n_layers}")
            self._set("window", tuple(self.window))
        for window in self.windows:
            if window is not None:
                _validate.integer("window", window, low=1)

    def _check_rotation(self) -> None:
        if self.rotary_dim is None:
            self._set("rotary_dim", self.head_dim)
        turned = _validate.integer("rotary_dim", self.rotary_dim, low=1, high=self.head_dim)
        if turned % 2 and self.position == "rope":
            raise bad("rotary_dim", str(turned), 'an even number with position="rope"')
        self._set("rope_magnitude", _validate.number("rope_magnitude", self.rope_magnitude, above=0.0))
        if self.rope_frequencies is not None:
            rates = _validate.sequence("rope_frequencies", self.rope_frequencies, "numbers")
            given = tuple(_validate.number("rope_frequencies", value, low=0.0) for value in rates)
            if len(given) != turned // 2:
                raise bad("rope_frequencies", f"{len(given)} numbers", f"rotary_dim / 2 = {turned // 2} of them")
            self._set("rope_frequencies", given)

    def _set(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)

    @property
    def windows(self) -> tuple[int | None, ...]:
        """Each layer's window."""
        return self.window if isinstance(self.window, tuple) else (self.window,) * self.n_layers

    @property
    def gated(self) -> bool:
        """Whether the activation multiplies a gate."""
        return self.activation in GATED
