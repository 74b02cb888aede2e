"""decode.sample beside what one would write instead.

That is torch.multinomial of a softmax (unfiltered), and sort, cumulative sum, mask, softmax, multinomial (filtered),
each followed by the log-probability that sample returns as well.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import torch
from _case import OURS, Case, Point, Run, across
from torch import Tensor

from gmkern.decode import SamplingParams, sample, token_logprobs

FILTERS = {
    "no filters": SamplingParams(),
    "T=0.8": SamplingParams(0.8),
    "top_k=50": SamplingParams(top_k=50),
    "top_p=0.9": SamplingParams(top_p=0.9),
    "T=0.8 k=50 p=0.95": SamplingParams(0.8, 50, 0.95),
    "min_p=0.05": SamplingParams(min_p=0.05),
}


class Logits(NamedTuple):
    z: Tensor  # [rows, V]
    params: SamplingParams

    @property
    def ids(self) -> Tensor:
        return torch.arange(len(self.z))


def logits(rows: int, vocabulary: int, spread: float, params: SamplingParams) -> Logits:
    torch.manual_seed(0)
    return Logits(spread * torch.randn(rows, vocabulary), params)


def ours(given: Logits) -> Run:
    ids = given.ids
    return lambda _: sample(given.z, given.params, seed=1, sample_ids=ids, step=0)


def kept(given: Logits) -> Tensor:
    """The filtered log-probabilities [rows, V], with PyTorch alone."""
    params, z = given.params, given.z.float() / given.params.temperature
    if params.top_k:
        z = z.masked_fill(z < z.topk(min(params.top_k, z.shape[1])).values[:, -1:], float("-inf"))
    if params.top_p < 1:
        ordered, index = z.sort(dim=-1, descending=True)
        p = ordered.softmax(-1)
        dropped = p.cumsum(-1) - p >= params.top_p
        z = z.masked_fill(torch.zeros_like(dropped).scatter_(1, index, dropped), float("-inf"))
    if params.min_p > 0:
        p = z.softmax(-1)
        z = z.masked_fill(p < params.min_p * p.amax(-1, keepdim=True), float("-inf"))
    return z.log_softmax(-1)


def by_torch(given: Logits) -> Run:
    def run(_: int) -> tuple[Tensor, Tensor]:
        logprobs = kept(given)
        tokens = torch.multinomial(logprobs.exp(), 1)
        return tokens[:, 0], logprobs.gather(1, tokens)[:, 0]

    return run


def check(given: Logits, tool: str, ours: Any, theirs: Any) -> None:
    """Ours to the bit the reference's; each tool's log-probabilities are those that the other gives its tokens."""
    if tool == OURS:
        truth = sample(given.z, given.params, seed=1, sample_ids=given.ids, step=0, backend="reference")
        assert all(torch.equal(a, b) for a, b in zip(ours, truth, strict=True))
        said = kept(given).gather(1, ours.tokens[:, None])[:, 0]
        theirs = (ours.tokens, ours.logprobs)
    else:
        said = token_logprobs(given.z, theirs[0], given.params)
    # At a boundary plain rounding may keep one token more or fewer, which moves every value by little.
    torch.testing.assert_close(said, theirs[1], rtol=1e-4, atol=1e-3)


def case(rows: int, vocabulary: int, spread: float, filters: str, point: Point | None = None) -> Case:
    name = f"sample, {rows} rows of V={vocabulary}, spread {spread:g}, {filters}"
    moved = 4.0 * rows * vocabulary  # one reading of the logits; operations are not those of matrix products
    inputs = partial(logits, rows, vocabulary, spread, FILTERS[filters])
    return Case(name, inputs, {OURS: ours, "PyTorch": by_torch}, check, moved, point=point)


CASES = [case(8, 50_257, 4.0, filters) for filters in FILTERS]
CASES += [case(64, 50_257, spread, filters) for spread in (1.0, 4.0) for filters in ("no filters", "T=0.8 k=50 p=0.95")]
CURVES = [
    case(64, size, 1.0, filters, Point(f"sample, {filters}", "V", size))
    for filters in ("no filters", "T=0.8 k=50 p=0.95")
    for size in (1024, 8192, 32_768, 131_072)
]


@across(CASES)
def test_sample(case, tool, raced):
    raced(case, tool)


@across(CURVES)
def test_sample_grows(case, tool, raced):
    raced(case, tool)
