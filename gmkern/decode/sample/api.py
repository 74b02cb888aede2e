"""Public functions: draw tokens, and score them again with gradients."""

from __future__ import annotations

from types import ModuleType
from typing import NamedTuple

import torch
from torch import Tensor

from gmkern import _backend, _validate
from gmkern._validate import ArrayLike
from gmkern.decode.sample import ops, reference
from gmkern.decode.sample.params import COLUMNS, MOST_TOKENS, SamplingParams, checked_epsilon

_DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


class Sample(NamedTuple):
    """What :func:`sample` returns, for B rows; probabilities are float32 (float64 for float64 logits)."""

    tokens: Tensor
    """[B] int64."""
    logprobs: Tensor
    """[B]: of the distribution the token was drawn from, after penalty, temperature, mask and filters."""
    raw_logprobs: Tensor
    """[B]: log_softmax of the logits as given."""
    log_kept_mass: Tensor
    """[B]: the log of the probability that the filters kept; 0 where there are none."""


def sample(
    logits: ArrayLike,
    params: SamplingParams | None = None,
    *,
    seed: int | Tensor,
    sample_ids: ArrayLike,
    step: int | Tensor,
    mask: ArrayLike | None = None,
    history: ArrayLike | None = None,
    history_prompt: int = 0,
    epsilon: float | Tensor = 0.0,
    backend: str | None = None,
) -> Sample:
    """Draws one token a row from filtered logits, and says how probable it was.

    The token is argmax(processed logit + Gumbel(seed, sample id, step, token)) over the kept tokens, so a row's token
    does not depend on the batch around it.

    Parameters
    ----------
    logits : [B, V] float32, float64, bfloat16 or float16, any strides; V up to 2,097,151. -inf: of no probability.
    params : :class:`SamplingParams`; None for the defaults.
    seed : int, taken modulo 2^64, or an int64 tensor [] or [B].
    sample_ids : [B] int64 or int32, or a sequence or an array of ints from -2^63 to 2^63 - 1: which samples the rows
        belong to.
    step : int in [0, 2^32), or an int64 tensor [] or [B]: how far in its sequence each row is.
    mask : [V] or [B, V] bool; False: never drawn. It counts after penalty and temperature, and not in raw_logprobs.
    history : [B, H] int64 tokens that penalties meet; those outside [0, V), such as -1, are padding.
    history_prompt : how many columns of ``history`` are a prompt, which ``repetition_penalty`` alone meets.
    epsilon : in [0, 1], or a tensor [] or [B]: the probability with which the token is a uniform choice among the n
        legal ones instead (from stream EXPLORE). ``logprobs`` is then log((1 - epsilon) p + epsilon / n).
    backend : None, "cpu", "triton" or "reference": the same tokens and bits from all.

    Returns
    -------
    Sample

    Raises
    ------
    TypeError, ValueError : naming the argument. On a CPU also for a row with NaN, +inf, or no legal token; on a GPU,
        where looking would stop the stream, such a row gets token -1 and NaN in the other three.

    Notes
    -----
    Not differentiable: see :func:`token_logprobs`. Works under ``torch.compile(fullgraph=True)`` and CUDA graphs; give
    seed and step as tensors there, so that replays differ. Deterministic to the bit on every backend, instruction set,
    number of threads and batch (docs/sampling.md).

    Examples
    --------
    >>> import torch, gmkern
    >>> drawn = gmkern.decode.sample(torch.zeros(3, 10), seed=1, sample_ids=[0, 1, 2], step=0)
    >>> [round(p, 4) for p in drawn.logprobs.tolist()]
    [-2.3026, -2.3026, -2.3026]
    """
    logits = _logits(logits, (2,)).detach()
    device, rows = logits.device, logits.shape[0]
    given = (
        logits,
        _packed(params, rows, device, epsilon, history_prompt),
        _mask(mask, logits),
        _history(history, logits),
        _validate.seed(seed, device, rows=rows),
        _validate.sample_ids(sample_ids, device, rows=rows),
        _validate.step(step, device, rows=rows),
    )
    module = _module("decode.sample", backend, device)
    if module is None:
        return Sample(*_in_words(ops.sample, *given))
    out = module.sample(*given)
    _refuse(out[0] < 0, "logits", "a row with a legal token and neither NaN nor +inf")
    return Sample(*out)


