"""Generation one token at a time from Python: callable models, hooks between logits and choice, and the reference.

Rows run in chunks of batch_size. A model is wrapped in :class:`Steps`, which says how a chunk starts and moves; the
loop asks logits for the rows that still run, lets the hooks at them, and draws with ``decode.sample``.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from typing import Any, Protocol

import torch
from torch import Tensor

from gmkern._progress import bar
from gmkern._validate import bad
from gmkern.decode.generate.job import Job, allowed, row_values, rows_of
from gmkern.decode.generate.result import Generation, empty_generation
from gmkern.decode.sample import Sample, SamplingParams, sample, token_logprobs


class Steps(Protocol):
    """A model that advances the rows of one chunk."""

    def most_rows(self, job: Job) -> int:
        """The size of a chunk where batch_size is None."""

    def open(self, rows: Tensor, length: int) -> None:
        """Begins a chunk: an empty sequence for each of ``rows`` [b] of the job, to hold up to ``length`` tokens."""

    def feed(self, tokens: Tensor, live: Tensor) -> Tensor:
        """Appends tokens [b, t] to the rows ``live`` [b] of the chunk; their logits [b, V] after the last of them."""

    def drop(self, live: Tensor) -> None:
        """Of the chunk only the rows ``live`` will be fed from now on."""


class CallableSteps:
    """A callable ``(tokens [B], state) -> (logits [B, V], state)``, whose state begins as None.

    The state is the callable's own, so a chunk keeps its B rows to its end: a row that has stopped is fed its last
    token again, and what it answers is ignored.
    """

    def __init__(self, model: Any, device: torch.device):
        self.model, self.device = model, device

    def most_rows(self, job: Job) -> int:
        return 256

    def open(self, rows: Tensor, length: int) -> None:
        self.state = None
        self.last = torch.zeros(rows.shape[0], dtype=torch.int64, device=self.device)

    def drop(self, live: Tensor) -> None:
        return None

    def feed(self, tokens: Tensor, live: Tensor) -> Tensor:
        for column in tokens.unbind(1):
            self.last[live] = column
            answer = self.model(self.last.clone(), self.state)
            if not isinstance(answer, tuple) or len(answer) != 2 or not isinstance(answer[0], Tensor):
                raise bad("model", f"a call that returned {type(answer).__name__}", "(logits, state)", error=TypeError)
            logits, self.state = answer
            if logits.ndim != 2 or logits.shape[0] != self.last.shape[0] or not logits.is_floating_point():
                raise bad("model", logits, f"logits of shape [{self.last.shape[0]}, V] in a floating dtype")
        return logits[live]


def run(steps: Steps, job: Job, device: torch.device, backend: str | None) -> Iterator[tuple[Generation, Tensor]]:
    """All rows of ``job``: what is there, and the rows that were done since; ``backend`` is passed to ``sample``."""
    done: Generation | None = None
    with bar(job.progress, "generate", job.rows) as show:
        chunk = job.batch_size or steps.most_rows(job)
        for begin in range(0, job.rows, chunk):
            rows = torch.arange(begin, min(begin + chunk, job.rows))
            done = yield from _chunk(steps, job, rows, done, device, backend, show)
            show(int(rows[-1]) + 1)
    if done is None:
        yield empty_generation(0, job.max_new_tokens, job.pad_token, torch.float32, device), torch.arange(0)


def _chunk(
    steps: Steps, job: Job, rows: Tensor, done: Generation | None, device: torch.device, backend: str | None, show: Any
) -> Generator[tuple[Generation, Tensor], None, Generation]:
    begin, count = int(rows[0]), rows.shape[0]
    prompts = [job.prompts[job.prompt_ptr[r] : job.prompt_ptr[r + 1]].to(device) for r in rows.tolist()]
    lengths = job.prompt_lengths[rows].to(device)
    padded = torch.nn.utils.rnn.pad_sequence(prompts, batch_first=True)  # [b, longest]
    ids, seed = job.sample_ids[rows].to(device), job.seed.expand(job.rows)[rows].to(device)
    params, ends = rows_of(job.params, rows), job.end_tokens.to(device)
    epsilon = row_values(job.epsilon, rows)
    remembers = params.remembers

    live = torch.arange(count, device=device)  # rows of this chunk that still run
    fed = int(lengths.min())
    steps.open(rows, padded.shape[1] + job.max_new_tokens)
    logits = steps.feed(padded[:, :fed], live)
    while True:
        at = fed - lengths[live]  # the index of the token that comes next, negative inside a prompt
        drawing = at >= 0
        chosen = padded[live, min(fed, padded.shape[1] - 1)]
        stopped = torch.zeros_like(drawing)
        if bool(drawing.any()):
            draw, index = live[drawing], at[drawing]
            if done is None:
                done = empty_generation(job.rows, job.max_new_tokens, job.pad_token, _result_dtype(logits), device)
            tokens = done.tokens[begin + draw]
            here = rows_of(params, draw)
            history = _history(padded[draw], lengths[draw], tokens, index) if remembers else None
            drawn, raw = _draw(
                logits[drawing],
                tokens,
                index,
                begin + draw,
                job,
                here,
                seed[draw],
                ids[draw],
                row_values(epsilon, draw),
                history,
                padded.shape[1],
                backend,
            )
            done.tokens[begin + draw, index] = drawn.tokens
            done.logprobs[begin + draw, index] = drawn.logprobs
            done.raw_logprobs[begin + draw, index] = raw
            done.log_kept_mass[begin + draw, index] = drawn.log_kept_mass
            done.lengths[begin + draw] = index + 1
            ended = torch.isin(drawn.tokens, ends)
            done.finished[begin + draw] = ended
            chosen[drawing] = drawn.tokens
            stopped[drawing] = ended | (index == job.max_new_tokens - 1)
        if bool(stopped.any()):
            over, live, chosen = live[stopped], live[~stopped], chosen[~stopped]
            steps.drop(live)
            show(begin + count - live.shape[0])
            assert done is not None
            yield done, begin + over.cpu()
            if live.shape[0] == 0:
                return done
        logits = steps.feed(chosen.unsqueeze(1), live)
        fed += 1


def _history(prompts: Tensor, lengths: Tensor, tokens: Tensor, index: Tensor) -> Tensor:
    """A row's prompt and new tokens [b, P + T], -1 elsewhere."""
    past = [
        part.masked_fill(torch.arange(part.shape[1], device=part.device) >= size.unsqueeze(1), -1)
        for part, size in ((prompts, lengths), (tokens, index))
    ]
    return torch.cat(past, 1)


