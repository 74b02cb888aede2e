"""What the collectives share: agreement before work, and rows that travel. Nothing is pickled."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from gmkern import _backend, _validate
from gmkern._validate import ArrayLike
from gmkern._version import __version__
from gmkern.neighbors import _points

_TEXT = 1024  # bytes of an agreement
Result = TypeVar("Result")


class Group:
    """A process group as the collectives see it."""

    def __init__(self, name: str, group: dist.ProcessGroup | None, device: torch.device) -> None:
        if not dist.is_available() or not dist.is_initialized():
            raise RuntimeError(f"{name}: no process group; call torch.distributed.init_process_group first")
        self.name, self.group, self.device = name, group, device
        self.rank, self.size = dist.get_rank(group), dist.get_world_size(group)
        if self.rank < 0:
            raise RuntimeError(f"{name}: this process is no member of the group")

    def agree(self, check: Callable[[], tuple[Result, str]], *, same_bits: bool) -> Result:
        """What ``check()`` gives, once no rank raised in it and its text is one on all ranks.

        ``same_bits``: whether the ranks must run one instruction set, since the result's bits depend on it.
        A rank whose check raises raises that; the others raise RuntimeError with its text, so that none waits.
        """
        error: Exception | None = None
        try:
            result, text = check()
            kind = f"gmkern {__version__} on {self.device.type}"
            kind += f" with {_backend.isa()}" if same_bits and self.device.type == "cpu" else ""
            told = f"+{kind}\n{text}"
        except (TypeError, ValueError, RuntimeError) as raised:
            error, told = raised, f"-{raised}"
        texts = self._texts(told)
        if error is not None:
            raise error
        for rank, other in enumerate(texts):
            if other.startswith("-"):
                raise RuntimeError(f"{self.name}: rank {rank}: {other[1:]}")
        for rank, other in enumerate(texts):
            if other != texts[0]:
                raise RuntimeError(
                    f"{self.name}: rank 0 has {_shown(texts[0])}, rank {rank} {_shown(other)}; takes one of all"
                )
        return result

    def _texts(self, text: str) -> list[str]:
        line = torch.zeros(_TEXT, dtype=torch.uint8)
        told = text.encode()[: _TEXT - 1].decode(errors="ignore").encode()
        line[: len(told)] = torch.frombuffer(bytearray(told), dtype=torch.uint8)
        return [bytes(t.tolist()).rstrip(b"\0").decode() for t in self._gather_all(line.to(self.device))]

    def _gather_all(self, mine: Tensor) -> list[Tensor]:
        every = [torch.empty_like(mine) for _ in range(self.size)]
        dist.all_gather(every, mine.contiguous(), group=self.group)
        return every

    def numbers(self, *mine: int) -> list[list[int]]:
        """Every rank's numbers."""
        return [t.tolist() for t in self._gather_all(torch.tensor(mine, dtype=torch.int64, device=self.device))]

    def rows_of_all(self, mine: Tensor, counts: list[int]) -> list[Tensor]:
        """Every rank's rows [counts[r], ...], on every rank."""
        padded = _padded(mine, max(counts))
        return [t[:count] for t, count in zip(self._gather_all(padded), counts, strict=True)]

    def to_owner(self, owner: int, mine: Tensor) -> list[Tensor] | None:
        """Tensors of one shape from every rank, in the order of ranks, at the rank that owns them; None elsewhere."""
        every = [torch.empty_like(mine) for _ in range(self.size)] if self.rank == owner else None
        dist.gather(mine.contiguous(), every, dst=self._global(owner), group=self.group)
        return every

    def send(self, to: int, mine: Tensor) -> Callable[[], object]:
        """Begins to send a contiguous tensor; what is given waits for the end, and holds the tensor until then."""
        work = dist.isend(mine, self._global(to), group=self.group)
        assert work is not None  # this rank is a member
        return lambda: (work.wait(), mine)

    def receive(self, source: int, into: Tensor) -> Tensor:
        dist.recv(into, self._global(source), group=self.group)
        return into

    def _global(self, rank: int) -> int:
        return rank if self.group is None else dist.get_global_rank(self.group, rank)


def _check_finite(name: str, x: Tensor) -> None:
    """Refuses NaN and infinities before any rank begins."""
    bad = ~torch.isfinite(x)
    if bool(bad.any()):
        at = [int(i) for i in torch.unravel_index(bad.flatten().int().argmax(), x.shape)]
        raise ValueError(f"{name}: got {x[tuple(at)].item()} at {at}; takes finite numbers")


def _padded(x: Tensor, rows: int) -> Tensor:
    if x.shape[0] == rows:
        return x
    room = x.new_zeros((rows, *x.shape[1:]))
    room[: x.shape[0]] = x
    return room


def _shown(text: str) -> str:
    return ", ".join(line for line in text[1:].split("\n") if line)


def starts(counts: list[int]) -> list[int]:
    """The number of each rank's first row in the whole."""
    return [sum(counts[:rank]) for rank in range(len(counts))]


def points_of(queries: ArrayLike, references: ArrayLike | None, exclude_self: bool) -> tuple[Tensor, Tensor]:
    """Queries [N, D] and references [M, D] of one rank, none of either allowed."""
    x = _validate.tensor("queries", queries, ndim=2, dtypes=_points.DTYPES)
    y = x if references is None else references
    y = _validate.tensor("references", y, ndim=2, dtypes=(x.dtype,), device=x.device)
    if x.shape[1] < 1 or x.shape[1] != y.shape[1]:
        raise _validate.bad("references", y, f"shape [M, {x.shape[1]}] with a coordinate or more, as queries")
    _validate.flag("exclude_self", exclude_self)
    _points.check_excludes(exclude_self, x.shape[0], y.shape[0])
    _check_finite("queries", x.detach())
    _check_finite("references", y.detach())
    return x, y


def device_of(queries: ArrayLike) -> torch.device:
    return queries.device if isinstance(queries, Tensor) else torch.device("cpu")
