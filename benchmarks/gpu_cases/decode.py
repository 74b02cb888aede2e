"""The path decode."""

from __future__ import annotations

import copy
import importlib.util
from collections.abc import Callable

import torch
from _generate_rivals import hugging_face
from torch import Tensor

from gmkern import decode
from gmkern.decode.sample import ops
from gpu_cases.case import Case, rotating


def _sampling(device: torch.device, tiny: bool, params: decode.SamplingParams, name: str) -> Case:
    rows, vocabulary = (4, 100) if tiny else (256, 50257)
    ids = torch.arange(rows, device=device)
    seed, step = torch.tensor(5, device=device), torch.tensor(0, device=device)
    following = rotating(lambda: 3 * torch.randn(rows, vocabulary, device=device), 4 * rows * vocabulary, device)

    def check() -> None:
        logits = 3 * torch.randn(rows, vocabulary, device=device)
        ours = decode.sample(logits, params, seed=5, sample_ids=ids, step=0)
        truth = decode.sample(logits.cpu(), params, seed=5, sample_ids=ids.cpu(), step=0, backend="reference")
        assert torch.equal(ours.tokens.cpu(), truth.tokens), "tokens differ from the reference"
        torch.testing.assert_close(ours.logprobs.cpu(), truth.logprobs, rtol=1e-5, atol=1e-5)

    def plain() -> Tensor:
        probabilities = torch.softmax(following() / params.temperature, dim=-1)
        return torch.multinomial(probabilities, 1)

    def sorting() -> Tensor:
        ordered, order = torch.sort(following() / params.temperature, dim=-1, descending=True)
        probabilities = torch.softmax(ordered, dim=-1)
        beyond = probabilities.cumsum(-1) - probabilities > params.top_p
        beyond[:, params.top_k :] = True
        return order.gather(1, torch.multinomial(probabilities.masked_fill(beyond, 0.0), 1))

    filtered = params.top_k > 0  # type: ignore[operator]
    return Case(
        f"B={rows} V={vocabulary} fp32{name}",
        lambda: decode.sample(following(), params, seed=seed, sample_ids=ids, step=step),
        check,
        {"sort + softmax + multinomial": sorting} if filtered else {"softmax + multinomial": plain},
        moved=4 * rows * vocabulary,
    )


def sample(device: torch.device, tiny: bool) -> Case:
    return _sampling(device, tiny, decode.SamplingParams(temperature=0.9), "")


def sample_filtered(device: torch.device, tiny: bool) -> Case:
    return _sampling(device, tiny, decode.SamplingParams(temperature=0.9, top_k=50, top_p=0.9), " top-k top-p")


def attention(device: torch.device, tiny: bool) -> Case:
    """One query a row against a cache of bf16: the keys and values are read once."""
    rows, held, heads, key_heads, dim = (2, 300, 4, 2, 16) if tiny else (64, 4096, 64, 8, 128)
    q = torch.randn(rows, heads, dim, device=device, dtype=torch.bfloat16)
    cache = torch.randn(2, rows, held, key_heads, dim, device=device, dtype=torch.bfloat16)  # 1 GB: past any L2
    keys, values = cache
    lengths = torch.full((rows,), held, dtype=torch.int32, device=device)

    def check() -> None:
        ours = decode.attention(q, keys, values, lengths)
        few = [x[:2].cpu() for x in (q, keys, values, lengths)]
        truth = decode.attention(*(x.double() if x.is_floating_point() else x for x in few), backend="reference")
        torch.testing.assert_close(ours.out[:2].double().cpu(), truth.out, rtol=2**-8, atol=2**-12)
        torch.testing.assert_close(ours.lse[:2].double().cpu(), truth.lse, rtol=1e-5, atol=1e-5)

    def fused() -> Tensor:
        by_heads = (x.transpose(1, 2) for x in (keys, values))
        return torch.nn.functional.scaled_dot_product_attention(q.unsqueeze(2), *by_heads, enable_gqa=True)

    return Case(
        f"B={rows} T={held} Hq={heads} Hkv={key_heads} D={dim} bf16",
        lambda: decode.attention(q, keys, values, lengths),
        check,
        {"scaled_dot_product_attention": fused},
        moved=2 * cache.numel(),
    )


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

    rivals: dict[str, Callable[[], object]] = {"plain PyTorch": lambda: run("reference")}
    if importlib.util.find_spec("transformers") and device.type == "cuda":
        theirs = hugging_face(model).to(device, dtype).eval()
        begin = torch.zeros(rows, 1, dtype=torch.int64, device=device)
        rivals["transformers, static cache, compiled"] = lambda: theirs.generate(
            begin, attention_mask=torch.ones_like(begin), max_new_tokens=length, do_sample=True, pad_token_id=0,
            cache_implementation="static",
        )  # fmt: skip
    read = sum(p.numel() * p.element_size() for p in model.parameters())
    return Case(
        f"B={rows} T={length} L={layers} d={width} V={vocab} {str(dtype).removeprefix('torch.')}",
        run,
        check,
        rivals,
        moved=read * length if rows == 1 else 0,
        work=float(rows * length),
        unit="tokens",
    )


