"""A decoder-only transformer in NumPy and float64, one token and one head at a time: the tests' truth."""

import numpy as np
from scipy.special import erf

CONFIGS = {
    "llama": {"d_model": 24, "n_heads": 4, "n_kv_heads": 2, "tie_embeddings": False},
    "gpt2": {"d_model": 24, "n_heads": 4, "norm": "layernorm", "activation": "gelu_tanh", "position": "learned",
             "qkv_bias": True, "bias": True},
    "qwen2": {"d_model": 48, "n_heads": 3, "n_kv_heads": 1, "qkv_bias": True, "rope_theta": 1e6},
    "qwen3": {"d_model": 24, "n_heads": 3, "n_kv_heads": 3, "head_dim": 10, "qk_norm": True, "norm_eps": 1e-6},
    "geglu": {"d_model": 20, "n_heads": 2, "activation": "geglu", "bias": True, "position": "none"},
    "gelu": {"d_model": 17, "n_heads": 1, "activation": "gelu", "position": "learned", "d_ff": 33},
    "relu": {"d_model": 32, "n_heads": 8, "n_kv_heads": 2, "activation": "relu", "norm": "layernorm"},
    "silu": {"d_model": 40, "n_heads": 2, "activation": "silu", "bias": True, "d_ff": 5, "head_dim": 32},
    "neox": {"d_model": 32, "n_heads": 2, "norm": "layernorm", "activation": "gelu", "qkv_bias": True, "bias": True,
             "rotary_dim": 4, "parallel": True, "tie_embeddings": False},
    "gemma": {"d_model": 24, "n_heads": 4, "n_kv_heads": 1, "head_dim": 8, "activation": "geglu_tanh",
              "norm_offset": 1.0, "embedding_scale": 24**0.5},
    "window": {"d_model": 24, "n_heads": 2, "window": 5, "rope_frequencies": (1.0, 0.5, 0.3, 0.1, 0.01, 0.002),
               "rope_magnitude": 1.2, "o_bias": True},
    "wide window": {"d_model": 16, "n_heads": 1, "window": 18, "position": "none", "parallel": True},
    "mixed windows": {"d_model": 24, "n_heads": 3, "n_kv_heads": 1, "window": (3, None), "attention_scale": 0.9},
    "gemma2": {"d_model": 24, "n_heads": 4, "n_kv_heads": 2, "head_dim": 10, "activation": "geglu_tanh",
               "norm_offset": 1.0, "embedding_scale": 24**0.5, "window": (None, 17), "attention_scale": 1.7,
               "attention_softcap": 1.1, "logit_softcap": 0.8, "post_norms": True},
    "wide": {"d_model": 128, "n_heads": 4, "n_kv_heads": 4, "d_ff": 341},
}  # fmt: skip


def logits(model, tokens):
    """[T, V] for one row of tokens [T]."""
    c = model.config
    w = {name: value.detach().double().numpy() for name, value in model.named_parameters()}
    x = w["embedding.weight"][tokens] * c.embedding_scale
    if c.position == "learned":
        x = x + w["position_embedding.weight"][: len(tokens)]
    for layer in range(c.n_layers):
        p = f"blocks.{layer}."
        read = x + _after(c, w, p + "attention", _attention(c, w, p, layer, _norm(c, w, p + "attention_norm", x)))
        x = read + _after(
            c, w, p + "mlp", _mlp(c, w, p + "mlp.", _norm(c, w, p + "mlp_norm", x if c.parallel else read))
        )
    head = w["embedding.weight"] if c.tie_embeddings else w["head.weight"]
    return _capped(_norm(c, w, "norm", x) @ head.T, c.logit_softcap)


def _capped(x, cap):
    return x if cap is None else cap * np.tanh(x / cap)


def _after(c, w, name, x):
    return _norm(c, w, name + "_post_norm", x) if c.post_norms else x


def _rms(x, weight, eps):
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + eps) * weight


def _norm(c, w, name, x):
    if c.norm == "rmsnorm":
        return _rms(x, c.norm_offset + w[name + ".weight"], c.norm_eps)
    centred = x - x.mean(-1, keepdims=True)
    return _rms(centred, w[name + ".weight"], c.norm_eps) + w[name + ".bias"]


def _linear(w, name, x):
    return x @ w[name + ".weight"].T + w.get(name + ".bias", 0.0)


def _turn(c, x, position):
    half, y = c.rotary_dim // 2, x.copy()
    for i in range(half):
        frequency = c.rope_frequencies[i] if c.rope_frequencies else c.rope_theta ** (-2.0 * i / c.rotary_dim)
        cos, sin = (c.rope_magnitude * f(position * frequency) for f in (np.cos, np.sin))
        y[i] = x[i] * cos - x[i + half] * sin
        y[i + half] = x[i + half] * cos + x[i] * sin
    return y


def _attention(c, w, block, layer, x):
    p, window = block + "attention.", c.window[layer] if isinstance(c.window, tuple) else c.window
    q, k, v = (_linear(w, p + name, x).reshape(len(x), -1, c.head_dim) for name in "qkv")
    if c.qk_norm:
        q, k = (_rms(z, c.norm_offset + w[p + name + "_norm.weight"], c.norm_eps) for z, name in ((q, "q"), (k, "k")))
    if c.position == "rope":
        q, k = (np.array([[_turn(c, head, t) for head in row] for t, row in enumerate(z)]) for z in (q, k))
    out = np.zeros((len(x), c.n_heads, c.head_dim))
    for t in range(len(x)):
        for h in range(c.n_heads):
            g = h // (c.n_heads // c.n_kv_heads)
            seen = slice(max(0, t + 1 - (window or t + 1)), t + 1)
            score = _capped(k[seen, g] @ q[t, h] * (c.attention_scale or c.head_dim**-0.5), c.attention_softcap)
            weight = np.exp(score - score.max())
            out[t, h] = weight @ v[seen, g] / weight.sum()
    return _linear(w, p + "o", out.reshape(len(x), -1))


def _mlp(c, w, p, x):
    def silu(z):
        return z / (1 + np.exp(-z))

    def gelu(z):
        return 0.5 * z * (1 + erf(z / np.sqrt(2)))

    def gelu_tanh(z):
        return 0.5 * z * (1 + np.tanh(np.sqrt(2 / np.pi) * (z + 0.044715 * z**3)))

    up = _linear(w, p + "up", x)
    if c.gated:
        gate = _linear(w, p + "gate", x)
        up = {"swiglu": silu, "geglu": gelu, "geglu_tanh": gelu_tanh}[c.activation](gate) * up
    elif c.activation == "gelu":
        up = gelu(up)
    elif c.activation == "gelu_tanh":
        up = gelu_tanh(up)
    elif c.activation == "relu":
        up = np.maximum(up, 0)
    else:
        up = silu(up)
    return _linear(w, p + "down", up)


def scramble(model, scale=0.3):
    """Every parameter moved off its initial value (norm weights are no longer 1, biases no longer 0), in place."""
    import torch

    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter += (scale * noise / np.sqrt(parameter.shape[-1])).to(parameter.dtype)
    return model


def tolerance(model, truth):
    """What fp32 may add to logits: 2 L sub-layers, a norm and a head, each a sum of up to K terms with an error of
    sqrt(K) roundings of its magnitude, and 8 for what norms and softmax magnify."""
    c = model.config
    longest = max(c.d_model, c.d_ff, c.n_heads * c.head_dim)
    return 8 * (2 * c.n_layers + 2) * longest**0.5 * 2**-24 * max(1.0, float(abs(truth.detach()).max()))
