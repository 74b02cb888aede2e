"""Generation on a GPU: every step the same kernels on the same tensors, captured as a graph and replayed, or, of small
models, many steps in one launch (resident.py).

A *lane* is a row that runs, and has a slot of the cache. Tokens, positions, ends and what was drawn stay on the device;
the host looks every few steps, takes finished rows away and gives their lanes to rows that wait.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from gmkern._progress import bar
from gmkern._validate import bad
from gmkern.decode.generate.guidance import blend
from gmkern.decode.generate.job import Job
from gmkern.decode.generate.resident import Resident, takes
from gmkern.decode.generate.result import Generation, empty_generation
from gmkern.decode.generate.triton_head import FEW, draw
from gmkern.decode.generate.triton_kernels import ENDED, FLAWED, IDLE, RUNS, advance
from gmkern.decode.sample import triton_kernels as sampler
from gmkern.decode.sample.params import COLUMNS
from gmkern.decode.transformer import Transformer
from gmkern.decode.transformer.device import DeviceEngine

_LOOK = 16  # steps between two looks at which rows have ended
_FEW = 16  # lanes: fewer are computed in the same time
_CACHE = 1 << 31  # bytes of keys and values that batch_size=None may take in the interpreter


class Shape(NamedTuple):
    """What the sizes of a step's tensors are made of."""

    lanes: int
    room: int  # positions of a slot
    new_tokens: int
    ends: int
    remembered: int  # a prompt's columns of history; 0 where no row remembers
    sides: int  # sequences a row: 2 where guided


