"""The families of Hugging Face models that are served: where their modules are, and what their configs say.

A config feature that is not served is an error that names it: :func:`refuse`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from gmkern._validate import bad

_ACTIVATIONS = {"gelu": "gelu", "gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh", "relu": "relu",
                "silu": "silu", "swish": "silu"}  # fmt: skip
_GATES = {"silu": "swiglu", "swish": "swiglu", "gelu": "geglu", "gelu_new": "geglu_tanh",
          "gelu_pytorch_tanh": "geglu_tanh"}  # fmt: skip


@dataclass(frozen=True)
class Family:
    """One value of ``config.model_type``.

    ``outer`` and ``inner`` say where our modules are in theirs: in the model, and in a block. A query, key and value
    projection that is one module there has one name, and ``fused`` says how its outputs are laid out.
    """

    model_class: str
    read: Callable[[Any], dict[str, Any]]  # their config -> fields of TransformerConfig
    outer: Mapping[str, str]
    inner: Mapping[str, str]
    fused: str | None = None  # "thirds": q, k, v one after another; "heads": q, k, v of a head, then of the next
    transposed: bool = False  # linears are Conv1D, [inputs, outputs]
    dropouts: tuple[str, ...] = field(default=("attention_dropout",))


def refuse(config: Any, name: str, takes: str) -> Exception:
    """The error for a feature of a config."""
    return bad(f"config.{name}", repr(getattr(config, name)), f"{takes} (model_type {config.model_type!r})")


def _need(config: Any, name: str, value: Any) -> None:
    if getattr(config, name, value) != value:
        raise refuse(config, name, repr(value))


def _kind(config: Any, name: str, kinds: dict[str, str]) -> str:
    if getattr(config, name) not in kinds:
        raise refuse(config, name, " or ".join(map(repr, kinds)))
    return kinds[getattr(config, name)]


def _window(config: Any) -> int | tuple[int | None, ...] | None:
    """The window of all layers, or one a layer."""
    kinds, window = getattr(config, "layer_types", None) or (), getattr(config, "sliding_window", None)
    if set(kinds) - {"full_attention", "sliding_attention"}:
        raise refuse(config, "layer_types", "'full_attention' or 'sliding_attention'")
    windows = tuple(window if kind == "sliding_attention" else None for kind in kinds) or (window,)
    return windows[0] if len(set(windows)) == 1 else windows


def _gpt2(config: Any) -> dict[str, Any]:
    _need(config, "scale_attn_weights", True)
    _need(config, "scale_attn_by_inverse_layer_idx", False)
    _need(config, "add_cross_attention", False)
    return {
        "n_layers": config.n_layer,
        "n_heads": config.n_head,
        "d_model": config.n_embd,
        "max_seq_len": config.n_positions,
        "d_ff": config.n_inner or 4 * config.n_embd,
        "norm": "layernorm",
        "norm_eps": config.layer_norm_epsilon,
        "activation": _kind(config, "activation_function", _ACTIVATIONS),
        "position": "learned",
        "qkv_bias": True,
        "bias": True,
    }


def _gpt_neox(config: Any) -> dict[str, Any]:
    return {
        "n_layers": config.num_hidden_layers,
        "n_heads": config.num_attention_heads,
        "d_model": config.hidden_size,
        "max_seq_len": config.max_position_embeddings,
        "d_ff": config.intermediate_size,
        "norm": "layernorm",
        "norm_eps": config.layer_norm_eps,
        "activation": _kind(config, "hidden_act", _ACTIVATIONS),
        "qkv_bias": config.attention_bias,
        "o_bias": config.attention_bias,
        "bias": True,
        "parallel": config.use_parallel_residual,
    }


def _llama(config: Any, activation: str = "hidden_act", **more: Any) -> dict[str, Any]:
    if (getattr(config, "pretraining_tp", None) or 1) != 1:
        raise refuse(config, "pretraining_tp", "1")
    attention_bias = bool(getattr(config, "attention_bias", False))
    return {
        "n_layers": config.num_hidden_layers,
        "n_heads": config.num_attention_heads,
        "n_kv_heads": config.num_key_value_heads,
        "head_dim": getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads,
        "d_model": config.hidden_size,
        "max_seq_len": config.max_position_embeddings,
        "d_ff": config.intermediate_size,
        "norm_eps": config.rms_norm_eps,
        "activation": _kind(config, activation, _GATES),
        "qkv_bias": attention_bias,
        "o_bias": attention_bias,
        "bias": bool(getattr(config, "mlp_bias", False)),
        "window": _window(config),
    } | more


def _qwen2(config: Any) -> dict[str, Any]:
    return _llama(config, qkv_bias=True)


def _qwen3(config: Any) -> dict[str, Any]:
    return _llama(config, qk_norm=True)


def _gemma(config: Any, **more: Any) -> dict[str, Any]:
    if getattr(config, "use_bidirectional_attention", None):
        raise refuse(config, "use_bidirectional_attention", "False")
    return _llama(config, embedding_scale=config.hidden_size**0.5, norm_offset=1.0, **more)


def _gemma2(config: Any) -> dict[str, Any]:
    return _gemma(
        config,
        activation="hidden_activation",
        attention_scale=config.query_pre_attn_scalar**-0.5,
        attention_softcap=config.attn_logit_softcapping,
        logit_softcap=config.final_logit_softcapping,
        post_norms=True,
    )


_LLAMA_OUTER = {"embedding": "model.embed_tokens", "blocks": "model.layers", "norm": "model.norm", "head": "lm_head",
                "rotation": "model.rotary_emb"}  # fmt: skip
_LLAMA_INNER = {
    "attention_norm": "input_layernorm",
    "attention.q": "self_attn.q_proj",
    "attention.k": "self_attn.k_proj",
    "attention.v": "self_attn.v_proj",
    "attention.o": "self_attn.o_proj",
    "mlp_norm": "post_attention_layernorm",
    "mlp.gate": "mlp.gate_proj",
    "mlp.up": "mlp.up_proj",
    "mlp.down": "mlp.down_proj",
}
_QWEN3_INNER = _LLAMA_INNER | {"attention.q_norm": "self_attn.q_norm", "attention.k_norm": "self_attn.k_norm"}
_GEMMA2_INNER = _LLAMA_INNER | {
    "attention_post_norm": "post_attention_layernorm",
    "mlp_norm": "pre_feedforward_layernorm",
    "mlp_post_norm": "post_feedforward_layernorm",
}

FAMILIES = {
    "gpt2": Family(
        "GPT2LMHeadModel",
        _gpt2,
        {"embedding": "transformer.wte", "position_embedding": "transformer.wpe", "blocks": "transformer.h",
         "norm": "transformer.ln_f", "head": "lm_head"},
        {"attention_norm": "ln_1", "attention.q": "attn.c_attn", "attention.k": "attn.c_attn",
         "attention.v": "attn.c_attn", "attention.o": "attn.c_proj", "mlp_norm": "ln_2", "mlp.up": "mlp.c_fc",
         "mlp.down": "mlp.c_proj"},
        fused="thirds",
        transposed=True,
        dropouts=("resid_pdrop", "embd_pdrop", "attn_pdrop"),
    ),
    "gpt_neox": Family(
        "GPTNeoXForCausalLM",
        _gpt_neox,
        {"embedding": "gpt_neox.embed_in", "blocks": "gpt_neox.layers", "norm": "gpt_neox.final_layer_norm",
         "head": "lm_head", "rotation": "gpt_neox.rotary_emb"},
        {"attention_norm": "input_layernorm", "attention.q": "attention.query_key_value",
         "attention.k": "attention.query_key_value", "attention.v": "attention.query_key_value",
         "attention.o": "attention.dense", "mlp_norm": "post_attention_layernorm", "mlp.up": "mlp.dense_h_to_4h",
         "mlp.down": "mlp.dense_4h_to_h"},
        fused="heads",
        dropouts=("attention_dropout", "hidden_dropout"),
    ),
    "llama": Family("LlamaForCausalLM", _llama, _LLAMA_OUTER, _LLAMA_INNER),
    "mistral": Family("MistralForCausalLM", _llama, _LLAMA_OUTER, _LLAMA_INNER),
    "qwen2": Family("Qwen2ForCausalLM", _qwen2, _LLAMA_OUTER, _LLAMA_INNER),
    "qwen3": Family("Qwen3ForCausalLM", _qwen3, _LLAMA_OUTER, _QWEN3_INNER),
    "gemma": Family("GemmaForCausalLM", _gemma, _LLAMA_OUTER, _LLAMA_INNER),
    "gemma2": Family("Gemma2ForCausalLM", _gemma2, _LLAMA_OUTER, _GEMMA2_INNER),
}  # fmt: skip
