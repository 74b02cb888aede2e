"""gmkern.decode with drawn arguments."""

from __future__ import annotations

from dataclasses import fields
from functools import cache
from typing import Any

import torch
from hypothesis import strategies as st

from gmkern import decode
from gmkern.testing import tolerance
from tests.robustness.fuzzing import FLOATS, SIZES, Draw, fuzz, laid_out, numbers

VOCAB = 11


def params(draw: Draw, rows: int) -> decode.SamplingParams:
    """Of each kind: numbers, or one a row."""
    chosen = {
        "temperature": draw(st.sampled_from([0.0, 0.5, 1.0, 3.0])),
        "top_k": draw(st.sampled_from([0, 1, 5, 100])),
        "top_p": draw(st.sampled_from([0.0, 0.7, 1.0])),
        "min_p": draw(st.sampled_from([0.0, 0.05])),
        "typical_p": draw(st.sampled_from([0.5, 1.0])),
        "repetition_penalty": draw(st.sampled_from([1.0, 1.3])),
        "presence_penalty": draw(st.sampled_from([0.0, -0.5])),
    }
    if draw(st.booleans()):
        chosen["temperature"] = torch.full((rows,), chosen["temperature"])
    return decode.SamplingParams(**chosen)


def logits(draw: Draw, lead: list[int], vocab: int) -> dict[str, Any]:
    """Logits, some of them minus infinity, and what says which tokens are legal."""
    x = numbers(draw, [*lead, vocab], draw(st.sampled_from(FLOATS)))
    x[..., 1:][x[..., 1:] > 1.8] = -torch.inf  # the first token stays
    given: dict[str, Any] = {"logits": laid_out(draw, x), "params": params(draw, lead[0])}
    if draw(st.booleans()):
        mask = numbers(draw, [*lead, vocab]) > 0
        mask[..., 0] = True
        given["mask"] = laid_out(draw, mask)
    if draw(st.booleans()):
        given["history"] = laid_out(draw, (numbers(draw, [lead[0], draw(SIZES)]).abs() * 3).long() % vocab)
    return given | {"epsilon": draw(st.sampled_from([0.0, 0.25, 1.0]))}


@fuzz("decode.sample", also=("params",))
def test_sample(draw: Draw) -> dict[str, Any]:
    """The same tokens and bits from both backends."""
    rows = draw(SIZES | st.just(0))
    given = logits(
        draw,
        [
            rows,
        ],
        draw(st.sampled_from([1, 2, 16, 17, 100])),
    )
    ids = torch.arange(rows) * 3 - 1
    return given | {
        "seed": draw(st.integers(-3, 3)),
        "sample_ids": laid_out(draw, ids),
        "step": draw(st.integers(0, 2**32 - 1)),
    }


@fuzz("decode.token_logprobs", also=("params", "logits, tokens"))
def test_token_logprobs(draw: Draw) -> dict[str, Any]:
    """Rows alone, and rows of several positions."""
    lead = [draw(SIZES), *draw(st.sampled_from([[], [1], [4]]))]
    given = logits(draw, lead, draw(st.sampled_from([1, 2, 16, 17, 100])))
    vocab = given["logits"].shape[-1]
    return given | {"tokens": laid_out(draw, (numbers(draw, lead).abs() * 40).long() % vocab)}


# Weights are a softmax over up to 33 positions of values of a few units: sums of 33 products of products of 17.
# A scale without bound makes them of any size.
@fuzz("decode.attention", rounding=64 * tolerance(torch.float32, 33) + tolerance(torch.float16), keep=("scale",))
def test_attention(draw: Draw) -> dict[str, Any]:
    """Several queries a row, windows, slopes and caps, in every dtype that needs no scales."""
    dtype, rows, heads, group = (
        draw(st.sampled_from([torch.float32, torch.float64, torch.float16])),
        draw(SIZES),
        *draw(st.sampled_from([(1, 1), (2, 3), (3, 1)])),
    )
    dim, held = draw(SIZES), draw(SIZES)
    kinds = {"kinds": "normal"}
    many = draw(st.sampled_from([[], [1], [3]]))
    given = {
        "q": laid_out(draw, numbers(draw, [rows, *many, heads * group, dim], dtype, **kinds)),
        "k_cache": laid_out(draw, numbers(draw, [rows, held, heads, dim], dtype, **kinds)),
        "v_cache": laid_out(draw, numbers(draw, [rows, held, heads, dim], dtype, **kinds)),
        "lengths": laid_out(draw, torch.randint(0, held + 1, (rows,), generator=torch.Generator().manual_seed(rows))),
    }
    if draw(st.booleans()):
        given["alibi"] = numbers(draw, [heads * group]).abs()
    options = {"window": draw(st.sampled_from([None, 1, 3])), "softcap": draw(st.sampled_from([None, 5.0]))}
    return given | options


@cache
def model() -> decode.Transformer:
    torch.manual_seed(0)
    config = decode.TransformerConfig(VOCAB, n_layers=1, n_heads=2, d_model=8, max_seq_len=16, bos_id=0)
    return decode.Transformer(config).eval()


def prompts(draw: Draw) -> dict[str, Any]:
    """None, a tensor, or lists of several lengths."""
    rows = draw(st.integers(1, 5))
    if draw(st.booleans()):
        return {"n": rows}
    ids = torch.randint(0, VOCAB, (rows, 4), generator=torch.Generator().manual_seed(rows))
    return {
        "prompts": laid_out(draw, ids)
        if draw(st.booleans())
        else [row[: 1 + i % 4].tolist() for i, row in enumerate(ids)]
    }


