"""Ctrl-C in the midst of compiled work.

Python runs the handlers of signals in its main thread, between its own instructions: while that thread is in a compiled
op, they wait. An op that is called through :func:`audible` stops for them about four times a second, and goes on where
it was, or raises what a handler raised (KeyboardInterrupt). Where it stops never changes a bit of the result.
"""

from __future__ import annotations

import ctypes
import itertools
import threading
from collections.abc import Callable
from typing import Any

import torch

from gmkern._library import ops

_MAIN = threading.main_thread().ident
_numbers = itertools.count(1)
_call = ctypes.c_int64(0)  # the number of the call that may be interrupted, read by csrc/common/ear.cpp; 0: none
_take_raised = ops.take_raised.default


def _address(function: Any) -> int:
    return ctypes.cast(function, ctypes.c_void_p).value or 0


_C = ctypes.PyDLL(None)  # the interpreter's own functions
_C.PyErr_Restore.argtypes = [ctypes.c_void_p] * 3
_C.PyErr_Restore.restype = None
_NEEDED = (_C.PyGILState_Ensure, _C.PyGILState_Release, _C.PyErr_CheckSignals, _C.PyErr_Fetch)
ops.set_interpreter([ctypes.addressof(_call), _MAIN, *(_address(function) for function in _NEEDED)])


def audible(op: Callable[..., Any]) -> Callable[..., Any]:
    """``op``, such that signals are heard while it runs; the op itself in a compiled graph and in other threads."""

    def call(*arguments: Any) -> Any:
        if torch.compiler.is_compiling() or threading.get_ident() != _MAIN:
            return op(*arguments)
        outer = _call.value  # not 0 in the handler of a signal that came during a call
        _call.value = next(_numbers)
        try:
            return op(*arguments)
        except RuntimeError:
            raised = _take_raised()
            if any(raised):
                _C.PyErr_Restore(*raised)  # raises it here
            raise
        finally:
            _call.value = outer

    return call
