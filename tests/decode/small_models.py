"""Small transformers with weights that matter, and prompts for them."""

import torch

from gmkern.decode import Transformer, TransformerConfig
from tests.decode.transformer_truth import CONFIGS, scramble

VOCAB = 17


def build(name="llama", kind=Transformer, **more):
    """Two layers of the shape ``name`` (CONFIGS), random to the last norm and bias."""
    shape = {"vocab_size": VOCAB, "n_layers": 2, "max_seq_len": 64, "bos_id": 1} | CONFIGS[name] | more
    return scramble(kind(TransformerConfig(**shape)), 1.0)


def prompts(generator, sizes, vocab=VOCAB):
    return [torch.randint(0, vocab, (size,), generator=generator) for size in sizes]


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
