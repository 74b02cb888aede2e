"""How a distribution over tokens is shaped before one is drawn."""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from gmkern import _validate

_FRACTION = {"low": 0.0, "high": 1.0}


@dataclass(frozen=True)
class SamplingParams:
    """The penalty, temperature and filters of :func:`sample`; neutral values, the defaults, leave each one out.

    They apply in this order: ``repetition_penalty``, ``frequency_penalty``, ``presence_penalty``, ``temperature``,
    ``top_k``, ``top_p``, ``min_p``, ``typical_p``, each filter on what the one before left. Each field is a number, or
    a tensor [B] (or []) on logits' device with a value for each row; a row's values never affect another row.

    Attributes
    ----------
    temperature : finite, >= 0. Logits are divided by it; 0 takes the greatest logit, the lowest index among equals.
    top_k : int >= 0. Keeps the k most probable tokens, exactly k among ties (lower index first); 0, or V and more: all.
    top_p : in [0, 1]. Keeps the smallest set of most probable tokens whose mass reaches top_p of what top-k left, at
        least one.
    min_p : in [0, 1]. Keeps the tokens at least min_p times as probable as the most probable one.
    typical_p : in [0, 1]. Keeps the smallest set of tokens whose surprise -log p is nearest the entropy and whose mass
        reaches typical_p of what min-p left, at least one.
    repetition_penalty : finite, > 0. Logits of tokens in ``history`` are divided by it if positive, multiplied if not.
    presence_penalty : finite. Subtracted from the logits of tokens drawn before: in ``history``, past its prompt.
    frequency_penalty : finite. Subtracted from them once for each time a token was drawn.

    Raises
    ------
    TypeError, ValueError : naming the field, for numbers; values in tensors are checked where they are used.

    Notes
    -----
    Sources: temperature and repetition penalty, Keskar et al. 2019 (CTRL); top-k, Fan et al. 2018; top-p, Holtzman et
    al. 2020; min-p, Nguyen et al. 2024; typical, Meister et al. 2023. docs/sampling.md says where ties differ from
    Hugging Face's processors.

    Examples
    --------
    >>> import torch
    >>> from gmkern.decode import SamplingParams, token_logprobs
    >>> logits = torch.tensor([[2.0, 1.0, 0.0]])
    >>> token_logprobs(logits, torch.tensor([2]), SamplingParams(top_k=2))  # not kept
    tensor([-inf])
    """

    temperature: float | Tensor = 1.0
    top_k: int | Tensor = 0
    top_p: float | Tensor = 1.0
    min_p: float | Tensor = 0.0
    typical_p: float | Tensor = 1.0
    repetition_penalty: float | Tensor = 1.0
    presence_penalty: float | Tensor = 0.0
    frequency_penalty: float | Tensor = 0.0

    def __post_init__(self) -> None:
        for name, limits in (
            ("temperature", {"low": 0.0}),
            ("top_p", _FRACTION),
            ("min_p", _FRACTION),
            ("typical_p", _FRACTION),
            ("repetition_penalty", {"above": 0.0}),
            ("presence_penalty", {}),
            ("frequency_penalty", {}),
        ):
            value = getattr(self, name)
            if isinstance(value, Tensor):
                _validate.tensor(name, value, ndim=(0, 1), dtypes=(torch.float32, torch.float64))
            else:
                _validate.number(name, value, **limits)
        if isinstance(self.top_k, Tensor):
            _validate.tensor("top_k", self.top_k, ndim=(0, 1), dtypes=(torch.int64, torch.int32))
        else:
            _validate.integer("top_k", self.top_k, low=0)

    @property
    def remembers(self) -> bool:
        """Whether some row's penalties ask what came before."""
        return any(
            bool((torch.as_tensor(value) != neutral).any())
            for value, neutral in (
                (self.repetition_penalty, 1.0),
                (self.presence_penalty, 0.0),
                (self.frequency_penalty, 0.0),
            )
        )

    def packed(self, rows: int, device: torch.device, epsilon: float | Tensor = 0.0, prompt: int = 0) -> Tensor:
        """What the ops take: float64 [1, 10], or [rows, 10] where a value is a tensor.

        The fields in their order, then ``epsilon`` (the probability of a uniform choice among the legal tokens), and
        ``prompt`` (how many columns of history are a prompt, which only the repetition penalty meets).
        """
        names = [*(f"params.{field.name}" for field in fields(self)), "epsilon", "history_prompt"]
        values = [*(getattr(self, field.name) for field in fields(self)), epsilon, prompt]
        if not any(isinstance(value, Tensor) for value in values):
            return _row([float(value) for value in values], device)
        columns = []
        for name, value in zip(names, values, strict=True):
            if isinstance(value, Tensor):
                value = _validate.tensor(name, value, device=device)
                if value.ndim == 1 and value.shape[0] not in (1, rows):
                    raise _validate.bad(name, value, f"a number, or shape [] or [{rows}]")
                columns.append(value.to(torch.float64).expand(rows))
            else:
                columns.append(torch.full((rows,), float(value), dtype=torch.float64, device=device))
        return torch.stack(columns, 1)


def _row(numbers: list[float], device: torch.device) -> Tensor:
    """float64 [1, n]. On a GPU by a kernel that takes them along: a copy of the host's would wait for the device."""
    if device.type == "cpu":
        return torch.tensor([numbers], dtype=torch.float64)
    row = torch.zeros(1, len(numbers), dtype=torch.float64, device=device)
    torch._foreach_add_(row[0].unbind(), numbers)
    return row


MOST_TOKENS = 2**21 - 1  # of a vocabulary: kSampleVocab in csrc/decode/sample.h
COLUMNS = len(fields(SamplingParams)) + 2  # of packed parameters


def checked_epsilon(epsilon: float | Tensor) -> float | Tensor:
    """``epsilon``, a number in [0, 1] or a tensor [] or [B], whose values are checked where they are used."""
    if isinstance(epsilon, Tensor):
        return _validate.tensor("epsilon", epsilon, ndim=(0, 1), dtypes=(torch.float32, torch.float64))
    return _validate.number("epsilon", epsilon, **_FRACTION)
