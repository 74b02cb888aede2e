"""Public functions with drawn arguments: each call gives the reference's answer, or an error that names an argument.

A case is a function that draws valid arguments; :func:`fuzz` makes a test of it. In half of the examples the arguments
are valid, however strange their memory, and the call must succeed; in the other half one of them is spoiled, and an
error that names an argument is as good as the reference's answer.
"""

from __future__ import annotations

import inspect
import math
import re
import tempfile
import warnings
from collections.abc import Callable
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hypothesis import given, note
from hypothesis import strategies as st
from torch import Tensor

import gmkern
import gmkern.distributed
from gmkern.testing import relative_error

Draw = Callable[[st.SearchStrategy[Any]], Any]
FLOATS = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
WIDE = FLOATS[:2]
SIZES = st.sampled_from([1, 2, 3, 5, 8, 16, 17, 33])


def public(name: str) -> Any:
    """The public object of a dotted name below gmkern."""
    return reduce(getattr, name.split("."), gmkern)


# --- values, and the memory that they lie in ---------------------------------------------------------------------


def numbers(draw: Draw, shape: list[int], dtype: torch.dtype = torch.float32, kinds: str = "normal ties") -> Tensor:
    """A contiguous tensor: "normal" numbers, small integers with "ties", "tiny" (denormal) or "huge" ones."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 1 << 16)))
    kind = draw(st.sampled_from(kinds.split()))
    if kind == "ties":
        return torch.randint(-2, 3, shape, generator=generator).to(dtype)
    x = torch.randn(shape, generator=generator, dtype=torch.float64)
    limits = torch.finfo(dtype)
    return (
        (x * {"normal": 1.0, "tiny": limits.tiny / 8, "huge": limits.max / 8}[kind])
        .clamp(limits.min, limits.max)
        .to(dtype)
    )


def laid_out(draw: Draw, x: Tensor, *, arrays: bool = True) -> Any:
    """The same numbers in other memory: with strides, in an array, read-only, backwards, in the other byte order."""
    ways = ["as it is", "transposed", "every other", "inside", "expanded"]
    if arrays and x.dtype != torch.bfloat16:
        ways += ["array", "fortran", "backwards", "swapped", "read-only", "map"]
    way = draw(st.sampled_from(ways))
    note(f"a tensor {list(x.shape)} of {x.dtype}, {way}")
    if way == "transposed":
        return x.movedim(0, -1).contiguous().movedim(-1, 0) if x.ndim else x
    if way == "every other":
        return torch.stack([x, torch.full_like(x, 77)], -1)[..., 0]
    if way == "inside":  # of a larger one, whose border shows where it is read
        larger = torch.full([n + 2 for n in x.shape], 99, dtype=x.dtype)
        inner = larger[tuple(slice(1, n + 1) for n in x.shape)]
        inner.copy_(x)
        return inner
    if way == "expanded":
        return x if not x.ndim or not x.shape[0] or (x != x[:1]).any() else x[:1].expand(x.shape)
    if way in ("as it is", "transposed", "every other", "expanded"):
        return x
    array = x.numpy()
    if way == "fortran":
        return np.asfortranarray(array)
    if way == "backwards":
        return array[..., ::-1].copy()[..., ::-1] if x.ndim else array
    if way == "swapped":
        return array.astype(array.dtype.newbyteorder())
    if way == "read-only":
        array = array.copy()
        array.setflags(write=False)
    if way == "map" and array.size and x.ndim:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "map"
            array.tofile(path)
            return np.memmap(path, array.dtype, "r", shape=array.shape)  # the file lives as long as its map
    return array


# --- arguments that are wrong ----------------------------------------------------------------------------------------

_WRONG = [
    None, "text", b"", -1, 0, 1, 3, 2**70, -(2**63),
    1.5, -0.5, 1e300, math.nan, math.inf, True, 1j, [], [0, -1], ["a"], {},
    object(), torch.device("cpu"), torch.float16,
]  # fmt: skip
_SPOILED = (
    "wider", "narrower", "integers", "bools", "complex", "meta", "one more", "one fewer", "one axis more", "flat",
    "empty", "nan", "inf", "last nan", "negative", "sparse", "objects", "texts", "a number of it", "gradient", "list",
    "nested",
)  # fmt: skip


def _moderate(number: Any) -> Any:
    """An int may stand for a count, whose result must fit memory."""
    return number % 1000 if isinstance(number, int) and number > 1000 else number


def spoiled(draw: Draw, value: Any) -> Any:
    """Something else in the place of ``value``: of another kind, or the same tensor with one thing wrong."""
    if isinstance(value, np.ndarray) and value.dtype.isnative and all(s >= 0 for s in value.strides):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            value = torch.from_numpy(np.array(value))
    if not isinstance(value, Tensor) or draw(st.integers(0, 3)) == 0:
        return draw(st.sampled_from(_WRONG))
    how = draw(st.sampled_from(_SPOILED))
    note(f"spoiled: {how}")
    floating = value.is_floating_point()
    with torch.no_grad():
        if how in ("nan", "inf", "last nan", "negative"):
            if not value.numel():
                return value
            value = value.clone().contiguous()
            wrong = {"nan": math.nan, "last nan": math.nan, "inf": math.inf, "negative": -1.0}[how]
            value.view(-1)[-1 if how == "last nan" else 0] = (
                wrong if floating else -(2**62) if value.dtype == torch.int64 else 0
            )
            return value
        if how == "gradient":
            return value.detach().clone().requires_grad_() if floating else value.float()
        other = {
            "wider": lambda: value.double() if floating else value.to(torch.int64),
            "narrower": lambda: value.half() if floating else value.to(torch.int8),
            "integers": lambda: value.nan_to_num().clamp(-9, 9).to(torch.int64),
            "bools": lambda: value > 0,
            "complex": lambda: value.to(torch.complex64),
            "meta": lambda: value.to("meta"),
            "one more": lambda: torch.cat([value, value[:1]]) if value.ndim else value[None],
            "one fewer": lambda: value[..., :-1] if value.ndim else value,
            "one axis more": lambda: value[None],
            "flat": lambda: value.flatten(),
            "empty": lambda: value[:0] if value.ndim else value.new_empty(0),
            "sparse": lambda: value.float().to_sparse(),
            "objects": lambda: np.full(tuple(value.shape), None, dtype=object),
            "texts": lambda: np.full(tuple(value.shape), "x"),
            "a number of it": lambda: _moderate(value.flatten()[0].item()) if value.numel() else 0,
            "list": lambda: value.tolist(),
            "nested": lambda: torch.nested.nested_tensor([value.float().reshape(-1, 1)] * 2, layout=torch.jagged),
        }[how]
        return other()


# A bar is looked at by tests/cli; a group is a matter of several processes (tests/distributed).
_APART = ("progress", "group")

# --- the test of a case ------------------------------------------------------------------------------------------


def names_an_argument(error: Exception, names: list[str]) -> bool:
    """Whether an error begins with an argument's name (or one of its parts) and says what is wrong with it, or says why
    no backend serves the call."""
    text = str(error).split("\n", 1)[0]
    return bool(re.match(rf"({'|'.join(map(re.escape, names))})\b.*(: |takes)", text)) or "serve this call" in text


def numbers_of(result: Any) -> list[Any]:
    """The tensors and numbers of a result, one after another."""
    if isinstance(result, Tensor) or result is None or isinstance(result, (bool, int, float, str)):
        return [result]
    if isinstance(result, (tuple, list)):
        return [part for each in result for part in numbers_of(each)]
    if hasattr(result, "__dataclass_fields__"):
        return [part for name in result.__dataclass_fields__ for part in numbers_of(getattr(result, name))]
    raise AssertionError(f"a result of type {type(result)}")


def assert_same(got: Any, want: Any, rounding: float) -> None:
    """Integers are equal, and floats within ``rounding`` of the largest finite magnitude that stands beside them."""
    got, want = numbers_of(got), numbers_of(want)
    assert len(got) == len(want)
    for one, other in zip(got, want, strict=True):
        if isinstance(one, (float, Tensor)) and isinstance(other, (float, Tensor)):
            one, other = torch.as_tensor(one).detach(), torch.as_tensor(other).detach()
            assert one.dtype == other.dtype
            if not one.is_floating_point() or rounding == 0.0:
                assert torch.equal(one.nan_to_num(12345.0), other.nan_to_num(12345.0)), (one, other)
                continue
            finite = other.double().abs()
            finite = finite[torch.isfinite(finite)]
            largest = max(float(finite.max()) if finite.numel() else 0.0, 1e-30)
            assert relative_error(one, other, largest) <= rounding, (one, other)
        else:
            assert type(one) is type(other), (one, other)
            assert one == other


def fuzz(
    name: str,
    *,
    rounding: float = 0.0,
    against: Callable[..., Any] | None = None,
    call: Callable[..., Any] | None = None,
    like: str | None = None,
    of: Callable[[], Any] | None = None,
    show: Callable[[Any], Any] = lambda result: result,
    keep: tuple[str, ...] = (),
    also: tuple[str, ...] = (),
) -> Callable[[Callable[[Draw], dict[str, Any]]], Any]:
    """Makes a test of a case that draws valid arguments of the public function or class ``name``.

    Parameters
    ----------
    rounding : as :func:`assert_same`; 0 asks for the same bits.
    against : gives the right answer for the same arguments; None: the function with ``backend="reference"``, or, where
        it has no backend, itself once more.
    call : what to call in its place.
    like : the public function that has its signature.
    of : gives the object whose method it is.
    show : what is compared of a result.
    keep : arguments that are not spoiled.
    also : further words that an error may begin with, such as the name of an object's part.
    """
    function = public(name) if of is None else getattr(of(), name.rpartition(".")[2])
    parameters = [
        each for each in inspect.signature(public(like) if like else function).parameters if each not in _APART
    ]
    spoilable = [each for each in parameters if each not in keep]
    function = call or function

    def right(**arguments: Any) -> Any:
        if against is not None:
            return against(**arguments)
        return function(**arguments | ({"backend": "reference"} if "backend" in parameters else {}))

    def make(case: Callable[[Draw], dict[str, Any]]) -> Any:
        @given(st.data())
        def test(data: st.DataObject) -> None:
            arguments = case(data.draw)
            wrong = data.draw(st.booleans(), label="spoil")
            if wrong:
                which = data.draw(st.sampled_from(spoilable))
                arguments[which] = spoiled(data.draw, arguments.get(which))
                note(f"{which} = {arguments[which]!r}")
            refused = None
            try:
                got = function(**arguments)
            except (TypeError, ValueError, RuntimeError) as error:
                note(f"{type(error).__name__}: {error}")
                refused = error
            if refused is None:
                assert_same(show(got), show(right(**arguments)), rounding)
            else:
                assert wrong, "valid arguments were refused"
                assert names_an_argument(refused, [*parameters, *also]), f"names no argument: {refused}"

        test.__doc__ = case.__doc__
        return test

    return make
