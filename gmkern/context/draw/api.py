"""The public function that draws sets of training points."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from gmkern import _backend, _validate
from gmkern._validate import ArrayLike
from gmkern.context.draw import ops, reference
from gmkern.random.api import SampleIds

_MOST = (1 << 31) - 1  # points


class Draw(NamedTuple):
    """What :func:`draw` returns."""

    indices: Tensor
    """[n, size] int64: which rows of ``train``, in the order in which they were drawn."""
    points: Tensor
    """[n, size, ...]: those rows."""


def draw(
    train: ArrayLike,
    n: int,
    size: int = 10,
    *,
    seed: int | Tensor,
    sample_ids: SampleIds | None = None,
    backend: str | None = None,
) -> Draw:
    """``n`` sets of ``size`` distinct training points each, drawn and gathered in one pass.

    Parameters
    ----------
    train : [M, ...] of any dtype, M < 2^31. An ``np.memmap`` stays where it is: only rows that are drawn are read.
    n : how many sets, 0 or more.
    size : points in a set, 1 to M.
    seed : int, taken modulo 2^64, or an int64 tensor [] or [n].
    sample_ids : [n] int64 or int32, or a sequence or an array of ints from -2^63 to 2^63 - 1: which sets to draw;
        0 to n - 1 unless given.
    backend : None, "cpu" (C++), "triton" (CUDA; up to 1,024 points a set) or "reference" (plain PyTorch, any device):
        the same indices.

    Returns
    -------
    Draw(indices [n, size] int64, points [n, size, ...] of ``train``'s dtype).

    Raises
    ------
    TypeError, ValueError : naming the argument, what it got and what it takes.

    Notes
    -----
    Within a set the points are distinct by construction: a set is the first ``size`` places of a Fisher-Yates shuffle
    (Durstenfeld, Comm. ACM, 1964), each ordered choice with the same probability to within M 2^-64. Sets are
    independent of each other, so that a point may be in several. Set i is a function of (seed, sample_ids[i], M) alone,
    and a smaller ``size`` gives a set's first points. ``points`` are differentiable with respect to ``train``. Works
    under ``torch.compile(fullgraph=True)`` and in CUDA graphs; give the seed as a tensor there, so that replays differ.

    Examples
    --------
    >>> import torch
    >>> from gmkern import context
    >>> train = torch.randn(500, 28, 28)
    >>> indices, points = context.draw(train, n=64, size=10, seed=0)
    >>> points.shape
    torch.Size([64, 10, 28, 28])
    >>> bool((points == train[indices]).all())
    True
    """
    points = _validate.tensor("train", train)
    rows = _validate.integer("n", n, low=0)
    if points.ndim < 1 or points.shape[0] > _MOST:
        raise _validate.bad("train", points, "shape [M, ...] with M < 2^31")
    count = _validate.integer("size", size, low=1)
    if count > points.shape[0]:
        raise _validate.bad("size", str(size), f"at most {points.shape[0]}, the number of points in train")
    ids = _validate.sample_ids(sample_ids, points.device, rows=rows)
    key = _validate.seed(seed, points.device, rows=rows)
    _validate.no_tangents("context.draw", points)
    candidates = [
        ("cpu", _backend.on_cpu(points.device)),
        ("triton", _on_triton(points, count)),
        ("reference", None),
    ]
    chosen = _backend.choose("context.draw", backend, candidates)
    draw_sets: Callable[..., tuple[Tensor, Tensor]] = ops.draw_sets
    if chosen == "reference":
        draw_sets = reference.draw_sets
    elif chosen == "triton" and points.device.type == "cpu":
        from gmkern.context.draw import triton_kernels  # in the interpreter

        draw_sets = triton_kernels.draw_sets
    gathered, indices = draw_sets(points.contiguous(), key, ids, count)
    return Draw(indices, gathered)


def _on_triton(points: Tensor, size: int) -> str | None:
    """Why the Triton kernel cannot draw sets of this size, or None."""
    if size > ops.MOST_ON_TRITON:
        return f"takes sets of up to {ops.MOST_ON_TRITON} points, got {size}"
    if points.device.type == "cpu" and torch.is_grad_enabled() and points.requires_grad:
        return "takes CUDA tensors where a gradient is wanted"
    return _backend.on_triton(points.device)
