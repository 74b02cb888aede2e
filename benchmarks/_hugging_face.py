"""Hugging Face's model of a Transformer's weights."""

from __future__ import annotations

from typing import Any

from gmkern.decode import Transformer


def hugging_face(model: Transformer) -> Any:
    """A GPT2LMHeadModel with the model's weights."""
    from transformers import GPT2Config, GPT2LMHeadModel

    c = model.config
    config = GPT2Config(
        vocab_size=c.vocab_size,
        n_positions=c.max_seq_len,
        n_embd=c.d_model,
        n_layer=c.n_layers,
        n_head=c.n_heads,
        n_inner=c.d_ff,
        bos_token_id=0,
        eos_token_id=None,
        pad_token_id=0,
        tie_word_embeddings=c.tie_embeddings,
    )
    gpt2 = GPT2LMHeadModel(config)
    gpt2.load_state_dict(model.hf_state_dict("gpt2"))
    return gpt2.eval()
