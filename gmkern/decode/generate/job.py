"""What is asked of ``generate``, checked once and in tensors: every backend runs from this record."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gmkern import _validate
from gmkern._validate import bad
from gmkern.decode.generate.guidance import Guidance
from gmkern.decode.sample import SamplingParams
from gmkern.decode.sample.params import MOST_TOKENS, checked_epsilon

MaskFn = Callable[..., Tensor]  # (tokens, lengths) or (tokens, lengths, rows) -> bool
LogitsProcessor = Callable[[Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Guide:
    """Guidance, checked: one prompt [U] and one scale a row."""

    prompts: list[Tensor]
    scale: Tensor


@dataclass(frozen=True)
class Job:
    """N rows to generate. Tensors are on the CPU, but for hooks' business."""

    prompts: Tensor  # [sum of P] int64, one row's prompt after another
    prompt_ptr: Tensor  # [N + 1] int64
    max_new_tokens: int
    end_tokens: Tensor  # [E] int64
    params: SamplingParams
    seed: Tensor  # [] or [N] int64
    sample_ids: Tensor  # [N] int64
    batch_size: int | None
    pad_token: int
    mask_fn: MaskFn | None
    logits_processor: LogitsProcessor | None
    progress: bool
    epsilon: float | Tensor  # [] or [N]
    guide: Guide | None
    num_samples: int  # rows that share a prompt stand together

    @property
    def rows(self) -> int:
        return self.sample_ids.shape[0]

    @property
    def prompt_lengths(self) -> Tensor:
        return self.prompt_ptr.diff()

    @property
    def plain(self) -> bool:
        """Whether temperature alone shapes what tokens are drawn from."""
        filters = (self.params.top_k, 0), (self.params.top_p, 1), (self.params.min_p, 0), (self.params.typical_p, 1)
        free = all(bool((torch.as_tensor(value) == none).all()) for value, none in (*filters, (self.epsilon, 0)))
        return free and not self.params.remembers and self.guide is None


def make_job(
    prompts: Any,
    *,
    n: int | None,
    max_new_tokens: int,
    end_token: Any,
    params: SamplingParams,
    seed: Any,
    sample_ids: Any,
    batch_size: int | None,
    pad_token: int,
    mask_fn: MaskFn | None,
    logits_processor: LogitsProcessor | None,
    progress: bool,
    epsilon: float | Tensor,
    guidance: Guidance | None,
    num_samples: int,
    bos_id: int | None,
    vocab_size: int | None,
    max_seq_len: int | None,
) -> Job:
    """Checks ``generate``'s arguments; ``vocab_size`` and ``max_seq_len`` are None where the model does not tell."""
    check_vocabulary(vocab_size)
    limit = 2**31 - 1
    length = _validate.integer("max_new_tokens", max_new_tokens, low=1, high=limit)
    rows = rows_to_start(prompts, n, bos_id, num_samples)
    guide = checked_guidance(guidance, len(rows))
    for name, some in (("prompts", rows), ("guidance.prompts", guide.prompts if guide else [])):
        check_sequences(name, some, length, "max_new_tokens", vocab_size, max_seq_len)
    for name, hook in (("mask_fn", mask_fn), ("logits_processor", logits_processor)):
        if hook is not None and not callable(hook):
            raise bad(name, hook, "a function or None", error=TypeError)
    if not isinstance(params, SamplingParams):
        raise bad("params", params, "a SamplingParams", error=TypeError)
    cpu = torch.device("cpu")
    if seed is None and not (_greedy(params) and not bool((torch.as_tensor(epsilon) != 0).any())):
        raise bad(
            "seed",
            "None",
            "an int or an int64 tensor; it may be left out only where every temperature and epsilon is 0",
        )
    ids = sample_ids.cpu() if isinstance(sample_ids, Tensor) else sample_ids
    key = seed.cpu() if isinstance(seed, Tensor) else seed or 0
    check_params(params, checked_epsilon(epsilon), len(rows))
    return Job(
        prompts=torch.cat(rows) if rows else torch.empty(0, dtype=torch.int64),
        prompt_ptr=torch.tensor([0, *(row.numel() for row in rows)], dtype=torch.int64).cumsum(0),
        max_new_tokens=length,
        end_tokens=_end_tokens(end_token, vocab_size),
        params=params,
        seed=_validate.seed(key, cpu, rows=len(rows)),
        sample_ids=_validate.sample_ids(ids, cpu, rows=len(rows)),
        batch_size=None if batch_size is None else _validate.integer("batch_size", batch_size, low=1, high=limit),
        pad_token=_validate.integer("pad_token", pad_token, low=-(2**63), high=2**63 - 1),
        mask_fn=mask_fn,
        logits_processor=logits_processor,
        progress=progress,
        epsilon=epsilon,
        guide=guide,
        num_samples=num_samples,
    )