def rows_of(given: dict[str, Any]) -> int:
    return given["n"] if "n" in given else len(given["prompts"])


# The engine's float32 sums against PyTorch's: of up to 16 positions and 32 hidden units, through one layer. A token is
# the argmax of a sum with noise, so that rounding changes it with a probability of the rounding's size.
@fuzz(
    "decode.generate", rounding=64 * tolerance(torch.float32, 32), keep=("model", "backend"), also=("params", "bos_id")
)
def test_generate(draw: Draw) -> dict[str, Any]:
    """The compiled engine and plain PyTorch draw the same."""
    given = {"model": model()} | prompts(draw)
    return given | {
        "max_new_tokens": draw(st.integers(1, 8)),
        "end_token": draw(st.sampled_from([None, 3, [1, 2]])),
        "params": params(draw, rows_of(given)),
        "seed": draw(st.integers(0, 9)),
        "batch_size": draw(st.sampled_from([None, 1, 2])),
        "epsilon": draw(st.sampled_from([0.0, 0.5])),
    }


def stream(**given: Any) -> list[Any]:
    return sorted(decode.generate_stream(**given), key=lambda row: row.row)


def streamed_by_generate(**given: Any) -> list[Any]:
    """The rows of generate, as the stream gives them."""
    all_rows = decode.generate(**given)
    columns = (all_rows.tokens, all_rows.logprobs, all_rows.raw_logprobs, all_rows.log_kept_mass)
    return [
        decode.FinishedRow(row, *(each[row, :length] for each in columns), bool(all_rows.finished[row]))
        for row, length in enumerate(all_rows.lengths.tolist())
    ]


@fuzz(
    "decode.generate_stream",
    call=stream,
    against=streamed_by_generate,
    like="decode.generate",
    keep=("model", "backend"),
    also=("params", "bos_id"),
)
def test_generate_stream(draw: Draw) -> dict[str, Any]:
    """Rows in the order in which they end are the rows of generate."""
    given = {"model": model()} | prompts(draw)
    return given | {"max_new_tokens": draw(st.integers(1, 6)), "end_token": 3, "seed": draw(st.integers(0, 9))}


def plainly(**given: Any) -> Any:
    return decode.score(**given | {"exact": False})


@fuzz(
    "decode.score",
    rounding=64 * tolerance(torch.float32, 32),
    against=plainly,
    keep=("model", "exact"),
    also=("params", "bos_id"),
)
def test_score(draw: Draw) -> dict[str, Any]:
    """The compiled engine and plain PyTorch give the same."""
    given = {"model": model()} | prompts(draw)
    rows, most = rows_of(given), draw(st.integers(1, 6))
    if "n" in given:
        del given["n"]
    generator = torch.Generator().manual_seed(rows)
    return given | {
        "tokens": laid_out(draw, torch.randint(0, VOCAB, (rows, most), generator=generator)),
        "lengths": laid_out(draw, torch.randint(0, most + 1, (rows,), generator=generator)),
        "params": decode.SamplingParams(temperature=0.7),
    }


def shown(thing: Any) -> list[Any]:
    """What a made object says of itself."""
    if isinstance(thing, decode.KVCache):
        return [thing.keys, thing.lengths]
    if isinstance(thing, decode.Transformer):
        return [p.shape.numel() for p in thing.parameters()]
    return [getattr(thing, field.name) for field in fields(thing)]


@fuzz("decode.KVCache", show=shown)
def test_kv_cache(draw: Draw) -> dict[str, Any]:
    """Contiguous and paged, of every dtype."""
    sizes = {"rows": draw(st.integers(0, 5)), "heads": draw(st.integers(1, 4)), "head_dim": draw(SIZES)}
    dtype = draw(st.sampled_from([torch.float32, torch.bfloat16, torch.int8]))
    return sizes | {
        "dtype": dtype,
        "capacity": draw(st.integers(1, 9)),
        "page_size": draw(st.sampled_from([None, 1, 4])),
    }


@fuzz("decode.SamplingParams", show=shown)
def test_sampling_params(draw: Draw) -> dict[str, Any]:
    """Numbers and tensors."""
    drawn = params(draw, 3)
    return {field.name: getattr(drawn, field.name) for field in fields(drawn)}


@fuzz("decode.TransformerConfig", show=shown)
def test_transformer_config(draw: Draw) -> dict[str, Any]:
    """Small shapes."""
    heads = draw(st.sampled_from([1, 2, 4]))
    return {
        "vocab_size": draw(st.integers(1, 20)),
        "n_layers": draw(st.integers(1, 3)),
        "n_heads": heads,
        "d_model": 8 * heads,
        "max_seq_len": draw(st.integers(1, 20)),
    }


@fuzz("decode.Transformer", show=shown)
def test_transformer(draw: Draw) -> dict[str, Any]:
    """Of a config alone."""
    return {"config": model().config}


@fuzz("decode.Guidance", show=lambda thing: [thing.scale], also=("guidance",))
def test_guidance(draw: Draw) -> dict[str, Any]:
    """A scale, and the prompts of the other side."""
    return {"scale": draw(st.sampled_from([1.5, 0.0])), "prompts": [[1, 2]]}
