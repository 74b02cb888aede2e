"""Picks the backend that serves a call, and collects the reasons against the others.

An op names its backends in order of preference, each with the reason why it cannot serve this call, or None. Nothing
falls back in silence: a backend named by the user either serves or raises, with every backend tried and why not.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Sequence

import torch

from gmkern._library import ops

# Read once, so that a compiled caller sees constants.
_CUDA = bool(ops.has_cuda())
_TRITON = importlib.util.find_spec("triton") is not None
_TRITON_INTERPRETS = _TRITON and os.environ.get("TRITON_INTERPRET", "0").lower() in ("1", "true", "on", "yes")

BACKENDS = ("reference", "cpu", "cuda", "triton")
ISAS = ("baseline", "avx2", "avx512")


def choose(op: str, requested: str | None, candidates: Sequence[tuple[str, str | None]]) -> str:
    """The backend for this call of ``op``.

    Parameters
    ----------
    op : the public function's name, for the error.
    requested : what the user passed as ``backend``; None takes the first candidate that can serve.
    candidates : (backend, why it cannot serve this call or None), best first.

    Raises
    ------
    ValueError : the name is unknown, the named backend cannot serve, or none can.
    """
    if requested is not None and requested not in BACKENDS:
        raise ValueError(f"backend: got {requested!r}; takes None or one of {', '.join(map(repr, BACKENDS))}")
    reasons = dict(candidates)
    if requested is None:
        for name, reason in candidates:
            if reason is None:
                return name
    elif reasons.get(requested, "not a backend of this op") is None:
        return requested
    tried = "; ".join(f"{name}: {reasons.get(name) or 'can serve'}" for name in reasons)
    if requested is not None and requested not in reasons:
        tried = f"{requested}: not a backend of this op; {tried}"
    wanted = f"backend {requested!r} cannot" if requested is not None else "no backend can"
    raise ValueError(f"{op}: {wanted} serve this call ({tried})")


def on_cpu(device: torch.device) -> str | None:
    """Why the C++ CPU kernels cannot serve tensors on ``device``, or None."""
    return None if device.type == "cpu" else f"takes CPU tensors, got {device}"


def on_cuda(device: torch.device) -> str | None:
    """Why the CUDA C++ kernels cannot serve tensors on ``device``, or None."""
    if device.type != "cuda":
        return f"takes CUDA tensors, got {device}"
    return None if has_cuda() else "this build of gmkern has no CUDA kernels (build with GMKERN_CUDA=1)"


def on_triton(device: torch.device) -> str | None:
    """Why the Triton kernels cannot serve tensors on ``device``, or None."""
    if not has_triton():
        return "the package triton is not installed"
    if device.type == "cuda" or triton_interprets():
        return None
    return f"takes CUDA tensors (or CPU tensors under TRITON_INTERPRET=1), got {device}"


def has_cuda() -> bool:
    """Whether CUDA kernels are in this build of the library."""
    return _CUDA


def has_triton() -> bool:
    """Whether the package triton is installed."""
    return _TRITON


def triton_interprets() -> bool:
    """Whether Triton runs in its interpreter: TRITON_INTERPRET=1 when gmkern was imported."""
    return _TRITON_INTERPRETS


def isa() -> str:
    """The CPU instruction set in use: baseline, avx2 or avx512 (``GMKERN_ISA`` overrides)."""
    return ISAS[int(ops.isa())]