def check_vocabulary(vocab_size: int | None) -> None:
    """That ``sample`` can draw from the model's vocabulary."""
    if vocab_size is not None and vocab_size > MOST_TOKENS:
        raise bad("model", f"a vocabulary of {vocab_size} tokens", f"at most {MOST_TOKENS}")


def rows_to_start(prompts: Any, n: int | None, bos_id: int | None, num_samples: int) -> list[Tensor]:
    """The prompt of each row, each ``num_samples`` times in a row."""
    times = _validate.integer("num_samples", num_samples, low=1)
    rows = _starts(n, bos_id) if prompts is None else _prompts("prompts", prompts, n)
    return [row for row in rows for _ in range(times)]


def check_sequences(
    name: str, rows: list[Tensor], length: int, length_name: str, vocab_size: int | None, max_seq_len: int | None
) -> None:
    """That prompts hold ids of the vocabulary, and leave room for ``length`` more tokens."""
    if rows and vocab_size is not None:
        flat = torch.cat(rows)
        if bool(((flat < 0) | (flat >= vocab_size)).any()):
            raise bad(name, f"token ids from {int(flat.min())} to {int(flat.max())}", f"ids in [0, {vocab_size})")
    longest = max((row.numel() for row in rows), default=0)
    if max_seq_len is not None and longest > max_seq_len:
        raise bad(name, f"a prompt of {longest} tokens", f"at most max_seq_len = {max_seq_len} tokens")
    if max_seq_len is not None and longest + length > max_seq_len:
        takes = f"at most {max_seq_len - longest}: the longest prompt takes {longest} of max_seq_len = {max_seq_len}"
        raise bad(length_name, str(length), takes)


def checked_guidance(guidance: Guidance | None, rows: int) -> Guide | None:
    """One prompt and one scale a row."""
    if guidance is None:
        return None
    if not isinstance(guidance, Guidance):
        raise bad("guidance", guidance, "a decode.Guidance or None", error=TypeError)
    prompts = _prompts("guidance.prompts", guidance.prompts, None)
    if len(prompts) not in (1, rows):
        raise bad("guidance.prompts", f"{len(prompts)} of them", f"one for all rows, or {rows}, one a row")
    scale = torch.as_tensor(guidance.scale, dtype=torch.float64).cpu()
    if scale.ndim == 1 and scale.shape[0] not in (1, rows):
        raise bad("guidance.scale", scale, f"one value or shape [{rows}], one a row")
    if not bool(torch.isfinite(scale).all()):
        raise bad("guidance.scale", "values that are not finite", "finite numbers")
    return Guide(prompts * rows if len(prompts) == 1 else prompts, scale.expand(rows))


def check_params(params: SamplingParams, epsilon: float | Tensor, rows: int) -> None:
    """That values given a row are given for each."""
    given = [(f"params.{field.name}", getattr(params, field.name)) for field in dataclasses.fields(params)]
    for name, value in [*given, ("epsilon", epsilon)]:
        if isinstance(value, Tensor) and value.ndim == 1 and value.shape[0] not in (1, rows):
            raise bad(name, value, f"one value or shape [{rows}], one a row")


