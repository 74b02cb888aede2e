"""What a rank was asked, argument by argument in few characters, so that ranks can tell where they differ."""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gmkern import _validate

_SHOWN = 60  # characters of a number or a text; a longer one is cut, and ends in a checksum of all
_PLAIN = {type(None), bool, int, float, str}


def asked(**arguments: Any) -> dict[str, str]:
    """Each argument, and each field of one that is a dataclass (``params.temperature``), as text.

    Numbers and texts are shown; tensors, arrays and lists of them have a checksum. What has no value that could be
    compared, such as a module or a function, is "given".
    """
    return {name: text for key, value in arguments.items() for name, text in _parts(key, value)}


def _parts(name: str, value: Any) -> Iterator[tuple[str, str]]:
    if not dataclasses.is_dataclass(value) or isinstance(value, type):
        yield name, _text(value)
        return
    yield name, type(value).__name__
    for field in dataclasses.fields(value):
        yield from _parts(f"{name}.{field.name}", getattr(value, field.name))


def _text(value: Any) -> str:
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, Tensor):
        own = value.detach().to("cpu", copy=True)  # numpy() fixes the size of a storage, which FSDP frees
        return f"{_validate.describe(value)}, {checksum(bytes_of(own).numpy())}"
    if isinstance(value, np.ndarray) and not value.dtype.hasobject:
        return f"{_validate.describe(value)}, {checksum(value.tobytes())}"
    if isinstance(value, (list, tuple, range)):
        if _PLAIN.issuperset(map(type, value)):
            return _cut(repr(list(value)))
        every = "\n".join(map(_text, value))
        return f"{len(value)} items, {checksum(every.encode())}"
    return _cut(repr(value)) if type(value) in _PLAIN else "given"


def _cut(text: str) -> str:
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..., {checksum(text.encode())}"


def bytes_of(x: Tensor) -> Tensor:
    """Its bytes, as a view where it is contiguous."""
    # One expanded number is contiguous with stride 0, of which view() would make no bytes.
    return x.contiguous().as_strided((x.numel(),), (1,)).view(torch.uint8)


def checksum(held: Any) -> str:
    """Of bytes, or an array of them."""
    return f"checksum {zlib.crc32(held):08x}"
