"""Samples split over ranks by their ids: the same bits for any number of ranks."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from gmkern import _validate, decode, dynamics, latent
from gmkern.decode import Generation, Guidance, SamplingParams
from gmkern.distributed._asked import asked
from gmkern.distributed._group import Group, device_of
from gmkern.dynamics import Potential, Trajectory, VectorField
from gmkern.dynamics.integrators import Integrator


def share(n: int, group: dist.ProcessGroup | None = None) -> slice:
    """Which of n rows are this rank's: shares follow each other and differ by one row at most.

    Parameters
    ----------
    n : rows of all ranks, 0 or more.
    group : None takes the default group.

    Raises
    ------
    RuntimeError : without a process group. ValueError : naming n.

    Examples
    --------
    >>> import torch
    >>> from gmkern import distributed  # in a group, here of one rank
    >>> distributed.share(10)
    slice(0, 10, None)
    """
    n = _validate.integer("n", n, low=0)
    at = Group("distributed.share", group, torch.device("cpu"), moves=False)
    return slice(n * at.rank // at.size, n * (at.rank + 1) // at.size)


def sample(
    decoder: nn.Module,
    n: int,
    *,
    seed: int | Tensor,
    sample_ids: Any = None,
    group: dist.ProcessGroup | None = None,
    **options: Any,
) -> Tensor:
    """This rank's share of :func:`gmkern.latent.sample`'s n samples.

    Parameters
    ----------
    decoder, n, sample_ids, seed, **options : as for :func:`gmkern.latent.sample`, those of all ranks (a rank may have
        its own batch_size and progress).
    group : None takes the default group.

    Returns
    -------
    Tensor [m, ...], rows ``share(n)`` of what one process draws, to the bit; one after another they are all n.

    Raises
    ------
    TypeError, ValueError : as :func:`gmkern.latent.sample`, and for a decoder with sharded parameters; RuntimeError on
        the other ranks then. Where ranks differ, on all of them: ValueError naming the argument and the values of two
        ranks, RuntimeError for the version, the kind of device or the instruction set.

    Notes
    -----
    No sample travels. Gradients are this rank's own; a module whose forward makes this call has them reduced by DDP or
    FSDP (docs/scaling.md).

    Examples
    --------
    >>> import torch
    >>> from gmkern import distributed  # in a group, here of one rank
    >>> decoder = torch.nn.Linear(2, 3)
    >>> distributed.sample(decoder, 10, seed=0).shape
    torch.Size([10, 3])
    """

    def check() -> tuple[tuple[slice, Tensor], dict[str, str]]:
        _check_whole("decoder", decoder)
        rows = share(n, group)
        ids = _ids(sample_ids, n)
        return (rows, ids[rows]), asked(n=n, seed=seed, sample_ids=ids, **_deciding(options))

    at = Group("distributed.sample", group, _device_of(decoder), moves=False)
    rows, ids = at.agree(check, same_bits=True)

    def draw() -> Tensor:
        count, seeds = rows.stop - rows.start, _cut("seed", seed, n, rows)
        return latent.sample(decoder, count, seed=seeds, sample_ids=ids.to(at.device), **options)

    return at.settled(draw)


def generate(
    model: Any,
    prompts: Any = None,
    *,
    n: int | None = None,
    sample_ids: Any = None,
    num_samples: int = 1,
    group: dist.ProcessGroup | None = None,
    **options: Any,
) -> Generation:
    """This rank's share of :func:`gmkern.decode.generate`'s rows.

    Parameters
    ----------
    model, prompts, n, num_samples, sample_ids, **options : as for :func:`gmkern.decode.generate`, those of all ranks:
        what is one a row (params, seed, epsilon, guidance) is cut with the rows. Functions must be alike on all ranks,
        which is not checked; a rank may have its own batch_size and progress.
    group : None takes the default group.

    Returns
    -------
    Generation of the rows of prompts ``share(P)``, P being the number of prompts (or n): siblings stay together. They
    are those of one process, to the bit.

    Raises
    ------
    TypeError, ValueError : as :func:`gmkern.decode.generate`, and for a model with sharded parameters. What other
        ranks raise, and all where they differ: as for :func:`sample`.

    Examples
    --------
    >>> import torch
    >>> from gmkern import distributed  # in a group, here of one rank
    >>> from gmkern.decode import Transformer, TransformerConfig
    >>> model = Transformer(TransformerConfig(17, n_layers=1, n_heads=2, d_model=8, max_seq_len=32, bos_id=0))
    >>> distributed.generate(model, n=4, max_new_tokens=5, seed=0).tokens.shape
    torch.Size([4, 5])
    """

    def check() -> tuple[tuple[int, int, Tensor], dict[str, str]]:
        _check_whole("model", model)
        each = _validate.integer("num_samples", num_samples, low=1)
        if prompts is None:
            count = _validate.integer("n", n, low=0)
        else:
            if not isinstance(prompts, (Sequence, np.ndarray, Tensor)) or getattr(prompts, "ndim", 1) < 1:
                raise _validate.bad("prompts", prompts, "a list of 1-D id tensors, or [P, T]", error=TypeError)
            count = len(prompts)
            if n is not None:
                raise _validate.bad("n", str(n), "None where prompts are given")
        ids = _ids(sample_ids, count * each)
        told = asked(prompts=prompts, n=n, num_samples=each, sample_ids=ids, **_deciding(options))
        return (count, each, ids), told

    at = Group("distributed.generate", group, _device_of(model), moves=False)
    count, each, ids = at.agree(check, same_bits=True)
    some = share(count, group)
    rows, total = slice(some.start * each, some.stop * each), count * each

    def draw() -> Generation:
        cut = {name: _cut(name, value, total, rows) for name, value in options.items()}
        given = {"n": some.stop - some.start} if prompts is None else {"prompts": prompts[some]}
        return decode.generate(model, **given, num_samples=each, sample_ids=ids[rows], **cut)

    return at.settled(draw)


def simulate(
    field: Any,
    positions: Tensor | np.ndarray,
    *,
    sample_ids: Any = None,
    group: dist.ProcessGroup | None = None,
    **options: Any,
) -> Trajectory:
    """This rank's share of :func:`gmkern.dynamics.simulate`'s systems.

    Parameters
    ----------
    field, positions, sample_ids, **options : as for :func:`gmkern.dynamics.simulate`, those of all ranks. Positions are
        [S, N, D] (or [S, ...] of a ``VectorField``); what is one a system is cut with them: masses and types [S, N],
        a cell [S, D, D], an integrator's numbers. Modules and functions must be alike on all ranks, which is not
        checked; a rank may have its own checkpoint_every and progress.
    group : None takes the default group.

    Returns
    -------
    Trajectory of the systems ``share(S)``: those of one process, to the bit.

    Raises
    ------
    TypeError, ValueError : as :func:`gmkern.dynamics.simulate`, for a module with sharded parameters, and for
        ``system_ptr``: cut ragged systems yourself, and give ``sample_ids``. What other ranks raise, and all where they
        differ: as for :func:`sample`.

    Examples
    --------
    >>> import torch
    >>> from gmkern import distributed  # in a group, here of one rank
    >>> from gmkern.dynamics import BAOAB, Harmonic
    >>> bath = BAOAB(0.1, 1.0, 1.0)
    >>> distributed.simulate(Harmonic(), torch.zeros(6, 3, 2), integrator=bath, steps=5, seed=0).positions.shape
    torch.Size([6, 3, 2])
    """

    def check() -> tuple[tuple[int, Tensor], dict[str, str]]:
        _check_whole("field", getattr(field, "module", field))
        x = _validate.tensor("positions", positions)
        if options.get("system_ptr") is not None:
            raise _validate.bad("system_ptr", options["system_ptr"], "None over ranks: give each its own systems")
        if x.ndim < 2 or (x.ndim != 3 and not isinstance(field, VectorField)):  # [N, D] is one system, not N
            raise _validate.bad("positions", x, "shape [S, N, D], or [S, ...] of a VectorField: a row a system")
        ids = _ids(sample_ids, len(x))
        terms = field.terms if isinstance(field, Potential) else (field,)
        fields = {f"field[{at}]": term for at, term in enumerate(terms)}
        return (len(x), ids), asked(positions=x, sample_ids=ids, **fields, **_deciding(options))

    at = Group("distributed.simulate", group, device_of(positions), moves=False)
    systems, ids = at.agree(check, same_bits=True)
    rows = share(systems, group)

    def draw() -> Trajectory:
        cut = {name: _cut(name, value, systems, rows) for name, value in options.items()}
        return dynamics.simulate(field, positions[rows], sample_ids=ids[rows].to(at.device), **cut)

    return at.settled(draw)


def _check_whole(name: str, model: Any) -> None:
    """Refuses a module whose parameters lie on several ranks: its forward waits for the others, step by step."""
    for part, parameter in model.named_parameters() if isinstance(model, nn.Module) else ():
        if type(parameter.data) is not Tensor:
            raise _validate.bad(
                name,
                f"{part} of type {type(parameter.data).__name__}",
                "parameters that are whole on each rank: unshard() the module that FSDP wraps (docs/scaling.md)",
            )


def _ids(sample_ids: Any, rows: int) -> Tensor:
    ids = sample_ids.cpu() if isinstance(sample_ids, Tensor) else sample_ids
    return _validate.sample_ids(ids, torch.device("cpu"), rows=rows)


# Results have the same bits whatever these are: they are each rank's own.
_OF_A_RANK = ("batch_size", "checkpoint_every", "progress")


def _deciding(options: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if name not in _OF_A_RANK}


# Arguments that may be one a row, and of how many dimensions they then are at least: [D, D] is one cell for all.
_PER_ROW = {
    **dict.fromkeys(("seed", "epsilon", "scale", *(f.name for f in dataclasses.fields(SamplingParams))), 1),
    **dict.fromkeys(("velocities", "masses", "types"), 2),
    "cell": 3,
}


def _cut(name: str, value: Any, count: int, rows: slice) -> Any:
    """What is one a row, cut to the share; anything else as it is."""
    if isinstance(value, (SamplingParams, Guidance, Integrator)):
        held_in: Any = value  # each is a dataclass
        fields = {f.name: getattr(value, f.name) for f in dataclasses.fields(held_in)}
        how = _cut_schedule if isinstance(value, Integrator) else _cut
        return dataclasses.replace(held_in, **{key: how(key, held, count, rows) for key, held in fields.items()})
    if name == "prompts":  # a guidance's: one a row, or one for all
        each = not isinstance(value, (str, bytes)) and len(value) == count and not isinstance(value[0], int)
        return value[rows] if each and getattr(value, "ndim", 2) == 2 else value
    if name not in _PER_ROW or value is None or np.ndim(value) < _PER_ROW[name]:
        return value
    return value[rows] if len(value) == count else value


def _cut_schedule(name: str, value: Any, count: int, rows: slice) -> Any:
    """An integrator's numbers: one, [S], or a schedule [steps, 1] or [steps, S]."""
    numbers = value if isinstance(value, Tensor) else np.asarray(value)
    if numbers.ndim == 1 and len(numbers) == count:
        return numbers[rows] if rows.stop > rows.start else float(numbers[0])  # of no system: any number serves
    if numbers.ndim == 2 and numbers.shape[1] == count > 1:
        return numbers[:, rows] if rows.stop > rows.start else numbers[:, :1]
    return value


def _device_of(model: Any) -> torch.device:
    parameters = model.parameters() if isinstance(model, nn.Module) else iter(())
    return next((p.device for p in parameters), torch.device("cpu"))
