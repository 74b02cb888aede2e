"""The public functions: generate, whole or row by row."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from gmkern import _backend, _validate
from gmkern._validate import bad
from gmkern.decode import adapters
from gmkern.decode.generate import engine, loop
from gmkern.decode.generate.guidance import Guidance, GuidedSteps
from gmkern.decode.generate.job import Job, LogitsProcessor, MaskFn, make_job
from gmkern.decode.generate.reference import ReferenceSteps
from gmkern.decode.generate.result import FinishedRow, Generation, with_mask
from gmkern.decode.sample import SamplingParams
from gmkern.decode.transformer import Transformer, packed


@torch.no_grad()
def generate(
    model: Any,
    prompts: Any = None,
    *,
    n: int | None = None,
    max_new_tokens: int,
    end_token: Any = None,
    params: SamplingParams = SamplingParams(),  # noqa: B008  frozen
    seed: int | Tensor | None = None,
    sample_ids: Any = None,
    batch_size: int | None = None,
    guidance: Guidance | None = None,
    mask_fn: MaskFn | None = None,
    epsilon: float | Tensor = 0.0,
    num_samples: int = 1,
    pad_token: int = 0,
    logits_processor: LogitsProcessor | None = None,
    progress: bool = False,
    weights: str | None = None,
    backend: str | None = None,
) -> Generation:
    """Draws sequences from an autoregressive model, each token from ``SamplingParams`` of the model's logits.

    Parameters
    ----------
    model : a :class:`~gmkern.decode.Transformer`, a Hugging Face model that its ``from_transformers`` takes, or any
        callable ``(tokens [B], state) -> (logits [B, V], state)``.
        A callable's state begins as None at the first call of a chunk of rows and is whatever the callable returned
        before; it is fed one token a row and call, the prompts' first (a row with a short prompt begins to draw while
        others still read theirs), and a row that has stopped is fed its last token again, its answer ignored.
    prompts : a list of 1-D id tensors (or lists of ints) of any lengths >= 1, or an id tensor [N, P]; None starts ``n``
        rows from the config's ``bos_id``.
    n : the number of rows where prompts are left out.
    max_new_tokens : T, the largest number of tokens drawn for a row.
    end_token : an id or several; drawing one ends its row. None draws max_new_tokens everywhere.
    params : temperature and filters; each a scalar, or a tensor [N].
    seed : int or int64 tensor, [] or [N]; may be left out only where every temperature is 0.
    sample_ids : [N] int64 or int32, or a sequence or an array of ints from -2^63 to 2^63 - 1: which samples these rows
        are; None takes 0 to N - 1 (N counts ``num_samples``). A sample is a function of the model, its prompt, its
        parameters, the seed and its id alone.
    batch_size : how many rows run at once; None takes 256. In the compiled engine slots are refilled as rows finish;
        with hooks, and for callables and the reference, rows run in chunks of this size.
    guidance : :class:`~gmkern.decode.Guidance`: a second, unconditional sequence a row, and logits beyond the two.
        ``raw_logprobs`` are then those of the guided logits. Needs a Transformer.
    mask_fn : ``(tokens [B, T], lengths [B]) -> [B, V]`` bool, the tokens that are allowed next; tokens and lengths are
        the new tokens of the rows that draw now, as they will be in the result. If it takes a third argument it is
        told which rows they are, [B] int64.
    epsilon : in [0, 1], or a tensor [N]: the probability with which a token is a uniform choice among the legal ones;
        ``logprobs`` are those of this behaviour (see :func:`~gmkern.decode.sample`).
    num_samples : rows a prompt: N counts each, and they stand together. The compiled engine reads their prompt once.
    pad_token : what ``tokens`` holds after a row's end.
    logits_processor : ``(tokens [B, T], lengths [B], logits [B, V]) -> logits [B, V]``, ahead of ``params``;
        ``raw_logprobs`` stay those of the model's own logits.
    progress : True shows a progress bar on a terminal (needs rich: ``pip install 'gmkern[cli]'``).
    weights : what the compiled engine holds the linears' weights in; it computes in fp32 whatever they are. None takes
        "bfloat16" where all of them are bfloat16 parameters, and "float32" elsewhere: both hold the parameters as they
        are. "bfloat16" and "int8" of wider parameters round them, and draw from the rounded model: int8 to within half
        a step of max |w| / 127 of each output's weights (see docs/generation.md). ``score`` takes the same argument.
    backend : None, "cpu" (the compiled engine: a Transformer on the CPU in fp32, bf16 or fp16, computed in fp32),
        "triton" (the same on a CUDA device) or "reference" (plain PyTorch, any device and dtype); for a callable model,
        the backend of ``decode.sample``.

    Returns
    -------
    Generation
        tokens, mask, lengths, logprobs, raw_logprobs, log_kept_mass, finished; on the model's device.

    Raises
    ------
    TypeError, ValueError : naming the argument, what it got and what it takes.

    Notes
    -----
    Token i of a row is drawn with step i of stream TOKEN. On "cpu" and "triton" a row's bits do not depend on the other
    rows, their order, ``batch_size``, the number of threads or how the work was sliced; for a callable they do not
    where the callable itself computes each row alone. No gradients. Graph class: no (driven from Python, which waits
    for a GPU once in 16 steps; a step itself is a CUDA graph, which stays with the model, its cache too, for the next
    call of the same shape).

    Examples
    --------
    >>> import torch
    >>> from gmkern.decode import SamplingParams, Transformer, TransformerConfig, generate
    >>> model = Transformer(TransformerConfig(17, n_layers=1, n_heads=2, d_model=8, max_seq_len=32, bos_id=0))
    >>> one = generate(model, n=1, sample_ids=[3], max_new_tokens=5, seed=1)
    >>> many = generate(model, n=8, max_new_tokens=5, seed=1)
    >>> torch.equal(one.tokens[0], many.tokens[3])
    True
    """
    rows = _run(
        model,
        prompts,
        backend,
        n=n,
        max_new_tokens=max_new_tokens,
        end_token=end_token,
        params=params,
        seed=seed,
        sample_ids=sample_ids,
        batch_size=batch_size,
        guidance=guidance,
        mask_fn=mask_fn,
        epsilon=epsilon,
        num_samples=num_samples,
        pad_token=pad_token,
        logits_processor=logits_processor,
        progress=progress,
        weights=weights,
    )
    *_, (done, _) = rows
    return with_mask(done)


def generate_stream(model: Any, prompts: Any = None, **options: Any) -> Iterator[FinishedRow]:
    """The rows of :func:`generate` one by one, each as soon as it is done.

    Parameters
    ----------
    model, prompts, **options : as :func:`generate`'s.

    Yields
    ------
    FinishedRow
        In the order in which rows end: of rows that end in one slice of the compiled engine (a quarter of a second, or
        16 steps on a GPU), threads or places decide. What a row holds is what :func:`generate` returns for it.

    Raises
    ------
    TypeError, ValueError : as :func:`generate`, at once and not at the first row.

    Notes
    -----
    Stop early by leaving the loop; Ctrl-C is heard between slices. Graph class: no (driven from Python).

    Examples
    --------
    >>> from gmkern.decode import Transformer, TransformerConfig, generate_stream
    >>> model = Transformer(TransformerConfig(17, n_layers=1, n_heads=2, d_model=8, max_seq_len=32, bos_id=0))
    >>> rows = generate_stream(model, n=4, max_new_tokens=5, end_token=3, seed=1)
    >>> sorted(done.row for done in rows)
    [0, 1, 2, 3]
    """
    unknown = sorted(set(options) - set(inspect.signature(generate).parameters))
    if unknown:
        raise TypeError(f"generate_stream: got an unexpected argument {unknown[0]!r}; takes those of generate")
    asked: dict[str, Any] = dict.fromkeys(
        ("n", "end_token", "seed", "sample_ids", "batch_size", "guidance", "mask_fn", "logits_processor", "weights")
    )
    asked |= {"params": SamplingParams(), "epsilon": 0.0, "num_samples": 1, "pad_token": 0, "progress": False}
    backend = options.pop("backend", None)
    return _finished(_run(model, prompts, backend, **(asked | options)))


@torch.no_grad()
def _finished(rows: Iterator[tuple[Generation, Tensor]]) -> Iterator[FinishedRow]:
    for done, finished in rows:
        for row in finished.tolist():
            count = int(done.lengths[row])
            tokens, logprobs, raw, kept = (
                field[row, :count].clone()
                for field in (done.tokens, done.logprobs, done.raw_logprobs, done.log_kept_mass)
            )
            yield FinishedRow(row, tokens, logprobs, raw, kept, bool(done.finished[row]))


def _run(
    model: Any, prompts: Any, backend: str | None, *, weights: str | None, **options: Any
) -> Iterator[tuple[Generation, Tensor]]:
    """Checks all arguments now; the rows come as the iterator is driven."""
    model = adapters.resolve(model)
    packed.check_format(weights)
    config = model.config if isinstance(model, Transformer) else None
    job = make_job(
        prompts,
        bos_id=config.bos_id if config else getattr(getattr(model, "config", None), "bos_id", None),
        vocab_size=config.vocab_size if config else None,
        max_seq_len=config.max_seq_len if config else None,
        **options,
    )
    if not isinstance(model, Transformer):
        if not callable(model):
            raise bad("model", model, "a Transformer or a callable (tokens, state) -> (logits, state)", error=TypeError)
        if job.guide is not None:
            raise bad(
                "guidance", "a Guidance for a callable model", "None, or a Transformer: a callable can guide itself"
            )
        _check_no_format(weights, "a callable model")
        device = _device(model, prompts)
        return loop.run(loop.CallableSteps(model, device), job, device, backend)
    _validate.held("model", model)
    engines = [("cpu", packed.why_not(model)), ("triton", packed.why_not_on_gpu(model))]
    chosen = _backend.choose("generate", backend, [*engines, ("reference", None)])
    place = model.embedding.weight.device
    if chosen == "reference":
        _check_no_format(weights, "backend 'reference'")
        return _stepped(ReferenceSteps(model), job, place, "reference")
    if chosen == "triton":
        from gmkern.decode.generate import device as on_device  # Triton is optional, and slow to import

        if job.mask_fn is None and job.logits_processor is None:
            return on_device.run(model, job, weights)
        return _stepped(on_device.DeviceSteps(model, weights), job, place, "triton")
    if job.mask_fn is None and job.logits_processor is None:
        return engine.run(model, job, weights)
    return _stepped(engine.EngineSteps(model, weights), job, torch.device("cpu"), "cpu")


def _check_no_format(weights: str | None, where: str) -> None:
    if weights is not None:
        raise bad("weights", f"{weights!r} with {where}", "None: the format of the compiled engine's weights")


def _stepped(steps: Any, job: Job, device: torch.device, backend: str) -> Iterator[tuple[Generation, Tensor]]:
    return loop.run(GuidedSteps(steps, job) if job.guide else steps, job, device, backend)


def _device(model: Any, prompts: Any) -> torch.device:
    """Where a callable's tokens live: with its parameters, else with the prompts, else on the CPU."""
    if isinstance(model, torch.nn.Module):
        for parameter in model.parameters():
            return parameter.device
    first = prompts[0] if isinstance(prompts, (list, tuple)) and prompts else prompts
    return first.device if isinstance(first, Tensor) else torch.device("cpu")
