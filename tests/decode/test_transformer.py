"""The module against NumPy, and the config's checks."""

import pytest
import torch

from gmkern.decode import Transformer, TransformerConfig
from tests.decode.transformer_truth import CONFIGS, logits, scramble


def build(name, **more):
    return scramble(Transformer(TransformerConfig(vocab_size=17, n_layers=2, max_seq_len=24, **(CONFIGS[name] | more))))


@pytest.mark.parametrize("name", CONFIGS)
def test_forward_is_the_written_mathematics(name):
    model = build(name).double()
    tokens = torch.randint(0, 17, (3, 13), generator=torch.Generator().manual_seed(1))
    got = model(tokens)
    for row in range(3):
        truth = torch.from_numpy(logits(model, tokens[row].numpy()))
        # fp64 on both sides: ~10 chained reductions of up to 341 terms, each within length * eps of its magnitude
        assert (got[row] - truth).abs().max() < 10 * 341 * 2.3e-16 * max(1.0, float(truth.abs().max()))


@pytest.mark.parametrize("name", ["llama", "gpt2", "qwen3", "neox", "gemma", "gemma2", "window"])
def test_a_cache_continues_a_sequence(name):
    model = build(name).double()
    tokens = torch.randint(0, 17, (3, 13), generator=torch.Generator().manual_seed(2))
    cache = model.new_cache(3, 13)
    with torch.no_grad():
        parts = [
            model(tokens[:, a:b], torch.arange(a, b).expand(3, -1), cache) for a, b in ((0, 5), (5, 6), (6, 7), (7, 13))
        ]
        torch.testing.assert_close(torch.cat(parts, 1), model(tokens), rtol=1e-12, atol=1e-12)


def test_it_trains():
    torch.manual_seed(0)
    model = build("llama")
    tokens = torch.arange(12).repeat(4, 1)
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(40):
        loss = torch.nn.functional.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert all(p.grad is not None for p in model.parameters())
    assert losses[-1] < 0.2 * losses[0]


def test_well_known_shapes():
    gpt2 = TransformerConfig(50257, 12, 12, 768, 1024, norm="layernorm", activation="gelu_tanh", position="learned",
                             qkv_bias=True, bias=True)  # fmt: skip
    with torch.device("meta"):
        assert sum(p.numel() for p in Transformer(gpt2).parameters()) == 124_439_808
        qwen3 = TransformerConfig(151936, 28, 16, 1024, 40960, n_kv_heads=8, d_ff=3072, head_dim=128, norm_eps=1e-6,
                                  rope_theta=1e6, qk_norm=True)  # fmt: skip
        assert sum(p.numel() for p in Transformer(qwen3).parameters()) == 596_049_920
        mistral = TransformerConfig(32768, 32, 32, 4096, 32768, n_kv_heads=8, d_ff=14336, tie_embeddings=False)
        assert sum(p.numel() for p in Transformer(mistral).parameters()) == 7_248_023_552


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"vocab_size": 0}, "vocab_size"),
        ({"n_layers": 1.5}, "n_layers"),
        ({"n_kv_heads": 3}, "n_kv_heads"),
        ({"d_model": 21}, "d_model"),
        ({"head_dim": 5}, "head_dim"),
        ({"norm": "batch"}, "norm"),
        ({"activation": "swish"}, "activation"),
        ({"position": "alibi"}, "position"),
        ({"norm_eps": -1.0}, "norm_eps"),
        ({"rope_theta": 0.0}, "rope_theta"),
        ({"bias": 1}, "bias"),
        ({"bos_id": 17}, "bos_id"),
        ({"rotary_dim": 3}, "rotary_dim"),
        ({"rotary_dim": 8}, "rotary_dim"),
        ({"rope_frequencies": (1.0, 0.5)}, "rope_frequencies"),
        ({"rope_magnitude": 0.0}, "rope_magnitude"),
        ({"window": 0}, "window"),
        ({"window": (3, None)}, "window"),
        ({"window": (0,)}, "window"),
        ({"attention_scale": 0.0}, "attention_scale"),
        ({"attention_softcap": -1.0}, "attention_softcap"),
        ({"logit_softcap": float("inf")}, "logit_softcap"),
        ({"post_norms": 1}, "post_norms"),
        ({"post_norms": True, "parallel": True}, "post_norms"),
        ({"parallel": 1}, "parallel"),
        ({"o_bias": "yes"}, "o_bias"),
        ({"norm_offset": "one"}, "norm_offset"),
        ({"embedding_scale": float("nan")}, "embedding_scale"),
    ],
)
def test_bad_configs_are_named(change, word):
    good = {"vocab_size": 17, "n_layers": 1, "n_heads": 4, "d_model": 24, "max_seq_len": 8}
    with pytest.raises((TypeError, ValueError), match=f"^{word}: got"):
        TransformerConfig(**(good | change))


def test_bad_calls_are_named():
    model = build("llama")
    with pytest.raises(ValueError, match="^tokens: got .* max_seq_len = 24"):
        model(torch.zeros(1, 25, dtype=torch.int64))
    with pytest.raises(ValueError, match="^tokens: got"):
        model(torch.zeros(3, dtype=torch.int64))
    with pytest.raises(ValueError, match="^positions: got"):
        model(torch.zeros(1, 3, dtype=torch.int64), torch.zeros(1, 2, dtype=torch.int64))
    with pytest.raises(TypeError, match="^config: got"):
        Transformer({"vocab_size": 3})
