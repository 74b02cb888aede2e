"""What the collectives share: agreement before and after work, and rows that travel. Nothing is pickled."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from gmkern import _backend, _validate
from gmkern._validate import ArrayLike
from gmkern._version import __version__
from gmkern.distributed._asked import bytes_of, checksum
from gmkern.metrics._samples import samples
from gmkern.neighbors import _points

_TEXT = 4096  # bytes of an agreement
Result = TypeVar("Result")


class Group:
    """A process group as the collectives see it; ``device`` is where the work is done.

    ``moves``: whether results travel between ranks, so that the group must have a backend for that device.
    """

    def __init__(self, name: str, group: dist.ProcessGroup | None, device: torch.device, *, moves: bool = True) -> None:
        if not dist.is_available() or not dist.is_initialized():
            raise RuntimeError(f"{name}: no process group; call torch.distributed.init_process_group first")
        self.name, self.group, self.device = name, group, device
        self.rank, self.size = dist.get_rank(group), dist.get_world_size(group)
        if self.rank < 0:
            raise RuntimeError(f"{name}: this process is no member of the group")
        config = dist.get_backend_config(group)  # such as cpu:gloo,cuda:nccl
        kinds = [part.split(":")[0] for part in config.split(",")]
        serves = device.type in kinds or not moves
        self._unserved = None if serves else f"tensors on {' or '.join(kinds)}, with the group's backends {config}"
        # Ranks agree where their group always can, wherever each rank's own tensors are.
        self._agreeing = torch.device("cpu") if "cpu" in kinds else torch.device(kinds[0], torch.cuda.current_device())

    def agree(self, check: Callable[[], tuple[Result, dict[str, str]]], *, same_bits: bool) -> Result:
        """What ``check()`` gives, once no rank raised in it and all were asked the same (see ``asked``).

        ``same_bits``: whether the ranks must run one instruction set, or one model of GPU, since the result's bits
        depend on it. A rank whose check raises raises that; the others raise RuntimeError with its text: none waits.
        Where arguments differ, each rank raises ValueError with the first of them and the values of two ranks.
        """
        error: Exception | None = None
        try:
            if self._unserved is not None:
                raise _validate.bad(self.name, f"tensors on {self.device}", self._unserved)
            result, arguments = check()
            call = f"{self.name} of gmkern {__version__} on {self._where(same_bits)}"
            told = "\n".join([f"+{call}", *(f"{name}={value}" for name, value in arguments.items())])
            if len(told) >= _TEXT:  # what does not travel is compared as well
                told = f"{told[: _TEXT // 2]}...\nand more={checksum(told.encode())}"
        except Exception as raised:
            kind = "" if isinstance(raised, (TypeError, ValueError, RuntimeError)) else f"{type(raised).__name__}: "
            error, told = raised, f"-{kind}{raised}"
        texts = self._texts(told)
        if error is not None:
            raise error
        for rank, other in enumerate(texts):
            if other.startswith("-"):
                raise RuntimeError(f"{self.name}: rank {rank}: {other[1:]}")
        for rank, other in enumerate(texts):
            if other != texts[0]:
                raise self._quarrel(rank, texts[0][1:].split("\n"), other[1:].split("\n"))
        return result

    def _quarrel(self, rank: int, first: list[str], other: list[str]) -> Exception:
        """What to raise where rank 0 and another told different lines: the call and its place, then the arguments."""
        if first[0] != other[0]:
            return RuntimeError(f"{self.name}: rank 0 is in {first[0]}, rank {rank} in {other[0]}; takes one of all")
        of_first, of_other = ({n: v for n, _, v in (line.partition("=") for line in lines)} for lines in (first, other))
        names = [*of_first, *(name for name in of_other if name not in of_first)]
        name = next(name for name in names if of_first.get(name) != of_other.get(name))
        got = [f"{of.get(name, 'nothing')} on rank {at}" for of, at in ((of_first, 0), (of_other, rank))]
        return _validate.bad(name, " and ".join(got), f"one value on all ranks of {self.name}")

    def settled(self, work: Callable[[], Result]) -> Result:
        """What ``work()`` gives, once it is done on every rank: an error in one rank's is told to the others."""
        return self.agree(lambda: (work(), {}), same_bits=False)

    def _where(self, same_bits: bool) -> str:
        if not same_bits:
            return self.device.type
        if self.device.type == "cuda":
            return torch.cuda.get_device_name(self.device)
        return f"{self.device.type} with {_backend.isa()}"

    def _texts(self, text: str) -> list[str]:
        line = torch.zeros(_TEXT, dtype=torch.uint8)
        told = text.encode()[: _TEXT - 1].decode(errors="ignore").encode()
        line[: len(told)] = torch.frombuffer(bytearray(told), dtype=torch.uint8)
        return [bytes(t).rstrip(b"\0").decode() for t in self._gathered(line.to(self._agreeing)).tolist()]

    def numbers(self, *mine: int) -> list[list[int]]:
        """Every rank's numbers."""
        return self._gathered(torch.tensor(mine, dtype=torch.int64, device=self._agreeing)).tolist()

    def rows_of_all(self, mine: Tensor, counts: list[int]) -> list[Tensor]:
        """Every rank's rows [counts[r], ...], on every rank."""
        padded = _padded(mine, max(counts))
        return [t[:count] for t, count in zip(self._gathered(padded), counts, strict=True)]

    def _gathered(self, mine: Tensor) -> Tensor:
        """Every rank's tensor [R, ...], of one shape on all; it travels as bytes, which every backend takes."""
        every = mine.new_empty((self.size, *mine.shape))
        if mine.numel():
            with self._together():
                dist.all_gather(list(bytes_of(every).chunk(self.size)), bytes_of(mine), group=self.group)
        return every

    def to_owners(self, mine: Tensor, counts: list[int]) -> Tensor:
        """What all ranks have for this one [R, n, ...], where ``mine`` [sum(counts), ...] is for each rank in turn."""
        own = mine.new_empty((self.size, counts[self.rank], *mine.shape[1:]))
        row = mine[:1].nbytes
        if row:
            with self._together():
                dist.all_to_all_single(
                    bytes_of(own), bytes_of(mine), [counts[self.rank] * row] * self.size, [n * row for n in counts],
                    group=self.group,
                )  # fmt: skip
        return own

    def send(self, to: int, mine: Tensor) -> Callable[[], object]:
        """Begins to send a contiguous tensor; what is given waits for the end, and holds the tensor until then."""
        with self._together():
            work = dist.isend(mine, self._global(to), group=self.group)
        assert work is not None  # this rank is a member

        def wait() -> Tensor:
            with self._together():
                work.wait()
            return mine  # and kept until now

        return wait

    def receive(self, source: int, into: Tensor) -> Tensor:
        with self._together():
            dist.recv(into, self._global(source), group=self.group)
        return into

    def _global(self, rank: int) -> int:
        return rank if self.group is None else dist.get_global_rank(self.group, rank)

    @contextmanager
    def _together(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            raise RuntimeError(
                f"{self.name}: a rank died, or did not come within the group's timeout ({error})"
            ) from error


def _padded(x: Tensor, rows: int) -> Tensor:
    if x.shape[0] == rows:
        return x
    room = x.new_zeros((rows, *x.shape[1:]))
    room[: x.shape[0]] = x
    return room


def starts(counts: list[int]) -> list[int]:
    """The number of each rank's first row in the whole."""
    return [sum(counts[:rank]) for rank in range(len(counts))]


def points_of(queries: ArrayLike, references: ArrayLike | None, exclude_self: bool) -> tuple[Tensor, Tensor]:
    """Queries [N, D] and references [M, D] of one rank, none of either allowed."""
    for name, points in (("queries", queries), ("references", references)):
        if hasattr(points, "to_local"):
            raise _validate.bad(name, f"a {type(points).__name__}", "this rank's own rows: its to_local()")
    x = samples("queries", queries, least=0)
    y = x if references is None else samples("references", references, like=("queries", x), least=0)
    _points.check_excludes(_validate.flag("exclude_self", exclude_self), x.shape[0], y.shape[0])
    return x, y


def points_asked(x: Tensor) -> dict[str, str]:
    return {"D": f"{x.shape[1]}", "dtype": f"{x.dtype}".removeprefix("torch.")}


def one_number(value: ArrayLike | float | None) -> Any:
    """What ranks must have alike of numbers that may be one for all, or one a row of a rank's own."""
    return "one a row" if getattr(value, "ndim", 0) else value


def device_of(points: ArrayLike) -> torch.device:
    return points.device if isinstance(points, Tensor) else torch.device("cpu")
