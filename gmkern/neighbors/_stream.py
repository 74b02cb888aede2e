"""References that are not in memory at once: a memory map or an iterable of blocks, searched a chunk at a time."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from gmkern import _progress, _validate

_BYTES = 64 << 20  # of a chunk
_GROUP = 16  # kernel sums are laid out in lanes of 16 references: chunks are multiples of it
Result = TypeVar("Result")


def is_streamed(references: Any) -> bool:
    """Whether references come in chunks: a memory map, or an iterable that is neither a tensor nor an array."""
    if isinstance(references, np.memmap):
        return True
    others = Tensor, np.ndarray, str, bytes, Mapping, Set  # nor anything else that is not in an order of its own
    return isinstance(references, Iterable) and not isinstance(references, others)


def queries(value: Any, dtypes: tuple[torch.dtype, ...]) -> Tensor:
    """Queries [1, N, D] of a streamed search."""
    x = _validate.tensor("queries", value, dtypes=dtypes)
    if x.ndim != 2 or x.shape[1] < 1:
        raise _validate.bad("queries", x, "shape [N, D] where references are streamed")
    check_detached("queries", x)
    return x.detach().contiguous().unsqueeze(0)


def check_detached(name: str, x: Tensor) -> None:
    """A streamed search has no gradients, and says so."""
    if x.requires_grad and torch.is_grad_enabled():
        takes = "one that needs none where references are streamed (detach it, or hold the references in memory)"
        raise _validate.bad(name, "a tensor that requires a gradient", takes)


def each_chunk(
    references: Any, x: Tensor, label: str, progress: bool, search: Callable[[Tensor, int], Result]
) -> Iterator[tuple[Result, int, int]]:
    """Yields (search(chunk [1, m, D], first), first, m), first being the chunk's first reference in the whole.

    The position of a value that is not finite is told in the whole.
    """
    total = references.shape[0] if isinstance(references, np.memmap) else None
    first = 0
    with _progress.bar(progress, label, total) as show:
        for chunk in _chunks(references, x):
            try:
                result = search(chunk.unsqueeze(0), first)
            except ValueError as error:
                raise ValueError(_in_the_whole(str(error), first)) from None
            yield result, first, chunk.shape[0]
            first += chunk.shape[0]
            show(first)


def rows_of(name: str, numbers: Tensor, first: int, count: int) -> Tensor:
    """Entries first, ..., first + count - 1 of numbers [1, M], one a reference, or of one number []: [1, count]."""
    if numbers.ndim == 0:
        return numbers.expand(1, count).contiguous()
    if first + count > numbers.shape[1]:
        raise _validate.bad(name, f"{numbers.shape[1]} of them", "one for each reference, of which there are more")
    return numbers[:, first : first + count].contiguous()


def check_all_used(name: str, numbers: Tensor, total: int) -> None:
    """Refuses numbers [1, M] for more than ``total`` references."""
    if numbers.ndim and numbers.shape[1] != total:
        raise _validate.bad(name, f"{numbers.shape[1]} of them", f"one for each of the {total} references")


def check_self(exclude_self: bool, n: int, total: int) -> None:
    """``exclude_self`` needs as many references as queries, which is known at the end."""
    if exclude_self and n != total:
        raise _validate.bad("exclude_self", f"True with {n} queries and {total} references", "as many of both")


def _chunks(references: Any, x: Tensor) -> Iterator[Tensor]:
    rows = max(1, _BYTES // (x.shape[2] * x.element_size() * _GROUP)) * _GROUP
    held: list[Tensor] = []
    count = 0
    for block in _blocks(references, x, rows):
        while block.shape[0]:
            part, block = block[: rows - count], block[rows - count :]
            held.append(part)
            count += part.shape[0]
            if count == rows:
                yield _joined(held)
                held, count = [], 0
    if count:
        yield _joined(held)


def _joined(parts: list[Tensor]) -> Tensor:
    return parts[0].contiguous() if len(parts) == 1 else torch.cat(parts)


def _blocks(references: Any, x: Tensor, rows: int) -> Iterator[Tensor]:
    """Blocks [m, D] as tensors of x's dtype and device: slices of a memory map are read when their turn comes."""
    if isinstance(references, np.memmap):
        if references.ndim != 2:
            raise _validate.bad("references", references, "shape [M, D] where they are a memory map")
        for row in range(0, references.shape[0], rows):
            yield _checked("references", np.array(references[row : row + rows]), x)
        return
    for number, block in enumerate(references):
        yield _checked(f"references: block {number}", block, x)


def _checked(name: str, block: Any, x: Tensor) -> Tensor:
    y = _validate.tensor(name, block, ndim=2, dtypes=(x.dtype,), device=x.device)
    check_detached(name, y)
    if y.shape[1] != x.shape[2]:
        raise _validate.bad(name, y, f"shape [M, {x.shape[2]}], as queries of shape {list(x.shape[1:])}")
    return y


def _in_the_whole(text: str, first: int) -> str:
    """The text of an error, with the position in a chunk as that in the whole."""
    numbers = r"(?:radii|bandwidth|weights|log_weights)\b.* at position "
    return re.sub(rf"^(references: .* at \[|{numbers})(\d+)", lambda found: f"{found[1]}{int(found[2]) + first}", text)
