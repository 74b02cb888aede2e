"""Tokens of logits, and their log-probabilities: each reads the logits once at the least."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from gmkern import decode
from gmkern.decode.sample import ops
from gpu_cases.case import SHARE, Case, Mark, Rivals, absent, rotating, with_gradient

_MULTINOMIAL = "softmax + torch.multinomial"


def _logits(device: torch.device, tiny: bool) -> tuple[int, int, Callable[[], Tensor]]:
    rows, vocabulary = (4, 100) if tiny else (256, 50257)
    made = rotating(lambda: 3 * torch.randn(rows, vocabulary, device=device), 4 * rows * vocabulary, device)
    return rows, vocabulary, made


def _sampling(
    device: torch.device, tiny: bool, params: decode.SamplingParams, name: str, marks: tuple[Mark, ...] = ()
) -> Case:
    rows, vocabulary, following = _logits(device, tiny)
    ids = torch.arange(rows, device=device)
    seed, step = torch.tensor(5, device=device), torch.tensor(0, device=device)

    def check() -> None:
        logits = following()
        ours = decode.sample(logits, params, seed=5, sample_ids=ids, step=0)
        truth = decode.sample(logits.cpu(), params, seed=5, sample_ids=ids.cpu(), step=0, backend="reference")
        assert torch.equal(ours.tokens.cpu(), truth.tokens), "tokens differ from the reference"
        torch.testing.assert_close(ours.logprobs.cpu(), truth.logprobs, rtol=1e-5, atol=1e-5)

    return Case(
        f"B={rows} V={vocabulary} fp32{name}",
        lambda: decode.sample(following(), params, seed=seed, sample_ids=ids, step=step),
        check,
        _rivals_of(device, following, params),
        read=4 * rows * vocabulary,
        marks=marks,
    )


def _rivals_of(device: torch.device, following: Callable[[], Tensor], params: decode.SamplingParams) -> Rivals:
    """Tokens alone: none of them gives log-probabilities."""
    k, p = params.top_k, params.top_p

    def plain() -> Tensor:
        return torch.multinomial(torch.softmax(following(), dim=-1), 1)

    def sorting() -> Tensor:
        ordered, order = torch.sort(following(), dim=-1, descending=True)
        probabilities = torch.softmax(ordered, dim=-1)
        beyond = probabilities.cumsum(-1) - probabilities > p
        beyond[:, k:] = True
        return order.gather(1, torch.multinomial(probabilities.masked_fill(beyond, 0.0), 1))

    def rejecting() -> Tensor:
        from flashinfer import sampling

        if k:
            return sampling.top_k_top_p_sampling_from_logits(following(), k, p, filter_apply_order="top_k_first")
        return sampling.sampling_from_logits(following())

    ours = {"sort + softmax + torch.multinomial": sorting} if k else {_MULTINOMIAL: plain}
    return {**ours, "flashinfer": absent("flashinfer", "flashinfer-python", device) or rejecting}


def sample(device: torch.device, tiny: bool) -> Case:
    marks = Mark(0.7, SHARE), Mark(1.0, _MULTINOMIAL), Mark(1.0, "flashinfer")
    return _sampling(device, tiny, decode.SamplingParams(), "", marks)


def sample_filtered(device: torch.device, tiny: bool) -> Case:
    return _sampling(device, tiny, decode.SamplingParams(top_k=50, top_p=0.9), " top-k top-p")


def _picked(logits: Tensor, tokens: Tensor) -> Tensor:
    return logits.log_softmax(-1).gather(1, tokens[:, None]).squeeze(1)


def log_probabilities(device: torch.device, tiny: bool) -> Case:
    rows, vocabulary, following = _logits(device, tiny)
    tokens = torch.randint(vocabulary, (rows,), device=device)

    def check() -> None:
        logits = following()
        ours = decode.token_logprobs(logits, tokens)
        truth = decode.token_logprobs(logits.cpu().double(), tokens.cpu(), backend="reference")
        torch.testing.assert_close(ours.cpu().double(), truth, rtol=1e-5, atol=1e-5)

    return Case(
        f"B={rows} V={vocabulary} fp32",
        lambda: decode.token_logprobs(following(), tokens),
        check,
        {"log_softmax + gather": lambda: _picked(following(), tokens)},
        read=4 * rows * vocabulary,
    )


def log_probabilities_backward(device: torch.device, tiny: bool) -> Case:
    rows, vocabulary, following = _logits(device, tiny)
    tokens = torch.randint(vocabulary, (rows,), device=device)

    def gradient(score: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        logits = following().requires_grad_()
        return torch.autograd.grad(score(logits, tokens).sum(), logits)[0]

    def check() -> None:
        leaf = following().detach().clone().requires_grad_()
        ours, theirs = (
            with_gradient(lambda score=score: score(leaf, tokens), [leaf])()[0]
            for score in (decode.token_logprobs, _picked)
        )
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)

    return Case(
        f"B={rows} V={vocabulary} fp32",
        lambda: gradient(decode.token_logprobs),
        check,
        {"log_softmax + gather": lambda: gradient(_picked)},
        moved=3 * 4 * rows * vocabulary,  # the logits read forward and back, their gradient written
    )


def score_tokens(device: torch.device, tiny: bool) -> Case:
    """What `score` makes of logits, without gradients: rows of one block."""
    rows, vocabulary, following = _logits(device, tiny)
    tokens = torch.randint(vocabulary, (rows,), device=device)
    packed = decode.SamplingParams(temperature=0.9).packed(rows, device)

    def check() -> None:
        logits = following()
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
        read=4 * rows * vocabulary,
    )


CASES = {
    "decode.sample": sample,
    "decode.sample filtered": sample_filtered,
    "decode.token_logprobs": log_probabilities,
    "decode.token_logprobs backward": log_probabilities_backward,
    "decode.score tokens": score_tokens,
}
