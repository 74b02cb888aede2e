"""Generation in the compiled engine: slices of many steps, driven from Python."""

from __future__ import annotations

import time

import torch
from torch import Tensor

from gmkern._progress import bar
from gmkern._validate import bad
from gmkern.decode.generate.job import Job
from gmkern.decode.generate.result import Generation, empty_generation, with_mask
from gmkern.decode.transformer import Transformer, ops, packed

_BAD_PARAMS = 4  # SampleFlaw in csrc/decode/sample.h
_SLICE = 0.25  # seconds of compiled steps between two looks at Ctrl-C and the progress bar
_CACHE = 1 << 31  # bytes of keys and values that batch_size=None may take


class EngineSteps:
    """The engine one token at a time, where hooks stand between logits and choice (see ``loop.Steps``)."""

    def __init__(self, model: Transformer):
        self.config, self.packed = model.config, packed.pack(model)

    def most_rows(self, job: Job) -> int:
        length = int(job.prompt_lengths.max()) + job.max_new_tokens
        return max(1, min(256, _CACHE // (4 * packed.cache_floats(self.config, length))))

    def open(self, rows: int, length: int) -> None:
        self.cache = packed.new_cache(self.config, rows, length)
        self.turns = packed.turns(self.config, self.cache.shape[3])
        self.filled = torch.zeros(rows, dtype=torch.int64)

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
            self.packed.eps,
        )


def run(model: Transformer, job: Job) -> Generation:
    """All rows of ``job``."""
    out = empty_generation(job.rows, job.max_new_tokens, job.pad_token, torch.float32, torch.device("cpu"))
    if job.rows == 0:
        return out
    weights = packed.pack(model)
    length = int(job.prompt_lengths.max()) + job.max_new_tokens
    most = job.batch_size or EngineSteps(model).most_rows(job)
    cache = packed.new_cache(model.config, min(most, job.rows), length)
    slots = torch.tensor([-1, 0]).repeat(cache.shape[0], 1)
    counts = torch.tensor([0, 0, -1, 0])  # the next row, the rows done, a row that could not be drawn for, and why
    turns = packed.turns(model.config, cache.shape[3])
    seed = job.seed.expand(job.rows).contiguous()
    params = job.params.packed(job.rows, seed.device).expand(job.rows, -1).contiguous()
    steps = 1
    with bar(job.progress, "generate", job.rows) as show:
        while int(counts[1]) < job.rows:
            begin = time.perf_counter()
            ops.generate_steps(
                weights.weights,
                turns,
                cache,
                job.prompts,
                job.prompt_ptr,
                job.end_tokens,
                seed,
                job.sample_ids,
                params,
                slots,
                counts,
                out.tokens,
                out.lengths,
                out.logprobs,
                out.raw_logprobs,
                out.log_kept_mass,
                out.finished,
                steps,
                weights.shape,
                weights.eps,
            )
            if counts[2] >= 0 and counts[3] == _BAD_PARAMS:
                raise bad("params", f"values for row {int(counts[2])} out of their range", "those of SamplingParams")
            if counts[2] >= 0:
                raise bad("model", f"logits of row {int(counts[2])} that are not finite", "finite logits")
            show(int(counts[1]))
            # whole slices of work, growing gently: a step with prompts to read is longer than the next
            a_step = (time.perf_counter() - begin) / steps
            steps = max(1, min(4 * steps, int(_SLICE / max(a_step, 1e-7))))
    return with_mask(out)