def most_rows(engine: DeviceEngine, job: Job) -> int:
    """What batch_size=None takes: up to 256 rows, and a quarter of the GPU's memory."""
    memory = _CACHE
    if engine.device.type == "cuda":
        memory = torch.cuda.get_device_properties(engine.device).total_memory // 4
    sides = 1 if job.guide is None else 2
    return max(1, min(256, memory // (sides * engine.cache_bytes(_longest(job) + job.max_new_tokens))))


def _longest(job: Job) -> int:
    sides = [] if job.guide is None else [prompt.numel() for prompt in job.guide.prompts]
    return max([int(job.prompt_lengths.max()), *sides])


class DeviceSteps:
    """The engine one token at a time, where hooks stand between logits and choice (see ``loop.Steps``)."""

    def __init__(self, model: Transformer, format: str | None = None):
        self.engine = DeviceEngine(model, format)

    def most_rows(self, job: Job) -> int:
        return most_rows(self.engine, job)

    def open(self, rows: Tensor, length: int) -> None:
        self.cache = self.engine.new_cache(rows.shape[0], length)
        self.filled = torch.zeros(rows.shape[0], dtype=torch.int32, device=self.engine.device)

    def drop(self, live: Tensor) -> None:
        return None

    def feed(self, tokens: Tensor, live: Tensor) -> Tensor:
        slots = live.to(self.engine.device)
        firsts = self.filled[slots]
        self.filled[slots] += tokens.shape[1]
        x = self.engine.run(self.cache, tokens.to(self.engine.device), slots.int(), firsts)
        return self.engine.logits(self.engine.normed(x[:, -1].contiguous()))


class Lanes:
    """The tensors of a step, a number a lane, at the same addresses for as long as graphs refer to them."""

    def __init__(self, engine: DeviceEngine, shape: Shape):
        self.engine, self.shape = engine, shape
        count, sides, most, device = shape.lanes, shape.sides, shape.new_tokens, engine.device
        self.cache = engine.new_cache(count * sides, shape.room)

        def zeros(*sizes: int, dtype: torch.dtype = torch.int64) -> Tensor:
            return torch.zeros(sizes, dtype=dtype, device=device)

        self.ends = zeros(shape.ends)
        self.slot = torch.arange(sides * count, dtype=torch.int32, device=device).view(sides, count)
        self.token, self.position = zeros(sides, count), zeros(sides, count, dtype=torch.int32)
        self.state, self.step = zeros(count, dtype=torch.int32), zeros(count)
        self.seed, self.sample_id, self.params = zeros(count), zeros(count), zeros(count, COLUMNS, dtype=torch.float64)
        self.scale = zeros(count, dtype=torch.float32)
        self.history = zeros(count, shape.remembered + most) if shape.remembered else None
        self.drawn = (zeros(count, most), *(zeros(count, most, dtype=torch.float32) for _ in range(3)))
        self.graphs: dict[tuple[int, bool], torch.cuda.CUDAGraph] = {}
        self.resident: Resident | None = None

    def open(self, job: Job) -> None:
        """All lanes idle."""
        self.whole, self.plain = takes(self.engine, job, self.shape.lanes), job.plain
        self.ends.copy_(job.end_tokens)
        self.state.fill_(IDLE)

    def admit(self, job: Job, params: Tensor, rows: Tensor, lanes: Tensor) -> None:
        """Gives idle lanes [a] to rows [a] of the job, whose prompts are read but for their last tokens."""
        device = self.engine.device
        to = lanes.to(device)
        self.state[to], self.step[to] = RUNS, 0
        self.seed[to] = job.seed.expand(job.rows)[rows].to(device)
        self.sample_id[to] = job.sample_ids[rows].to(device)
        self.params[to] = params[rows.to(device)]
        prompts = [[job.prompts[job.prompt_ptr[r] : job.prompt_ptr[r + 1]] for r in rows.tolist()]]
        if job.guide is not None:
            prompts.append([job.guide.prompts[r] for r in rows.tolist()])
            self.scale[to] = job.guide.scale[rows].float().to(device)
        if self.history is not None:
            past = torch.full((len(rows), self.history.shape[1]), -1)
            for row, prompt in zip(past, prompts[0], strict=True):
                row[: len(prompt)] = prompt
            self.history[to] = past.to(device)
        for side, given in enumerate(prompts):
            self.token[side, to] = torch.stack([prompt[-1] for prompt in given]).to(device)
            self.position[side, to] = torch.tensor([len(prompt) - 1 for prompt in given], dtype=torch.int32).to(device)
            self._read([prompt[:-1] for prompt in given], self.slot[side, to])

    def _read(self, prompts: list[Tensor], slots: Tensor) -> None:
        """Keys and values of each prompt [P] into its slot; prompts that are alike are read once."""
        alike: dict[bytes, list[int]] = {}
        for i, prompt in enumerate(prompts):
            alike.setdefault(prompt.numpy().tobytes(), []).append(i)
        firsts = [group[0] for group in alike.values()]
        for _ in self.engine.read(self.cache, [prompts[i] for i in firsts], slots[firsts]):
            pass
        for first, *others in alike.values():
            if others:
                length = len(prompts[first])
                for held in (self.cache.keys, self.cache.values):
                    held[:, slots[others], :length] = held[:, slots[first], None, :length]

    def advance(self, lanes: int, steps: int) -> None:
        """Steps of the first ``lanes``, in each a token for each that runs. Nothing waits for them."""
        if self.whole:
            if self.resident is None:
                self.resident = Resident(self.engine, self.shape.lanes)
            self.resident.run(self, lanes, steps)
            return
        way = lanes, self.plain and lanes <= FEW
        for _ in range(steps):
            if self.engine.device.type != "cuda":
                self._step(*way)
                continue
            if way not in self.graphs:
                self.graphs[way] = self._captured(*way)
            self.graphs[way].replay()

    def _captured(self, lanes: int, spread: bool) -> torch.cuda.CUDAGraph:
        """A step as a graph. A step of idle lanes comes first, which compiles: it writes what the next one will."""
        states = self.state.clone()
        self.state.fill_(IDLE)
        self._step(lanes, spread)
        self.state.copy_(states)
        device, graph = self.engine.device, torch.cuda.CUDAGraph()
        pool = next(iter(self.graphs.values())).pool() if self.graphs else None
        # on a stream of this device, and whatever other threads do meanwhile
        options: dict[str, Any] = {
            "pool": pool,
            "stream": torch.cuda.Stream(device),
            "capture_error_mode": "thread_local",
        }
        with torch.cuda.device(device), torch.cuda.graph(graph, **options):
            self._step(lanes, spread)
        return graph

    def _step(self, lanes: int, spread: bool) -> None:
        """One step; ``spread``: the draw goes with the head, over the vocabulary."""
        token, slot, position = (x[:, :lanes].reshape(-1) for x in (self.token, self.slot, self.position))
        x = self.engine.run(self.cache, token.unsqueeze(1), slot, position)
        normed = self.engine.normed(x.squeeze(1))
        noise = self.seed[:lanes], self.sample_id[:lanes], self.step[:lanes]
        moving = self.ends, self.state, self.step, self.token, self.position
        if spread:
            cap = self.engine.config.logit_softcap or 0.0
            draw(normed, self.engine.weights.head, cap, self.params[:lanes], noise, moving, self.drawn)
            return
        logits = self.engine.logits(normed)
        if self.shape.sides == 2:
            conditional, unconditional = logits.chunk(2)
            logits = blend(conditional, unconditional, self.scale[:lanes])
        history = None if self.history is None else self.history[:lanes]
        drawn = sampler.sample(logits, self.params[:lanes], None, history, *noise)
        advance(drawn, *moving, self.drawn, self.history, self.shape.remembered)

    def take(self, out: Generation, lanes: Tensor, rows: Tensor) -> None:
        """Writes rows [a] that have ended to ``out``, whose lanes [a] are idle from now on."""
        lanes, rows = lanes.to(self.engine.device), rows.to(self.engine.device)
        lengths = self.step[lanes]
        past = torch.arange(self.shape.new_tokens, device=lanes.device) >= lengths.unsqueeze(1)
        places = out.tokens, out.logprobs, out.raw_logprobs, out.log_kept_mass
        for place, drawn in zip(places, self.drawn, strict=True):
            place[rows] = torch.where(past, place[rows], drawn[lanes])
        out.lengths[rows], out.finished[rows] = lengths, self.state[lanes] == ENDED
        self.state[lanes] = IDLE

    def reorder(self, lanes: Tensor) -> None:
        """Lane i becomes what lane lanes[i] was, of the first ``len(lanes)``."""
        order = lanes.to(self.engine.device)
        alone = [self.state, self.step, self.seed, self.sample_id, self.params, self.scale, *self.drawn]
        for x in [*alone, *(y.t() for y in (self.slot, self.token, self.position))]:
            x[: len(order)] = x[order]
        if self.history is not None:
            self.history[: len(order)] = self.history[order]


# Lanes that nobody uses now: each model's last ones, with their cache and graphs.
_REST: WeakKeyDictionary[Transformer, tuple[object, Lanes]] = WeakKeyDictionary()


@torch.inference_mode(False)  # they outlive the call, and what is made in inference mode could not be written later
@torch.no_grad()
def _lanes(model: Transformer, job: Job, format: str | None) -> Lanes:
    """The model's last lanes where they fit, their weights read again; else new ones."""
    held = _REST.pop(model, None)
    fits = held is not None and held[0] == (model.config, format) and held[1].engine.weights.refresh(model)
    engine = held[1].engine if held is not None and fits else DeviceEngine(model, format)
    shape = Shape(
        lanes=min(job.batch_size or most_rows(engine, job), job.rows),
        room=_longest(job) + job.max_new_tokens,
        new_tokens=job.max_new_tokens,
        ends=job.end_tokens.shape[0],
        remembered=int(job.prompt_lengths.max()) if job.params.remembers else 0,
        sides=1 if job.guide is None else 2,
    )
    if held is not None and fits and held[1].shape == shape:
        return held[1]
    del held  # its cache goes before another is made
    return Lanes(engine, shape)


def run(model: Transformer, job: Job, format: str | None = None) -> Iterator[tuple[Generation, Tensor]]:
    """All rows of ``job``: what is there, and the rows that were done since."""
    device = model.embedding.weight.device
    out = empty_generation(job.rows, job.max_new_tokens, job.pad_token, torch.float32, device)
    yield out, torch.arange(0)
    if job.rows == 0:
        return
    lanes = _lanes(model, job, format)
    params = job.params.packed(job.rows, device, job.epsilon, lanes.shape.remembered).expand(job.rows, -1)
    lanes.open(job)
    active = lanes.shape.lanes  # the first ones, which are computed
    row = torch.full((active,), -1)  # of each lane, or -1
    age = torch.zeros(active, dtype=torch.int64)  # its steps
    begun = done = 0
    with bar(job.progress, "generate", job.rows) as show:
        while done < job.rows:
            free = (row < 0).nonzero().flatten()[: job.rows - begun]
            if free.numel():
                row[free], age[free] = torch.arange(begun, begun + len(free)), 0
                lanes.admit(job, params, row[free], free)
                begun += len(free)
            live = row >= 0
            fewer = _fewer(active, int(live.sum()))
            if fewer < active:
                order = live.int().argsort(descending=True, stable=True)
                lanes.reorder(order)
                row, age, active = row[order][:fewer], age[order][:fewer], fewer
            steps = min(_LOOK, job.max_new_tokens - int(age[row >= 0].min()))
            lanes.advance(active, steps)
            age += steps
            states = lanes.state[:active].cpu()  # here the host waits for the steps
            over = (states > RUNS).nonzero().flatten()
            if bool((states == FLAWED).any()):
                _refuse(lanes, int((states == FLAWED).nonzero()[0, 0]), row)
            if over.numel():
                ended = row[over]
                lanes.take(out, over, ended)
                row[over] = -1
                done += len(over)
                show(done)
                yield out, ended
    _REST[model] = ((model.config, format), lanes)


def _fewer(active: int, live: int) -> int:
    """How many lanes are enough: halves, so that there are few graphs."""
    while active > _FEW and -(-active // 2) >= live:
        active = -(-active // 2)
    return active


def _refuse(lanes: Lanes, lane: int, row: Tensor) -> None:
    """Says why no token could be drawn for a row."""
    params, one = lanes.params[lane : lane + 1], lanes.seed[lane : lane + 1]
    even = torch.zeros(1, 2, dtype=torch.float32, device=one.device)
    if int(sampler.sample(even, params, None, None, one, one, 0 * one)[0]) < 0:
        raise bad(
            "params",
            f"values for row {int(row[lane])} out of their range",
            "those of SamplingParams, epsilon in [0, 1]",
        )
    raise bad("model", f"logits of row {int(row[lane])} that are not finite", "finite logits")
