"""Turns arguments into tensors and says what is wrong with those it cannot take.

Every message has one form: the argument's name, what it got, what it takes.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import Any, TypeGuard

import numpy as np
import torch
from torch import Tensor
from torch.autograd import forward_ad

ArrayLike = Tensor | np.ndarray

_MASK64 = (1 << 64) - 1
_MOST_INT = (1 << 63) - 1
_INT64 = "ints from -2^63 to 2^63 - 1"


def describe(value: Any) -> str:
    """What an argument is, in a few words."""
    if isinstance(value, (Tensor, np.ndarray)):
        kind = "a tensor" if isinstance(value, Tensor) else "an array"
        return f"{kind} of shape {list(value.shape)} and dtype {str(value.dtype).removeprefix('torch.')}"
    return f"{value!r} ({type(value).__name__})"


def bad(name: str, got: Any, takes: str, *, error: type[Exception] = ValueError) -> Exception:
    """The error for a bad argument; ``got`` is text as it is, or a value to be described."""
    return error(f"{name}: got {got if isinstance(got, str) else describe(got)}; takes {takes}")


def tensor(
    name: str,
    value: Any,
    *,
    ndim: int | Sequence[int] | None = None,
    dtypes: Sequence[torch.dtype] | None = None,
    device: torch.device | None = None,
) -> Tensor:
    """``value`` as a tensor (NumPy arrays without a copy where torch can), its shape and dtype checked."""
    if isinstance(value, np.ndarray):
        if value.dtype.hasobject or value.dtype.kind not in "biuf" or value.dtype.itemsize > 8:
            raise bad(name, value, "an array of numbers of at most 64 bits", error=TypeError)
        if isinstance(value, np.ma.MaskedArray):
            raise bad(name, "a masked array, whose mask a tensor has not", "an array without one", error=TypeError)
        if not value.dtype.isnative or any(s < 0 for s in value.strides):
            value = np.array(value, dtype=value.dtype.newbyteorder("="))
        with warnings.catch_warnings():  # nothing here writes to what it is given: a read-only memory map stays one
            warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
            value = torch.from_numpy(value)
    if not isinstance(value, Tensor):
        raise bad(name, value, "a tensor or a NumPy array", error=TypeError)
    if value.is_nested:
        raise bad(name, "a nested tensor", "a dense real tensor", error=TypeError)
    if value.layout != torch.strided or value.is_quantized or value.is_complex():
        raise bad(
            name, f"a tensor of layout {value.layout} and dtype {value.dtype}", "a dense real tensor", error=TypeError
        )
    if value.device.type == "meta":
        raise bad(name, "a tensor on meta, which holds no numbers", "a tensor on a CPU or a GPU")
    if dtypes is not None and value.dtype not in dtypes:
        takes = "dtype " + ", ".join(str(d).removeprefix("torch.") for d in dtypes)
        raise bad(name, value, takes, error=TypeError)
    if ndim is not None and value.ndim not in ((ndim,) if isinstance(ndim, int) else tuple(ndim)):
        takes = f"{ndim}" if isinstance(ndim, int) else " or ".join(map(str, ndim))
        raise bad(name, value, f"{takes} dimensions")
    if device is not None and value.device != device:
        raise bad(name, f"a tensor on {value.device}", f"a tensor on {device}, where the other arguments are")
    return value


def integer(name: str, value: Any, *, low: int | None = None, high: int | None = None) -> int:
    """``value`` as an int in [low, high]; bools and fractions are refused. SymInts pass through.

    With ``low`` alone it is a count, which 64 bits must hold.
    """
    if isinstance(value, torch.SymInt):
        return value  # type: ignore[return-value]
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise bad(name, value, "an int", error=TypeError)
    if low is not None and high is None and value > _MOST_INT:
        high = _MOST_INT
    if (low is not None and value < low) or (high is not None and value > high):
        limits = f"{'' if low is None else f'>= {low}'}{' and ' if low is not None and high is not None else ''}"
        raise bad(name, str(value), f"an int {limits}{'' if high is None else f'<= {high}'}")
    return int(value)


def number(
    name: str, value: Any, *, low: float | None = None, high: float | None = None, above: float | None = None
) -> float:
    """``value`` as a finite float in [low, high], or strictly above ``above``."""
    if not is_number(value):
        raise bad(name, value, "a number", error=TypeError)
    result = as_float(value)
    inside = (low is None or result >= low) and (high is None or result <= high) and (above is None or result > above)
    if not (-math.inf < result < math.inf and inside):  # torch.compile takes comparisons of a number that varies
        bounds = ((low, ">="), (high, "<="), (above, ">"))
        limits = " and ".join(f"{sign} {bound}" for bound, sign in bounds if bound is not None)
        raise bad(name, repr(value), f"a finite number {limits}".strip())
    return result


def is_number(value: Any) -> TypeGuard[int | float | np.integer[Any] | np.floating[Any]]:
    """Whether ``value`` is one number, of Python or NumPy, and no bool."""
    return isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)


def as_float(value: float | np.integer[Any] | np.floating[Any]) -> float:
    """``value`` as a float; an int beyond the largest is infinite."""
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def flag(name: str, value: Any) -> bool:
    """``value`` if it is a bool; texts and numbers, whose truth may surprise, are refused."""
    if not isinstance(value, (bool, np.bool_)):
        raise bad(name, describe(value), "True or False", error=TypeError)
    return bool(value)


def one_of(name: str, value: Any, names: Sequence[str]) -> str:
    """``value`` if it is one of ``names``."""
    if not isinstance(value, str) or value not in names:
        raise bad(name, repr(value), "one of " + ", ".join(map(repr, names)))
    return str(value)


def sequence(name: str, value: Any, takes: str) -> list[Any]:
    """The items of ``value``, which is a list, a tuple, an array or a tensor of one dimension or more."""
    if isinstance(value, (Tensor, np.ndarray)):
        value = tensor(name, value).tolist()
    if not isinstance(value, Sequence) or isinstance(value, (str, bytes)):
        raise bad(name, describe(value), takes, error=TypeError)
    return list(value)


def is_listed(value: Any) -> TypeGuard[Sequence[Any]]:
    """Whether ``value`` is a list, a tuple, a range or the like, and no text."""
    return isinstance(value, Sequence) and not isinstance(value, (str, bytes))


def device(name: str, value: Any) -> torch.device:
    """``value`` as a device that holds numbers."""
    try:
        found = torch.device(value)
    except (TypeError, ValueError, RuntimeError):
        raise bad(name, describe(value), "a device, such as 'cpu' or 'cuda:0'") from None
    if found.type == "meta":
        raise bad(name, "meta", "a device that holds numbers")
    if found.type == "cuda" and not torch.cuda.is_available():
        raise bad(name, str(found), "'cpu': torch finds no GPU")
    return found


def seed(value: Any, device: torch.device, *, name: str = "seed", rows: int | None = None) -> Tensor:
    """A seed as an int64 tensor of shape [] (or [rows]) on ``device``; an int is taken modulo 2^64."""
    if isinstance(value, Tensor):
        return _per_row(name, value, device, rows)
    word = integer(name, value) & _MASK64
    return torch.full((), word - (1 << 64) if word >> 63 else word, dtype=torch.int64, device=device)


def step(value: Any, device: torch.device, *, name: str = "step", rows: int | None = None) -> Tensor:
    """A step as an int64 tensor of shape [] (or [rows]) on ``device``; the contract takes 0 to 2^32 - 1."""
    if isinstance(value, Tensor):
        return _per_row(name, value, device, rows)
    return torch.full((), integer(name, value, low=0, high=(1 << 32) - 1), dtype=torch.int64, device=device)


def sample_ids(value: Any, device: torch.device, *, rows: int | None = None, name: str = "sample_ids") -> Tensor:
    """Sample ids as a contiguous int64 tensor [rows] on ``device``; None stands for 0, 1, ..., rows - 1."""
    if value is None and rows is not None:
        return torch.arange(rows, dtype=torch.int64, device=device)
    if isinstance(value, np.ndarray) or is_listed(value):
        value = torch.from_numpy(int64s(name, value)).to(device)
    elif not isinstance(value, Tensor):
        raise bad(name, value, "an int64 or int32 tensor, or an array or a sequence of ints", error=TypeError)
    ids = tensor(name, value, ndim=1, dtypes=(torch.int64, torch.int32), device=device)
    if rows is not None and ids.shape[0] != rows:
        raise bad(name, ids, f"shape [{rows}], one id a row")
    return ids.to(torch.int64).contiguous()


def int64s(name: str, value: np.ndarray | Sequence[Any]) -> np.ndarray:
    """An array, or a sequence, of ints of any kind that int64 holds."""
    try:
        array = np.asarray(value)
    except ValueError:  # sequences of several lengths
        array = np.asarray(value, dtype=object)
    if array.dtype.kind not in "iu" or array.dtype == np.uint64:  # what NumPy makes of [2^63, -1] is no int
        for item in array.flat if isinstance(value, np.ndarray) else value:
            if isinstance(item, (bool, np.bool_)) or not isinstance(item, (int, np.integer)):
                raise bad(name, f"{item!r} ({type(item).__name__}) in it", _INT64, error=TypeError)
            if not -_MOST_INT - 1 <= item <= _MOST_INT:
                raise bad(name, f"{item} in it", _INT64)
    return array.astype(np.int64)


def held(name: str, module: torch.nn.Module) -> None:
    """Refuses a module with parameters on meta, which hold no numbers."""
    for which, parameter in module.named_parameters():
        if parameter.is_meta:
            raise bad(name, f"a module whose {which} is on meta, which holds no numbers", "one with all of its weights")


def no_tangents(op: str, *tensors: Tensor) -> None:
    """Refuses forward-mode derivatives, which a custom op of torch would drop in silence."""
    if torch.compiler.is_compiling():
        return
    if any(forward_ad.unpack_dual(tensor).tangent is not None for tensor in tensors):
        raise RuntimeError(f"{op}: has no forward-mode derivative (jvp, jacfwd); reverse mode (backward) has one")


def _per_row(name: str, value: Tensor, device: torch.device, rows: int | None) -> Tensor:
    """[] or [rows]; one value for some other number of rows is []."""
    value = tensor(name, value, ndim=(0, 1), dtypes=(torch.int64, torch.int32), device=device)
    if value.ndim == 1 and rows is not None and value.shape[0] not in (1, rows):
        raise bad(name, value, f"one value or shape [{rows}]")
    if value.ndim == 1 and rows is not None and value.shape[0] != rows:
        value = value[0]
    return value.to(torch.int64).contiguous()