def score(device: torch.device, tiny: bool) -> Case:
    """What generate's order of sums costs where all positions are there: the rival is the module as it is."""
    rows, length = (2, 3) if tiny else (16, 512)
    torch.manual_seed(6)
    layers, heads, width, vocab = (1, 2, 16, 50) if tiny else (12, 12, 768, 50257)
    shape = decode.TransformerConfig(vocab, layers, heads, width, length + 1, bos_id=0)
    model = decode.Transformer(shape).to(device).requires_grad_(False)
    drawn = decode.generate(model, n=rows, max_new_tokens=length, seed=8)

    def check() -> None:
        assert torch.equal(decode.score(model, drawn.tokens, drawn.lengths), drawn.logprobs), "not generate's bits"

    return Case(
        f"{rows} x {length} L={layers} d={width} V={vocab} fp32",
        lambda: decode.score(model, drawn.tokens, drawn.lengths),
        check,
        {"plain PyTorch": lambda: decode.score(model, drawn.tokens, drawn.lengths, exact=False)},
        work=float(rows * length),
        unit="tokens",
    )


def score_tokens(device: torch.device, tiny: bool) -> Case:
    """What `score` makes of logits, without gradients: rows of one block."""
    rows, vocabulary = (4, 100) if tiny else (256, 50257)
    tokens = torch.randint(vocabulary, (rows,), device=device)
    packed = decode.SamplingParams(temperature=0.9).packed(rows, device)
    following = rotating(lambda: 3 * torch.randn(rows, vocabulary, device=device), 4 * rows * vocabulary, device)

    def check() -> None:
        logits = 3 * torch.randn(rows, vocabulary, device=device)
        ours = ops.score_tokens(logits, tokens, packed, None, None, True)
        truth = ops.score_tokens(logits.cpu(), tokens.cpu(), packed.cpu(), None, None, True)
        assert all(torch.equal(a.cpu(), b) for a, b in zip(ours[:3], truth[:3], strict=True)), "not the CPU's bits"
        torch.testing.assert_close(ours[3].cpu(), truth[3], rtol=1e-4, atol=1e-4)

    def plain() -> tuple[Tensor, ...]:
        logits = following()
        raw, log = logits.log_softmax(-1), (logits / 0.9).log_softmax(-1)
        spread = -(log.exp() * log).sum(-1)
        return *(x.gather(1, tokens.unsqueeze(1)) for x in (raw, log)), spread

    return Case(
        f"B={rows} V={vocabulary} fp32, entropy too",
        lambda: ops.score_tokens(following(), tokens, packed, None, None, True),
        check,
        {"log_softmax twice + gather": plain},
        moved=4 * rows * vocabulary,
    )


def generate_many(device: torch.device, tiny: bool) -> Case:
    return _generation(device, *((3, 2, 1, 2, 16, 50) if tiny else (256, 128, 4, 4, 128, 512)))


def generate_one(device: torch.device, tiny: bool) -> Case:
    return _generation(device, *((1, 2, 1, 2, 16, 50) if tiny else (1, 128, 12, 12, 768, 50257)))


CASES = {
    "decode.sample": sample,
    "decode.sample filtered": sample_filtered,
    "decode.attention": attention,
    "decode.generate": generate_many,
    "decode.generate one row": generate_one,
    "decode.score": score,
    "decode.score tokens": score_tokens,
}
