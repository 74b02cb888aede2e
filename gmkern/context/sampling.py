"""Samples from a network that is shown a few training points."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from gmkern import _progress, _validate
from gmkern._validate import ArrayLike
from gmkern.context.draw import draw
from gmkern.random.api import SampleIds, normal
from gmkern.random.streams import CONTEXT

_NOISE_STEP = 1  # of the stream; step 0 draws the sets


def sample(
    model: Callable[..., Tensor],
    train: ArrayLike,
    n: int,
    size: int = 10,
    *,
    seed: int | Tensor,
    sample_ids: SampleIds | None = None,
    noise_dim: int = 0,
    batch_size: int = 1024,
    progress: bool = False,
    backend: str | None = None,
) -> Tensor:
    """``n`` samples: for each, ``size`` distinct training points are drawn and shown to ``model``.

    Parameters
    ----------
    model : points [B, size, ...] -> samples [B, ...]; with ``noise_dim`` > 0, (points, noise [B, noise_dim]) ->
        samples. Any function or module, :class:`SetTransformer` among them; run as it is (``eval()``, ``no_grad`` and
        devices are the caller's).
    train : [M, ...], a tensor, array or ``np.memmap``, as :func:`draw` takes it.
    n : how many samples, 0 or more.
    size : points in a set, 1 to M.
    seed : int, taken modulo 2^64, or an int64 tensor [] or [n].
    sample_ids : [n] int64 or int32, or a sequence or an array of ints from -2^63 to 2^63 - 1; 0 to n - 1 unless
        given.
    noise_dim : standard normal numbers (float32) that the model takes besides the points.
    batch_size : samples the model makes at a time, which bounds memory.
    progress : draw a progress bar on a terminal's standard error.
    backend : of sets and noise, as for :func:`draw` and :func:`gmkern.random.normal`; the network is PyTorch's.

    Returns
    -------
    Tensor [n, ...] of what the model gives.

    Raises
    ------
    TypeError, ValueError : naming the argument, what it got and what it takes.

    Notes
    -----
    Sets and noise of sample i are functions of (seed, sample_ids[i]) alone; what the network makes of them has the bits
    of PyTorch, which may change with ``batch_size``. Gradients flow to the model's parameters, and to ``train`` where
    that requires them.

    Examples
    --------
    >>> import torch
    >>> from gmkern import context
    >>> train = torch.randn(500, 64)
    >>> network = context.SetTransformer([64], noise_dim=8)
    >>> context.sample(network, train, n=100, size=10, seed=0, noise_dim=8).shape
    torch.Size([100, 64])
    """
    if not callable(model):
        raise _validate.bad("model", model, "a function or module of points [B, size, ...]", error=TypeError)
    rows = _validate.integer("n", n, low=0)
    width = _validate.integer("noise_dim", noise_dim, low=0)
    batch = _validate.integer("batch_size", batch_size, low=1)
    device = train.device if isinstance(train, Tensor) else torch.device("cpu")
    ids = _validate.sample_ids(sample_ids, device, rows=rows)
    key = _validate.seed(seed, device, rows=rows)
    made = []
    with _progress.bar(progress, "sample", rows) as show:
        for first in range(0, max(rows, 1), batch):
            part = slice(first, first + batch)
            some, mine = ids[part], key[part] if key.ndim else key
            points = draw(train, len(some), size, seed=mine, sample_ids=some, backend=backend).points
            noise = (normal(mine, some, _NOISE_STEP, width, stream=CONTEXT, backend=backend),) if width else ()
            x = model(points, *noise)
            if not isinstance(x, Tensor) or x.ndim < 1 or x.shape[0] != len(some):
                raise _validate.bad("model", f"{_validate.describe(x)} from it", f"a tensor [{len(some)}, ...]")
            made.append(x)
            show(min(first + batch, rows))
    return torch.cat(made)
