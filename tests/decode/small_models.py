"""Small transformers with weights that matter, and prompts for them."""

import copy

import torch
from torch import nn

from gmkern.decode import Transformer, TransformerConfig
from tests.decode.transformer_truth import CONFIGS, scramble

VOCAB = 17
NARROW = ("bfloat16", "int8")  # formats that round fp32 weights


def build(name="llama", kind=Transformer, **more):
    """Two layers of the shape ``name`` (CONFIGS), random to the last norm and bias."""
    shape = {"vocab_size": VOCAB, "n_layers": 2, "max_seq_len": 64, "bos_id": 1} | CONFIGS[name] | more
    return scramble(kind(TransformerConfig(**shape)), 1.0)


def prompts(generator, sizes, vocab=VOCAB):
    return [torch.randint(0, vocab, (size,), generator=generator) for size in sizes]


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def int8_steps(weight):
    """(scale [outputs], whole steps): max |w| / 127 of each output, in fp32."""
    scale = weight.abs().amax(1) / 127
    return scale, (weight / scale[:, None]).round()


def rounded(model, format):
    """The model, its head its own, whose linears have the weights that the format holds."""
    model = copy.deepcopy(model)
    if format is None:
        return model
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.Linear):
                scale, steps = int8_steps(module.weight)
                module.weight.copy_(scale[:, None] * steps if format == "int8" else module.weight.bfloat16())
    return model
