"""Generation in the compiled engine: slices of many steps, driven from Python."""

from __future__ import annotations

import time
from collections.abc import Iterator

import torch
from torch import Tensor

from gmkern._progress import bar
from gmkern._validate import bad
from gmkern.decode.generate.job import Job, row_values, rows_of
from gmkern.decode.generate.result import Generation, empty_generation
from gmkern.decode.transformer import Transformer, ops, packed

_BAD_PARAMS = 4  # SampleFlaw in csrc/decode/sample.h
_SLICE = 0.25  # seconds of compiled steps between two looks at Ctrl-C and the progress bar
_CACHE = 1 << 31  # bytes of keys and values that batch_size=None may take


class EngineSteps:
    """The engine one token at a time, where hooks stand between logits and choice (see ``loop.Steps``)."""

    def __init__(self, model: Transformer, format: str | None = None):
        self.config, self.packed = model.config, packed.pack(model, format)

    def most_rows(self, job: Job) -> int:
        return _most_rows(self.packed, job)

    def open(self, rows: Tensor, length: int) -> None:
        self.cache = packed.new_cache(self.config, rows.shape[0], length)
        self.turns = packed.turns(self.config, self.cache.shape[3])
        self.filled = torch.zeros(rows.shape[0], dtype=torch.int64)

    def drop(self, live: Tensor) -> None:
        return None

    def feed(self, tokens: Tensor, live: Tensor) -> Tensor:
        rows, count = tokens.shape
        positions = self.filled[live].unsqueeze(1) + torch.arange(count)
        self.filled[live] += count
        return ops.transformer_logits(
            self.packed.weights,
            self.turns,
            self.cache,
            tokens.flatten().contiguous(),
            live.repeat_interleave(count),
            positions.flatten(),
            torch.arange(1, rows + 1) * count - 1,
            self.packed.shape,
            self.packed.reals,
        )


def _most_rows(weights: packed.Packed, job: Job) -> int:
    length = int(job.prompt_lengths.max()) + job.max_new_tokens
    return max(1, min(256, _CACHE // (4 * packed.cache_floats(weights.config, length) * (2 if job.guide else 1))))


def _sides(job: Job, rows: range) -> tuple[Tensor, Tensor, Tensor]:
    """(prompts of the unconditional sequences, where each begins and ends, scales), or three empty tensors."""
    if job.guide is None:
        return torch.arange(0), torch.arange(0), torch.empty(0, dtype=torch.float32)
    prompts = job.guide.prompts[rows.start : rows.stop]
    pointers = torch.tensor([0, *(prompt.numel() for prompt in prompts)]).cumsum(0)
    return torch.cat(prompts), pointers, job.guide.scale[rows.start : rows.stop].float().contiguous()


def run(model: Transformer, job: Job, format: str | None = None) -> Iterator[tuple[Generation, Tensor]]:
    """All rows of ``job``: what is there, and the rows that were done since, in the order in which they were."""
    out = empty_generation(job.rows, job.max_new_tokens, job.pad_token, torch.float32, torch.device("cpu"))
    yield out, torch.arange(0)
    if job.rows == 0:
        return
    weights = packed.pack(model, format)
    size = job.rows  # run together: all; where siblings share a prompt's cache, as many as those caches allow
    if job.num_samples > 1:
        prompt = 4 * packed.cache_floats(model.config, int(job.prompt_lengths.max()))
        size = job.num_samples * max(1, _CACHE // 2 // prompt)
    count = 0
    with bar(job.progress, "generate", job.rows) as show:
        for begin in range(0, job.rows, size):
            rows = range(begin, min(begin + size, job.rows))
            for order in _part(_most_rows(weights, job), weights, job, rows, out):
                count += order.shape[0]
                show(count)
                yield out, begin + order


def _part(most: int, weights: packed.Packed, job: Job, rows: range, out: Generation) -> Iterator[Tensor]:
    """Runs some rows; yields those that were done since, counted from the first of ``rows``."""
    begin, end, count = rows.start, rows.stop, len(rows)
    mine = torch.arange(begin, end)
    pointers = job.prompt_ptr[begin : end + 1]
    prompts, pointers = job.prompts[pointers[0] : pointers[-1]], pointers - pointers[0]
    sides = _sides(job, rows)
    longest = max(int(lengths.max()) for lengths in (pointers.diff(), sides[1].diff()) if lengths.numel())
    size = min(job.batch_size or most, count)
    cache = packed.new_cache(weights.config, 2 * size if job.guide else size, longest + job.max_new_tokens)
    turns = packed.turns(weights.config, cache.shape[3])
    prefix = _prefixes(weights, prompts, pointers, job.num_samples)
    slots = torch.tensor([-1, 0, 0]).repeat(size, 1)
    counts = torch.tensor([0, 0, -1, 0])  # the next row, the rows done, a row that could not be drawn for, and why
    order, seed = torch.zeros(count, dtype=torch.int64), job.seed.expand(job.rows)[mine]
    params = rows_of(job.params, mine).packed(count, seed.device, row_values(job.epsilon, mine))
    params = params.expand(count, -1).contiguous()
    steps, seen = 1, 0
    while seen < count:
        started = time.perf_counter()
        ops.generate_steps(
            weights.weights,
            turns,
            cache,
            prompts,
            pointers,
            job.end_tokens,
            seed,
            job.sample_ids[begin:end],
            params,
            slots,
            counts,
            *(field[begin:end] for field in (out.tokens, out.lengths, out.logprobs, out.raw_logprobs)),
            out.log_kept_mass[begin:end],
            out.finished[begin:end],
            order,
            *prefix,
            *sides,
            steps,
            weights.shape,
            weights.reals,
        )
        if counts[2] >= 0 and counts[3] == _BAD_PARAMS:
            row = begin + int(counts[2])
            raise bad(
                "params", f"values for row {row} out of their range", "those of SamplingParams, epsilon in [0, 1]"
            )
        if counts[2] >= 0:
            raise bad("model", f"logits of row {begin + int(counts[2])} that are not finite", "finite logits")
        if int(counts[1]) > seen:
            yield order[seen : int(counts[1])].clone()
            seen = int(counts[1])
        # whole slices of work, growing gently: a step with prompts to read is longer than the next
        a_step = (time.perf_counter() - started) / steps
        steps = max(1, min(4 * steps, int(_SLICE / max(a_step, 1e-7))))


def _prefixes(
    weights: packed.Packed, prompts: Tensor, pointers: Tensor, num_samples: int
) -> tuple[Tensor, Tensor, Tensor]:
    """(caches, the one of each row or -1, tokens in each): what siblings share of their prompt, all but its last token.

    That token each row computes itself, for the logits that follow it.
    """
    config, rows = weights.config, pointers.shape[0] - 1
    if num_samples == 1:
        cache = packed.new_cache(config, 0, 0)
        return cache, torch.full((rows,), -1), torch.arange(0)
    firsts = torch.arange(0, rows, num_samples)
    lengths = pointers.diff()[firsts] - 1
    cache = packed.new_cache(config, firsts.shape[0], max(1, int(lengths.max())))
    slots = torch.arange(firsts.shape[0]).repeat_interleave(lengths)
    positions = torch.arange(slots.shape[0]) - (lengths.cumsum(0) - lengths)[slots]
    turns = packed.turns(config, cache.shape[3])
    tokens, none = prompts[pointers[firsts][slots] + positions], torch.arange(0)
    ops.transformer_hidden(weights.weights, turns, cache, tokens, slots, positions, none, weights.shape, weights.reals)
    return cache, torch.arange(firsts.shape[0]).repeat_interleave(num_samples), lengths