def token_logprobs(
    logits: ArrayLike,
    tokens: ArrayLike,
    params: SamplingParams | None = None,
    *,
    mask: ArrayLike | None = None,
    history: ArrayLike | None = None,
    history_prompt: int = 0,
    epsilon: float | Tensor = 0.0,
    backend: str | None = None,
) -> Tensor:
    """The log-probability of given tokens under :func:`sample`'s distribution, with gradients.

    Equal to ``sample(...).logprobs`` to the bit for the same backend and arguments.

    Parameters
    ----------
    logits : [B, V] or [B, T, V], any strides; dtypes as in :func:`sample`.
    tokens : [B] or [B, T] int64 in [0, V).
    params : :class:`SamplingParams`; tensors in it are [B]. None for the defaults.
    mask : bool, [V], [B, V] or [B, T, V].
    history : int64, [B, H] (the same at each of T) or [B, T, H].
    history_prompt, epsilon : as in :func:`sample`.
    backend : None, "cpu", "triton" or "reference".

    Returns
    -------
    Tensor of tokens' shape, float32 (float64 for float64 logits). -inf where a token is outside the kept set.

    Raises
    ------
    TypeError, ValueError : as :func:`sample`; on a GPU a row that cannot be served gives NaN.

    Notes
    -----
    The gradient with respect to logits holds the kept set fixed: it is that of log_softmax over the kept tokens, so it
    flows through log_kept_mass. It is 0 where the value is constant: at temperature 0, and where a token is outside the
    kept set. Parameters have no gradient, and second derivatives raise. Works under ``torch.compile(fullgraph=True)``
    and in CUDA graphs.

    Examples
    --------
    >>> import torch
    >>> from gmkern.decode import token_logprobs
    >>> logits = torch.zeros(1, 4, requires_grad=True)
    >>> said = token_logprobs(logits, torch.tensor([1]))
    >>> said.sum().backward()
    >>> round(float(said.detach()), 4), logits.grad.tolist()
    (-1.3863, [[-0.25, 0.75, -0.25, -0.25]])
    """
    logits = _logits(logits, (2, 3))
    device, lead, vocab = logits.device, logits.shape[:-1], logits.shape[-1]
    tokens = _validate.tensor("tokens", tokens, dtypes=(torch.int64, torch.int32), device=device)
    if tokens.shape != lead:
        raise _validate.bad("tokens", tokens, f"shape {list(lead)}, one token for each row of logits")
    packed = _packed(params, lead[0], device, epsilon, history_prompt)
    masked = _mask(mask, logits)
    met = _history(history, logits)
    if len(lead) == 2:
        rows = lead[0] * lead[1]
        if packed.shape[0] != 1:
            packed = packed[:, None].expand(*lead, COLUMNS).reshape(rows, COLUMNS)
        masked = None if masked is None else masked.reshape(rows, vocab)
        met = None if met is None else met.reshape(rows, met.shape[-1])
    given = (logits.reshape(-1, vocab), tokens.to(torch.int64).reshape(-1).contiguous(), packed, masked, met)
    module = _module("decode.token_logprobs", backend, device)
    _validate.no_tangents("decode.token_logprobs", logits)
    if module is None:
        out = _in_words(ops.token_logprobs, *given)
    else:
        out = ops.Composed.apply(module, *given)
        _refuse(torch.isnan(out), "logits, tokens", "tokens in [0, V), and rows with a legal token and no NaN or +inf")
    return out.reshape(lead)


def _logits(logits: ArrayLike, ndim: tuple[int, ...]) -> Tensor:
    logits = _validate.tensor("logits", logits, ndim=ndim, dtypes=_DTYPES)
    if not 1 <= logits.shape[-1] <= MOST_TOKENS:
        raise _validate.bad("logits", logits, f"1 to {MOST_TOKENS} tokens along the last axis")
    return logits


def _params(params: SamplingParams | None) -> SamplingParams:
    if params is None:
        return SamplingParams()
    if not isinstance(params, SamplingParams):
        raise _validate.bad("params", params, "SamplingParams or None", error=TypeError)
    return params


def _packed(
    params: SamplingParams | None, rows: int, device: torch.device, epsilon: float | Tensor, history_prompt: int
) -> Tensor:
    prompt = _validate.integer("history_prompt", history_prompt, low=0)
    return _params(params).packed(rows, device, checked_epsilon(epsilon), prompt)


def _mask(mask: ArrayLike | None, logits: Tensor) -> Tensor | None:
    if mask is None:
        return None
    mask = _validate.tensor("mask", mask, dtypes=(torch.bool,), device=logits.device)
    shapes = [list(logits.shape[-1:]), list(logits.shape)]
    if logits.ndim == 3:
        shapes.insert(1, [logits.shape[0], logits.shape[2]])
    if list(mask.shape) not in shapes:
        raise _validate.bad("mask", mask, " or ".join(map(str, shapes)))
    if logits.ndim == 3 and mask.ndim == 2:
        mask = mask[:, None]
    return mask.expand(logits.shape)


def _history(history: ArrayLike | None, logits: Tensor) -> Tensor | None:
    if history is None:
        return None
    history = _validate.tensor("history", history, dtypes=(torch.int64, torch.int32), device=logits.device)
    lead = list(logits.shape[:-1])
    if list(history.shape[:-1]) not in ([lead[0]], lead) or history.ndim < 2:
        raise _validate.bad("history", history, f"shape [{lead[0]}, H]" + (f" or {[*lead, 'H']}" * (len(lead) == 2)))
    if history.ndim < logits.ndim:
        history = history[:, None].expand(*lead, history.shape[-1])
    return history.to(torch.int64).contiguous()


def _module(op: str, backend: str | None, device: torch.device) -> ModuleType | None:
    """What serves the call in Python; None for the op."""
    chosen = _backend.choose(
        op,
        backend,
        [("cpu", _backend.on_cpu(device)), ("triton", _backend.on_triton(device)), ("reference", None)],
    )
    if chosen == "reference":
        return reference
    if chosen == "triton" and device.type == "cpu":
        from gmkern.decode.sample import triton_kernels  # in the interpreter

        return triton_kernels
    return None


def _in_words(op, *given):  # type: ignore[no-untyped-def]
    """The op's result; what it says against a row becomes a ValueError (compiled callers get the op's own error)."""
    if torch.compiler.is_compiling():
        return op(*given)
    try:
        return op(*given)
    except RuntimeError as error:
        text = str(error)
        if text.startswith("gmkern: "):
            raise ValueError(text.removeprefix("gmkern: ").splitlines()[0]) from None
        raise


def _refuse(flawed: Tensor, name: str, takes: str) -> None:
    """On a CPU, says which row could not be served."""
    if flawed.device.type == "cpu" and not torch.compiler.is_compiling() and bool(flawed.any()):
        raise _validate.bad(name, f"row {int(flawed.nonzero()[0, 0])} as it is", f"{takes}, and params in range")