def _result_dtype(logits: Tensor) -> torch.dtype:
    return torch.float64 if logits.dtype == torch.float64 else torch.float32


def _draw(
    logits: Tensor,
    tokens: Tensor,
    index: Tensor,
    rows: Tensor,
    job: Job,
    params: SamplingParams,
    seed: Tensor,
    ids: Tensor,
    epsilon: float | Tensor,
    history: Tensor | None,
    prompt: int,
    backend: str | None,
) -> tuple[Sample, Tensor]:
    """One token a row [b] and its raw log-probability, the hooks having had their say."""
    mask = None
    if job.mask_fn is not None:
        mask = allowed(job.mask_fn, tokens.clone(), index.clone(), rows, list(logits.shape))
    processed = logits
    if job.logits_processor is not None:
        processed = job.logits_processor(tokens.clone(), index.clone(), logits.clone())
        if not isinstance(processed, Tensor) or processed.shape != logits.shape or processed.dtype != logits.dtype:
            takes = f"logits {list(logits.shape)} of dtype {logits.dtype}"
            raise bad("logits_processor", f"a call that returned {_what(processed)}", takes, error=TypeError)
    drawn = sample(
        processed,
        params,
        seed=seed,
        sample_ids=ids,
        step=index,
        mask=mask,
        history=history,
        history_prompt=prompt,
        epsilon=epsilon,
        backend=backend,
    )
    if job.logits_processor is None:
        return drawn, drawn.raw_logprobs
    return drawn, token_logprobs(logits, drawn.tokens, backend=backend)


def _what(value: Any) -> str:
    return f"{value.dtype} of shape {list(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
