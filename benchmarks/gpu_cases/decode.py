"""Whole generation, and scores of what was drawn."""

from __future__ import annotations

import copy
from collections.abc import Callable
from unittest import mock

import torch
from _hugging_face import hugging_face
from torch import Tensor

from gmkern import decode
from gpu_cases.case import SHARE, Case, Mark, Rivals, absent, with_gradient

_STATIC = "transformers, static cache, compiled"


def _generation(device: torch.device, rows: int, length: int, layers: int, heads: int, width: int, vocab: int) -> Case:
    """A GPT-2 of random weights, from its first token on; bfloat16 for one row, which is bound by reading weights."""
    torch.manual_seed(6)
    dtype = torch.bfloat16 if rows == 1 else torch.float32
    shape = decode.TransformerConfig(
        vocab, layers, heads, width, length + 1, norm="layernorm", activation="gelu_tanh", position="learned",
        qkv_bias=True, bias=True, bos_id=0,
    )  # fmt: skip
    model = decode.Transformer(shape).to(device, dtype).requires_grad_(False)

    def run(backend: str | None = None) -> decode.Generation:
        return decode.generate(model, n=rows, max_new_tokens=length, seed=8, batch_size=rows, backend=backend)

    def check() -> None:
        ours = run()
        wide = copy.deepcopy(model).float()
        tokens = torch.cat([torch.zeros_like(ours.tokens[:, :1]), ours.tokens[:, :-1]], 1)
        truth = wide(tokens).log_softmax(-1).gather(2, ours.tokens.unsqueeze(2)).squeeze(2)
        # bfloat16 rounds keys and values, by 2^-9 of numbers of about 1 a layer
        torch.testing.assert_close(ours.raw_logprobs, truth, rtol=0, atol=0.05 if dtype == torch.bfloat16 else 1e-3)
        alone = decode.generate(model, n=1, sample_ids=[rows - 1], max_new_tokens=length, seed=8)
        assert torch.equal(alone.logprobs[0], ours.logprobs[rows - 1]), "a row changes with its batch"
        if device.type == "cuda":
            assert torch.equal(otherwise().logprobs, ours.logprobs), "other kernels have other bits"

    def otherwise() -> decode.Generation:
        """By a launch an op, which the kernels of whole steps, or of the head and the draw, are to be ahead of."""
        from gmkern.decode.generate import device as on_device

        with mock.patch.multiple(on_device, takes=lambda *_: False, FEW=0):
            return run()

    rivals: Rivals = {"plain PyTorch": lambda: run("reference")}
    rivals[_STATIC] = absent("transformers", "transformers", device) or _static(model, rows, length)
    if device.type == "cuda":
        rivals["ours, a graph of kernels of one op"] = otherwise
    read = sum(p.numel() * p.element_size() for p in model.parameters())
    return Case(
        f"B={rows} T={length} L={layers} d={width} V={vocab} {str(dtype).removeprefix('torch.')}",
        run,
        check,
        rivals,
        read=read * length if rows == 1 else 0,  # weights, once a token; keys and values are a hundredth of it
        work=float(rows * length),
        unit="tokens",
        captures=False,
        marks=(Mark(0.5, SHARE),) if rows == 1 else (Mark(20.0, _STATIC),),
    )


def _static(model: decode.Transformer, rows: int, length: int) -> Callable[[], object]:
    """Hugging Face's generate with a static cache, whose forward it compiles at its first run."""
    made: list[Callable[[], object]] = []

    def run() -> object:
        if not made:
            parameter = next(model.parameters())
            theirs = hugging_face(model).to(parameter.device, parameter.dtype).eval()
            begin = torch.zeros(rows, 1, dtype=torch.int64, device=parameter.device)
            # no filter, as ours: without top_k=0 it keeps 50
            options = {"do_sample": True, "top_k": 0, "pad_token_id": 0, "cache_implementation": "static"}
            mask = torch.ones_like(begin)
            made.append(lambda: theirs.generate(begin, attention_mask=mask, max_new_tokens=length, **options))
        return made[0]()

    return run


def _score(device: torch.device, tiny: bool, back: bool) -> Case:
    """What generate's order of sums costs where all positions are there: the rival is the module as it is."""
    rows, length = (2, 3) if tiny else (16, 512)
    torch.manual_seed(6)
    layers, heads, width, vocab = (1, 2, 16, 50) if tiny else (12, 12, 768, 50257)
    shape = decode.TransformerConfig(vocab, layers, heads, width, length + 1, bos_id=0)
    model = decode.Transformer(shape).to(device).requires_grad_(back)
    drawn = decode.generate(model, n=rows, max_new_tokens=length, seed=8)
    leaves = list(model.parameters())

    def run(exact: bool) -> Callable[[], object]:
        def scored() -> Tensor:
            return decode.score(model, drawn.tokens, drawn.lengths, exact=exact)

        return with_gradient(scored, leaves) if back else scored

    def check() -> None:
        assert torch.equal(decode.score(model, drawn.tokens, drawn.lengths), drawn.logprobs), "not generate's bits"
        if back:
            for ours, theirs in zip(run(True)(), run(False)(), strict=True):
                close = 1e-3 * float(theirs.abs().max())  # sums of thousands of terms, in another order
                torch.testing.assert_close(ours, theirs, rtol=0, atol=close)

    return Case(
        f"{rows} x {length} L={layers} d={width} V={vocab} fp32",
        run(True),
        check,
        {"plain PyTorch": run(False)},
        flop=(3 if back else 1) * 2.0 * rows * length * sum(p.numel() for p in leaves if p.ndim == 2),
        work=float(rows * length),
        unit="tokens",
        captures=False,
    )


def score(device: torch.device, tiny: bool) -> Case:
    return _score(device, tiny, False)


def score_backward(device: torch.device, tiny: bool) -> Case:
    return _score(device, tiny, True)


def generate_many(device: torch.device, tiny: bool) -> Case:
    return _generation(device, *((3, 2, 1, 2, 16, 50) if tiny else (256, 128, 4, 4, 128, 512)))


def generate_one(device: torch.device, tiny: bool) -> Case:
    return _generation(device, *((1, 2, 1, 2, 16, 50) if tiny else (1, 128, 12, 12, 768, 50257)))


CASES = {
    "decode.generate": generate_many,
    "decode.generate one row": generate_one,
    "decode.score": score,
    "decode.score backward": score_backward,
}
