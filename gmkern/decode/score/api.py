"""The public function: score."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from gmkern import _backend, _validate
from gmkern._validate import bad
from gmkern.decode import adapters
from gmkern.decode.adapters.load import active_dropout
from gmkern.decode.generate.guidance import Guidance
from gmkern.decode.generate.job import MaskFn, check_vocabulary
from gmkern.decode.generate.loop import CallableSteps
from gmkern.decode.sample import SamplingParams
from gmkern.decode.score import function, hidden
from gmkern.decode.score.job import ScoreJob, Sequences, make_job
from gmkern.decode.score.result import Score
from gmkern.decode.transformer import Transformer, packed
from gmkern.decode.transformer import ops as engine_ops

_INEXACT = "exact=False, which scores with the plain PyTorch model"


def score(
    model: Any,
    tokens: Any,
    lengths: Any,
    *,
    prompts: Any = None,
    params: SamplingParams = SamplingParams(),  # noqa: B008  frozen
    mask_fn: MaskFn | None = None,
    guidance: Guidance | None = None,
    epsilon: float | Tensor = 0.0,
    num_samples: int = 1,
    pad_token: int = 0,
    exact: bool = True,
    weights: str | None = None,
    return_entropy: bool = False,
    return_hidden: bool = False,
    backend: str | None = None,
) -> Tensor | Score:
    """The log-probabilities of given tokens: ``generate``'s values to the bit, with the gradients of the module.

    Parameters
    ----------
    model : a :class:`~gmkern.decode.Transformer`, or a Hugging Face model that ``from_transformers`` takes; with
        ``exact=False`` also a callable ``(tokens [B], state) -> (logits [B, V], state)``.
    tokens : [N, T] int64, as ``Generation.tokens``.
    lengths : [N] int64, how many of them count.
    prompts, params, mask_fn, guidance, epsilon, num_samples, pad_token : as ``generate`` was called with; tokens that
        come from elsewhere may have any. ``mask_fn`` sees each token's past as ``generate`` shows it, several rows at a
        time, and is called again in backward.
    exact : True: values from the compiled engine, equal to ``generate``'s; what cannot keep that is an error. False:
        values of the plain PyTorch model, as it runs now (its dtype, device, dropout, autocast).
    weights : as ``generate`` was called with. A format that rounds the parameters has no gradient: parameters that
        require one are refused, unless under ``torch.no_grad()``. The gradient of bfloat16 parameters is that of the
        plain bfloat16 module.
    return_entropy, return_hidden : add these to the result.
    backend : None, or with ``exact=True`` "cpu" (parameters on the CPU) or "triton" (on a CUDA device): whose
        ``generate`` it is that drew the tokens.

    Returns
    -------
    Tensor or Score
        logprobs [N, T] float32 (float64 where the model is), 0 past a row's length, -inf for a token that could not be
        drawn (its gradient is 0); a :class:`~gmkern.decode.Score` where entropy or hidden states are asked for.

    Raises
    ------
    RuntimeError : under forward-mode differentiation (jvp), which has no rule here.
    TypeError, ValueError : naming the argument. With ``exact=True``: a callable, parameters that the engine does not
        take (float64, other devices, sharded, quantised), autocast, a Hugging Face model in train mode with dropout.

    Notes
    -----
    Without gradients (``torch.no_grad()``, or no parameter that requires one) only the engine runs. With them the
    module runs forward, once, for hidden states; logits are made in blocks, and again in backward, so that memory does
    not grow with T x V. The gradient holds each kept set fixed, as ``token_logprobs``' does. logprobs, raw_logprobs,
    entropy and hidden states have gradients of first order. A Transformer has no dropout, so train mode is as eval
    mode. Graph class: no (driven from Python).

    Examples
    --------
    >>> import torch
    >>> from gmkern.decode import Transformer, TransformerConfig, generate, score
    >>> model = Transformer(TransformerConfig(17, n_layers=1, n_heads=2, d_model=8, max_seq_len=32, bos_id=0))
    >>> drawn = generate(model, n=4, max_new_tokens=6, seed=1)
    >>> logprobs = score(model, drawn.tokens, drawn.lengths)
    >>> torch.equal(logprobs, drawn.logprobs), logprobs.requires_grad
    (True, True)
    """
    states: Tensor | None
    model = adapters.resolve(model)
    packed.check_format(weights)
    if isinstance(model, torch.nn.Module):
        _validate.no_tangents("decode.score", *model.parameters())
    exact = _validate.flag("exact", exact)
    return_entropy = _validate.flag("return_entropy", return_entropy)
    return_hidden = _validate.flag("return_hidden", return_hidden)
    engine = _checked_engine(model, backend) if exact else ""
    for name, value in (("weights", weights), ("backend", backend)):
        if value is not None and not exact:
            raise bad(name, f"{value!r} with exact=False", "None, or exact=True: it says how an engine runs")
    config = model.config if isinstance(model, Transformer) else None
    job = make_job(
        tokens,
        lengths,
        prompts=prompts,
        params=params,
        epsilon=epsilon,
        guidance=guidance,
        mask_fn=mask_fn,
        num_samples=num_samples,
        pad_token=pad_token,
        entropy=return_entropy,
        bos_id=config.bos_id if config else getattr(getattr(model, "config", None), "bos_id", None),
        vocab_size=config.vocab_size if config else None,
        max_seq_len=config.max_seq_len if config else None,
    )
    if config is not None:
        _validate.held("model", model)
    if exact:
        four, states = _exact(model, job, weights, engine)
    elif config is not None:
        four, states = _plain(model, job)
    else:
        four, states = _called(model, job, return_hidden)
    logprobs, raw, kept, entropy = (_spread(column, job) for column in four)
    if not return_entropy and not return_hidden:
        return logprobs
    return Score(
        logprobs,
        raw,
        kept,
        entropy if return_entropy else None,
        _spread(states, job) if return_hidden and states is not None else None,
    )


def _spread(column: Tensor, job: ScoreJob) -> Tensor:
    """[Q, ...] to [N, T, ...], 0 elsewhere."""
    out = column.new_zeros(*job.tokens.shape, *column.shape[1:])
    return out.index_put((job.row.to(column.device), job.at.to(column.device)), column)


def _checked_engine(model: Any, backend: str | None) -> str:
    """The engine whose values are asked for."""
    if not isinstance(model, Transformer):
        if not callable(model):
            raise bad("model", model, "a Transformer", error=TypeError)
        raise bad("model", f"a callable, {type(model).__name__}, with exact=True", f"a Transformer, or {_INEXACT}",
                  error=TypeError)  # fmt: skip
    device = model.embedding.weight.device.type
    reasons = {"cpu": packed.why_not(model), "triton": packed.why_not_on_gpu(model)}
    if backend is None and None not in reasons.values():
        reason = reasons["triton" if device == "cuda" else "cpu"]
        raise bad("model", f"one that the engine does not serve with exact=True (it {reason})", _INEXACT)
    chosen = _backend.choose("score", backend, list(reasons.items()))
    if torch.is_autocast_enabled(device):
        raise bad("exact", "True under torch.autocast", f"no autocast, or {_INEXACT}")
    dropout = active_dropout(model)
    if dropout is not None:
        raise bad("exact", f"True for a model in train mode with {dropout}", f"model.eval(), or {_INEXACT}")
    return chosen


def _exact(model: Transformer, job: ScoreJob, format: str | None, engine: str) -> tuple[function.Four, Tensor]:
    given = [job.main] if job.side is None else [job.main, job.side]
    differentiates = torch.is_grad_enabled() and any(parameter.requires_grad for parameter in model.parameters())
    with torch.no_grad():
        exact, states_of, head = _on_cpu(model, format) if engine == "cpu" else _on_device(model, format)
        if differentiates and not exact:
            raise bad("weights", f"{format!r} for parameters that require gradients and that it rounds",
                      "torch.no_grad(), parameters without requires_grad, or weights=None: rounding has no gradient",
                      )  # fmt: skip
        states = [states_of(sequences) for sequences in given]
        logits = function.engine_logits(head, states, job, model.config.logit_softcap)
    if not differentiates:
        with torch.no_grad():
            out = function.values(job, logits, model.config.vocab_size, torch.float32, states[0].device)
        return out, states[0]
    differentiable = [hidden.by_module(model, sequences) for sequences in given]
    out = function.Scores.apply(job, logits, model.head_weight, *differentiable)
    return out, function.SameValue.apply(states[0], differentiable[0])


# Whether the format holds the parameters as they are; the hidden states of sequences; the logits of hidden states.
Engine = tuple[bool, Callable[[Sequences], Tensor], Callable[[Tensor], Tensor]]


def _on_cpu(model: Transformer, format: str | None) -> Engine:
    weights = packed.pack(model, format)

    def head(states: Tensor) -> Tensor:
        return engine_ops.transformer_head(weights.weights, states, weights.shape, weights.reals)

    return weights.exact, lambda sequences: hidden.by_engine(weights, sequences), head


def _on_device(model: Transformer, format: str | None) -> Engine:
    from gmkern.decode.transformer.device import DeviceEngine  # Triton is optional, and slow to import

    engine = DeviceEngine(model, format)
    return engine.weights.exact(model), lambda sequences: hidden.by_device(engine, sequences), engine.logits


def _plain(model: Transformer, job: ScoreJob) -> tuple[function.Four, Tensor]:
    given = [job.main] if job.side is None else [job.main, job.side]
    weight = model.head_weight
    states = [hidden.by_module(model, sequences).to(weight.dtype) for sequences in given]
    with torch.autocast(weight.device.type, enabled=False):
        logits = function.module_logits(states, model, job)
        return function.Scores.apply(job, logits, weight, *states), states[0]


def _called(model: Any, job: ScoreJob, return_hidden: bool) -> tuple[function.Four, None]:
    """A callable is fed a token a row and call; logits of all positions are held, as its own graph does."""
    if not callable(model):
        raise bad("model", model, "a Transformer or a callable (tokens, state) -> (logits, state)", error=TypeError)
    if job.guide is not None:
        raise bad("guidance", "a Guidance for a callable model", "None, or a Transformer: a callable can guide itself")
    if return_hidden:
        raise bad("return_hidden", "True for a callable model", "False: a callable tells logits alone")
    parameters = model.parameters() if isinstance(model, torch.nn.Module) else iter(())
    first = next(parameters, None)
    device = torch.device("cpu") if first is None else first.device
    steps = CallableSteps(model, device)
    lengths = job.main.lengths
    rows = torch.arange(lengths.shape[0])
    steps.open(rows, int(lengths.max()) if rows.numel() else 0)
    begins, found = lengths.cumsum(0) - lengths, []
    for column in range(int(lengths.max()) if rows.numel() else 0):
        live = rows[lengths > column]
        tokens = job.main.tokens[begins[live] + column].unsqueeze(1)
        found.append((begins[live] + column, steps.feed(tokens.to(device), live.to(device))))
    if not found:
        a, b, c, d = (torch.empty(0, dtype=torch.float32, device=device) for _ in range(4))
        return (a, b, c, d), None
    where = torch.cat([at for at, _ in found])
    order = torch.empty_like(where)
    order[where] = torch.arange(where.shape[0])
    check_vocabulary(found[0][1].shape[1])
    logits = torch.cat([part for _, part in found])[order[job.main.wanted].to(device)]
    return function.FromLogits.apply(job, logits), None
