"""Samples from files: .npy, .npz, .pt, or a folder of images. Nothing that could run code is ever loaded."""

from __future__ import annotations

import math
import os
import pickle
import zipfile
import zlib
from collections.abc import Mapping
from functools import reduce
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

_DTYPES = {
    *(torch.bool, torch.uint8, torch.int8, torch.int16, torch.uint16, torch.int32, torch.uint32, torch.int64),
    *(torch.uint64, torch.bfloat16, torch.float16, torch.float32, torch.float64, torch.complex64, torch.complex128),
}
PICTURES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")


class Loaded(NamedTuple):
    """Samples [N, D] as they are stored, floating or not, and the shape of one if it has more than one dimension."""

    points: Tensor
    shape: tuple[int, ...]


class NotLoaded(Exception):
    """What is wrong with a file, in a line that names it."""


def load(place: str) -> Loaded:
    """The samples at PATH, or PATH:NAME where a .npz or .pt file holds several arrays.

    .npy files and .pt files are memory-mapped. Images become pixels, 0 to 255: [H, W] where all are grey, else [H, W,
    3].

    Raises
    ------
    NotLoaded : no such file, another format, a pickle, an empty file, several arrays and no name, or images whose sizes
        differ.
    """
    path, name = _path_and_name(place)
    if path.is_dir():
        stored = _pictures(path)
    elif path.suffix == ".npy":
        stored = _array(path)
    elif path.suffix == ".npz":
        stored = _archived(path, name)
    elif path.suffix in (".pt", ".pth"):
        stored = _saved(path, name)
    else:
        raise NotLoaded(f"{path}: takes .npy, .npz, .pt, or a folder of images, not {path.suffix or 'this'}")
    if stored.ndim < 2 or stored.numel() == 0:
        raise NotLoaded(
            f"{place}: holds shape {list(stored.shape)}; takes samples [N, ...] of one or more numbers each"
        )
    if stored.is_complex():
        raise NotLoaded(f"{place}: holds {str(stored.dtype).removeprefix('torch.')}; takes real numbers")
    shape = tuple(stored.shape[1:])
    return Loaded(stored.reshape(len(stored), math.prod(shape)), shape)


def alike(*sets: Tensor) -> list[Tensor]:
    """Sets in one floating dtype that holds them all: bytes and short integers are float32, long ones float64."""
    short = (torch.bool, torch.uint8, torch.int8, torch.int16, torch.uint16)

    def floating(dtype: torch.dtype) -> torch.dtype:
        return dtype if dtype.is_floating_point else torch.float32 if dtype in short else torch.float64

    wide = reduce(torch.promote_types, (floating(one.dtype) for one in sets))
    return [one.to(wide) for one in sets]


def _path_and_name(place: str) -> tuple[Path, str | None]:
    path = Path(place)
    if place and os.path.exists(path):  # unlike Path.exists, False for a name that is too long
        return path, None
    start, colon, name = place.rpartition(":")
    if colon and os.path.isfile(start):
        if Path(start).suffix not in (".npz", ".pt", ".pth"):
            raise NotLoaded(f"{start}: holds one array, and {name!r} names none of several")
        return Path(start), name
    raise NotLoaded(f"{place}: no such file or folder")


def _array(path: Path) -> Tensor:
    try:
        # Copy on write: torch takes arrays that may be written to without a copy, and the file is never written to.
        found = np.load(path, mmap_mode="c" if path.stat().st_size > 1 << 20 else None, allow_pickle=False)
    except (ValueError, EOFError, OSError, MemoryError) as error:
        raise NotLoaded(f"{path}: {_why(path, error)}") from error
    return _tensor(path, found)


def _archived(path: Path, name: str | None) -> Tensor:
    try:
        with np.load(path, allow_pickle=False) as archive:
            return _tensor(path, archive[_chosen(path, list(archive.files), name)])
    except (ValueError, EOFError, OSError, MemoryError, zipfile.BadZipFile, zlib.error) as error:
        raise NotLoaded(f"{path}: {_why(path, error)}") from error


def _saved(path: Path, name: str | None) -> Tensor:
    if path.stat().st_size == 0:
        raise NotLoaded(f"{path}: the file is empty")
    try:
        found = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        raise NotLoaded(
            f"{path}: holds more than tensors, and pickled objects are not loaded: they could run code"
        ) from error
    except (RuntimeError, ValueError, EOFError, OSError) as error:
        raise NotLoaded(f"{path}: not a file of torch.save") from error
    if isinstance(found, Mapping):
        tensors = {str(key): value for key, value in found.items() if isinstance(value, Tensor)}
        found = tensors[_chosen(path, list(tensors), name)]
    elif name is not None:
        raise NotLoaded(f"{path}: holds one value, and {name!r} names none of several")
    if not isinstance(found, Tensor) or found.layout != torch.strided or found.is_nested:
        raise NotLoaded(f"{path}: holds no dense tensor, and no dict of them")
    if found.dtype not in _DTYPES:
        raise NotLoaded(f"{path}: holds dtype {str(found.dtype).removeprefix('torch.')}; takes a plain dtype")
    return found.detach()


def _chosen(path: Path, names: list[str], name: str | None) -> str:
    if name is None and len(names) == 1:
        return names[0]
    if name is None or name not in names:
        what = "no array" if not names else ", ".join(names)
        asked = f"{name!r} is none of them" if name is not None else f"name one: {path}:NAME"
        raise NotLoaded(f"{path}: holds {what}; {asked}")
    return name


def _tensor(path: Path, found: np.ndarray | bytes) -> Tensor:
    if isinstance(found, bytes):  # what an archive holds beside arrays
        raise NotLoaded(f"{path}: holds something that is not an array")
    if found.dtype.kind not in "biufc" or found.dtype.itemsize > 8 * (1 + (found.dtype.kind == "c")):
        raise NotLoaded(f"{path}: holds dtype {found.dtype}; takes numbers of up to 64 bits")
    if not found.dtype.isnative:
        found = found.astype(found.dtype.newbyteorder("="))
    return torch.from_numpy(found)


def _why(path: Path, error: Exception) -> str:
    if path.stat().st_size == 0:
        return "the file is empty"
    if "allow_pickle" in str(error) or "Object arrays" in str(error):
        return "holds pickled objects, which are not loaded: they could run code"
    return f"not a readable {path.suffix} file ({error})"


def _pictures(folder: Path) -> Tensor:
    from PIL import Image, UnidentifiedImageError

    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in PICTURES)
    if not files:
        raise NotLoaded(f"{folder}: holds no images ({', '.join(PICTURES)})")
    try:
        path = files[0]
        with Image.open(path) as picture:
            size = picture.size
        grey = True
        for path in files:
            with Image.open(path) as picture:
                grey &= picture.mode in ("1", "L")
                if picture.size != size:
                    raise NotLoaded(
                        f"{path}: {picture.size[0]} × {picture.size[1]} pixels, but {files[0].name} has "
                        f"{size[0]} × {size[1]}; takes images of one size"
                    )
        pixels = np.empty((len(files), size[1], size[0], *([] if grey else [3])), dtype=np.uint8)
        for at, path in enumerate(files):
            with Image.open(path) as picture:
                pixels[at] = np.asarray(picture.convert("L" if grey else "RGB"))
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise NotLoaded(f"{path}: not a readable image ({error})") from error
    return torch.from_numpy(pixels)