def allowed(mask_fn: MaskFn, tokens: Tensor, lengths: Tensor, rows: Tensor, shape: list[int]) -> Tensor:
    """What ``mask_fn`` says of some rows, checked; it is told which rows they are if it takes a third argument."""
    mask = mask_fn(tokens, lengths, rows) if _takes_three(mask_fn) else mask_fn(tokens, lengths)
    if not isinstance(mask, Tensor) or list(mask.shape) != shape or mask.dtype != torch.bool:
        what = f"{mask.dtype} of shape {list(mask.shape)}" if isinstance(mask, Tensor) else type(mask).__name__
        raise bad("mask_fn", f"a call that returned {what}", f"a bool tensor {shape}", error=TypeError)
    return mask


def _takes_three(function: Any) -> bool:
    try:
        inspect.signature(function).bind(0, 0, 0)
    except (TypeError, ValueError):  # another number of arguments, or no signature to read
        return False
    return True


def row_values(value: float | Tensor, rows: Tensor) -> float | Tensor:
    """The values of some rows, where there is one a row."""
    if isinstance(value, Tensor) and value.ndim == 1 and value.shape[0] > 1:
        return value[rows.to(value.device)]
    return value


def rows_of(params: SamplingParams, rows: Tensor) -> SamplingParams:
    """The parameters of some rows: fields that are given once stay as they are."""
    names = [field.name for field in dataclasses.fields(params)]
    changed: dict[str, Any] = {name: row_values(getattr(params, name), rows) for name in names}
    return dataclasses.replace(params, **changed)


def _greedy(params: SamplingParams) -> bool:
    return bool((torch.as_tensor(params.temperature) == 0).all())


def _starts(n: int | None, bos_id: int | None) -> list[Tensor]:
    if n is None:
        raise bad("n", "None", "the number of rows, where prompts are left out")
    if bos_id is None:
        raise bad("prompts", "None", "prompts: the model's config has no bos_id to start from")
    return [torch.tensor([bos_id])] * _validate.integer("n", n, low=0, high=2**31 - 1)


def _prompts(name: str, prompts: Any, n: int | None) -> list[Tensor]:
    if n is not None:
        raise bad("n", str(n), "None where prompts are given: every prompt is one row")
    if isinstance(prompts, (Tensor, np.ndarray)):
        whole = _validate.tensor(name, prompts, ndim=2, dtypes=(torch.int64, torch.int32)).cpu().long()
        rows = list(whole.unbind(0))
    elif isinstance(prompts, Sequence) and not isinstance(prompts, (str, bytes)):
        rows = [_prompt(f"{name}[{i}]", row) for i, row in enumerate(prompts)]
    else:
        raise bad(name, prompts, "a list of 1-D id tensors, or an id tensor [N, P]", error=TypeError)
    for i, row in enumerate(rows):
        if row.numel() == 0:
            raise bad(f"{name}[{i}]", "no tokens", "at least one token")
    return rows


def _prompt(name: str, row: Any) -> Tensor:
    if isinstance(row, Sequence) and not isinstance(row, (str, bytes)):
        row = torch.tensor([_validate.integer(name, id, low=-(2**63), high=2**63 - 1) for id in row], dtype=torch.int64)
    return _validate.tensor(name, row, ndim=1, dtypes=(torch.int64, torch.int32)).cpu().long()


def _end_tokens(end_token: Any, vocab_size: int | None) -> Tensor:
    if end_token is None:
        ids: list[Any] = []
    elif isinstance(end_token, (Tensor, np.ndarray)):
        end_token = _validate.tensor("end_token", end_token, ndim=(0, 1), dtypes=(torch.int64, torch.int32))
        ids = end_token.reshape(-1).tolist()
    elif isinstance(end_token, Sequence) and not isinstance(end_token, (str, bytes)):
        ids = list(end_token)
    else:
        ids = [end_token]
    high = None if vocab_size is None else vocab_size - 1
    return torch.tensor([_validate.integer("end_token", id, low=0, high=high) for id in ids], dtype=torch.int64)
